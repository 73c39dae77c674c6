"""One NATS server with JetStream in one folder. Several that form a cluster are put together in cluster.py."""

import json
import pathlib
import shutil
import signal
import subprocess
import urllib.request

from . import certificates, install, server
from .paths import Problem
from .server import USER, USER_PASSWORD

PORTS = ("client", "monitor", "cluster")
AUTH = ("accounts", "operator")
BLOCKS = ("jetstream", "tls")  # which --set reaches into by BLOCK.NAME=VALUE
MORE = "more.conf"             # beside server.conf, included by it: a test's own lines, read again by `reload`


def _quoted(text):
    return json.dumps(str(text))


def _block(name, lines):
    return f"{name} {{\n" + "".join(f"  {key}: {value}\n" for key, value in lines.items()) + "}\n"


class Server(server.Server):
    """The server of one folder."""

    KIND, TITLE = "nats", "NATS server"

    def start(self, **how):
        """Makes a server in an empty or new folder and waits until it serves; `how` as in `make`."""
        self.begin(lambda: self.make(self.reserve(PORTS), **how))

    def make(self, ports, number=1, routes=(), old=False, tls=False, auth=None, config=None, settings=()):
        """Writes the configuration; nothing is started. `routes`: the cluster ports of all, where it is one of several;
        `auth`: who may come, by accounts of the configuration or by an operator's signature; `config`: a file with
        more lines, copied to more.conf."""
        state = {"kind": self.KIND, "ports": ports, "old": old, "tls": tls, "auth": auth}
        (self.folder / "data").mkdir(exist_ok=True)
        if tls:
            install.tools()
            certificates.make(self.folder / "tls")
        if config is not None:
            shutil.copy(config, self.folder / MORE)
        else:
            (self.folder / MORE).touch()
        lines = {"listen": _quoted(f"127.0.0.1:{ports['client']}"), "http": _quoted(f"127.0.0.1:{ports['monitor']}"),
                 "server_name": f"n{number}"}
        blocks = {"jetstream": {"store_dir": _quoted(self.folder / "data")}}
        if tls:
            at = self.folder / "tls"
            blocks["tls"] = {"cert_file": _quoted(at / "server.pem"), "key_file": _quoted(at / "server.key"),
                             "ca_file": _quoted(at / "ca.pem")}
        if routes:
            urls = ", ".join(_quoted(f"nats://127.0.0.1:{port}") for port in routes)
            blocks["cluster"] = {"name": "clb", "listen": _quoted(f"127.0.0.1:{ports['cluster']}"),
                                 "routes": f"[{urls}]"}
        for name, value in map(server.setting, settings):
            block, dot, rest = name.partition(".")
            if dot and block in BLOCKS:
                blocks.setdefault(block, {})[rest] = value
            else:
                lines[name] = value
        text = "".join(f"{key}: {value}\n" for key, value in lines.items())
        text += "".join(_block(name, inner) for name, inner in blocks.items())
        if auth:
            text += self._who_may_come(auth, routes)
        (self.folder / "server.conf").write_text(text + f'include "{MORE}"\n')
        self.write(state)

    def _who_may_come(self, auth, routes):
        # One cluster has one set of identities, beside its servers.
        at = (self.folder.parent if routes else self.folder) / "identities"
        if not at.exists():
            script = pathlib.Path(__file__).with_name("identities.py")
            done = subprocess.run([str(install.python()), str(script), str(at)], capture_output=True, text=True)
            if done.returncode:
                raise Problem(f"making NATS identities in {at} failed: {done.stderr.strip()}")
        if at.parent != self.folder:
            shutil.copytree(at, self.folder / "identities")
        return (self.folder / "identities" / f"{auth}.conf").read_text()

    def environment(self, state=None):
        """What a test needs to know, as environment variables."""
        state = state or self.state()
        port, at = state["ports"], self.folder / "identities"
        known = {
            "NATS_URL": f"{'tls' if state['tls'] else 'nats'}://127.0.0.1:{port['client']}",
            "NATS_MONITOR": f"http://127.0.0.1:{port['monitor']}",
            "NATS_DIR": str(self.folder),
            "NATS_PID": str(state.get("process", {}).get("pid", "")),
            "NATS_VERSION": "old" if state["old"] else "new",
        }
        if state["tls"]:
            known |= certificates.environment("NATS", self.folder / "tls")
        if state["auth"] == "accounts":
            known |= {"NATS_USER": USER, "NATS_PASSWORD": USER_PASSWORD, "NATS_NKEY": str(at / "user.nk")}
        if state["auth"] == "operator":
            known |= {"NATS_CREDS": str(at / "user.creds")}
        return known

    def launched_by(self, state):
        return [str(install.nats(state["old"])), "-c", str(self.folder / "server.conf")], None

    def serves(self, state):
        # The health of JetStream, which in a cluster waits for a leader too.
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{state['ports']['monitor']}/healthz", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def reload(self):
        """Has the server read its configuration again: server.conf and more.conf."""
        self.signal(signal.SIGHUP)
