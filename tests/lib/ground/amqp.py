"""One RabbitMQ node in one folder, with an epmd of its own, so that several can run beside each other."""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request

from . import certificates, install, processes, server
from .paths import Problem
from .server import USER, USER_PASSWORD

PORTS = ("plain", "management", "prometheus", "distribution", "epmd")
NODE = "clb@localhost"
PLUGINS = ("rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_consistent_hash_exchange", "rabbitmq_auth_mechanism_ssl")


class Server(server.Server):
    """The node of one folder."""

    KIND, TITLE = "amqp", "RabbitMQ"

    def start(self, tls=False, settings=()):
        """Makes a node in an empty or new folder and waits until it serves."""
        self.begin(lambda: self._make(tls, settings))

    def _make(self, tls, settings):
        ports = self.reserve([*PORTS, *(("tls",) if tls else ())])
        lines = {
            "listeners.tcp.1": f"127.0.0.1:{ports['plain']}",
            "management.tcp.ip": "127.0.0.1", "management.tcp.port": ports["management"],
            "prometheus.tcp.ip": "127.0.0.1", "prometheus.tcp.port": ports["prometheus"],
            "default_user": USER, "default_pass": USER_PASSWORD,
            "log.console": "true", "log.console.level": "info", "log.file": "false",
            # The write-ahead log of quorum queues is in memory too until it rolls over.
            "raft.wal_max_size_bytes": 64 << 20,
        }
        if tls:
            install.tools()
            certificates.make(self.folder / "tls")
            lines |= {
                "listeners.ssl.1": f"127.0.0.1:{ports['tls']}",
                "ssl_options.cacertfile": self.folder / "tls" / "ca.pem",
                "ssl_options.certfile": self.folder / "tls" / "server.pem",
                "ssl_options.keyfile": self.folder / "tls" / "server.key",
                # Who shows a certificate of this authority may say who it is by that alone (SASL EXTERNAL).
                "ssl_options.verify": "verify_peer", "ssl_options.fail_if_no_peer_cert": "false",
                "auth_mechanisms.1": "PLAIN", "auth_mechanisms.2": "AMQPLAIN", "auth_mechanisms.3": "EXTERNAL",
                "ssl_cert_login_from": "common_name",
            }
        lines |= dict(map(server.setting, settings))
        (self.folder / "home").mkdir()
        (self.folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
        (self.folder / "advanced.config").write_text("[].\n")
        (self.folder / "plugins").write_text(f"[{','.join(PLUGINS)}].\n")
        self.write({"kind": self.KIND, "ports": ports, "tls": tls})

    def environment(self, state=None):
        """What a test needs to know, as environment variables."""
        state = state or self.state()
        port, who = state["ports"], f"{USER}:{USER_PASSWORD}"
        known = {
            "AMQP_URL": f"amqp://{who}@127.0.0.1:{port['plain']}/%2f",
            "AMQP_MANAGEMENT": f"http://{who}@127.0.0.1:{port['management']}",
            "AMQP_DIR": str(self.folder),
            "AMQP_PID": str(state.get("process", {}).get("pid", "")),
            "AMQP_USER": USER, "AMQP_PASSWORD": USER_PASSWORD,
        }
        if state["tls"]:
            known |= {"AMQP_TLS_URL": f"amqps://{who}@localhost:{port['tls']}/%2f"}
            known |= certificates.environment("AMQP", self.folder / "tls")
        return known

    def _own(self, state):
        """The environment of the node and of its tools: nothing of another RabbitMQ's reaches them."""
        others = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        at = self.folder
        return others | {
            "HOME": str(at / "home"),  # where Erlang's cookie lies
            "ERL_EPMD_PORT": str(state["ports"]["epmd"]), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": NODE, "RABBITMQ_DIST_PORT": str(state["ports"]["distribution"]),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(at / "mnesia"), "RABBITMQ_LOG_BASE": str(at / "log"),
            "RABBITMQ_CONF_ENV_FILE": str(at / "no-env.conf"), "RABBITMQ_CONFIG_FILE": str(at / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(at / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(at / "plugins"),
            "RABBITMQ_PID_FILE": str(at / "pid"),
            "LANG": "C.UTF-8",
        }

    def launched_by(self, state):
        # The script then becomes the Erlang machine itself, so that its process is the one to kill.
        return [str(install.rabbitmq() / "sbin" / "rabbitmq-server")], self._own(state) | {"RUNNING_UNDER_SYSTEMD": "true"}

    def launch(self):
        """Starts epmd, where it does not run, and the node; nobody is waited for."""
        state = self.state()
        if not processes.alive(state.get("epmd")):
            port = str(state["ports"]["epmd"])
            command = [shutil.which("epmd") or "epmd", "-port", port, "-address", "127.0.0.1"]
            _, state["epmd"] = processes.spawn(command, self.folder / "epmd.log", self.folder)
            self.write(state)
            self._epmd_answers(state)
        super().launch()

    def _epmd_answers(self, state):
        end = time.monotonic() + 30
        command = [shutil.which("epmd") or "epmd", "-port", str(state["ports"]["epmd"]), "-names"]
        while subprocess.run(command, capture_output=True).returncode:
            if time.monotonic() > end or not processes.alive(state["epmd"]):
                raise Problem(f"epmd does not answer: see {self.folder / 'epmd.log'}")
            time.sleep(0.05)

    def serves(self, state):
        # The listener of records is the last to open; the management API tells that it has.
        port = state["ports"]
        url = f"http://127.0.0.1:{port['management']}/api/health/checks/port-listener/{port['plain']}"
        login = base64.b64encode(f"{USER}:{USER_PASSWORD}".encode()).decode()
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                return json.loads(answer.read())["status"] == "ok"
        except (OSError, ValueError, KeyError):
            return False

    def ctl(self, words):
        """Becomes rabbitmqctl for this node."""
        command = [str(install.rabbitmq() / "sbin" / "rabbitmqctl"), "-n", NODE, *words]
        os.execvpe(command[0], command, self._own(self.state()))

    def kill_if_running(self):
        """kill -9 of whatever is left, epmd too."""
        super().kill_if_running()
        self._end_epmd()

    def _end_epmd(self):
        who = server.noted(self.state_file).get("epmd")
        if processes.alive(who):
            processes.kill(who)

    def down(self, remove=False):
        """Ends the node and its epmd."""
        who = server.noted(self.state_file).get("process")
        if processes.alive(who):
            processes.end(who, 30)
        self._end_epmd()
        super().down(remove)
