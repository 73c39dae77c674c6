"""One real server in one folder: data, configuration, log, and state.json with its kind, its ports and its process.

The folder is the server's whole life: `restart` finds the same ports and data there, and every signal goes to the
process that state.json names, never to one found by its name. What differs by kind is in kafka.py, nats.py and
amqp.py; several that form a cluster are put together in cluster.py.
"""

import json
import pathlib
import shlex
import shutil
import signal
import time

from . import ports, processes
from .paths import Problem

STOP, CONT = signal.SIGSTOP, signal.SIGCONT
USER, USER_PASSWORD = "clbridge", "clbridge-secret"


def noted(path):
    """What a note says; nothing where there is none."""
    return json.loads(path.read_text() or "{}") if path.exists() else {}


def setting(text):
    """NAME=VALUE of --set, parted."""
    name, equals, value = text.partition("=")
    if not equals:
        raise Problem(f"--set wants NAME=VALUE, not '{text}'")
    return name.strip(), value.strip()


class Server:
    """The server of one folder. A kind says its name, `launched_by`, `serves`, `environment` and `_make`."""

    KIND = TITLE = ""
    PATIENCE = 300  # seconds until it must serve, on a busy machine too

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).absolute()
        self.state_file = self.folder / "state.json"
        self.log = self.folder / f"{self.KIND}.log"
        self._child = None

    def launched_by(self, state):
        """The command line, and the environment it needs (None: ours)."""
        raise NotImplementedError

    def serves(self, state):
        """Whether it answers and is whole."""
        raise NotImplementedError

    def environment(self, state=None):
        """What a test needs to know, as environment variables."""
        raise NotImplementedError

    def state(self):
        """What state.json says."""
        state = noted(self.state_file)
        if state.get("kind") != self.KIND or "ports" not in state:
            raise Problem(f"no {self.TITLE} in {self.folder}: 'tests/up {self.KIND} start {self.folder}' makes one")
        return state

    def write(self, state):
        """Writes state.json, and the variables for a shell beside it."""
        fresh = self.state_file.with_suffix(".new")
        fresh.write_text(json.dumps(state, indent=1))
        fresh.rename(self.state_file)
        (self.folder / "env").write_text("".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in self.environment(state).items()))

    def begin(self, make):
        """Makes, launches and waits; half a server is taken away again."""
        try:
            make()
            self.launch()
            self.wait()
        except BaseException:
            self.give_up()
            raise

    def reserve(self, names):
        """Takes the folder and a port for each name; returns them by name."""
        if self.state_file.exists():
            raise Problem(f"{self.folder} already holds a server: 'restart' it, or 'down' and remove the folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state_file.write_text(json.dumps({"kind": self.KIND}))  # the ports are ours as long as it exists
        return dict(zip(names, ports.reserve(len(names), self.state_file)))

    def give_up(self):
        """Half a server would keep its ports and its process."""
        self.kill_if_running()
        self._forget()

    def launch(self):
        """Starts the process; nobody is waited for."""
        state = self.state()
        command, environment = self.launched_by(state)
        self._child, state["process"] = processes.spawn(command, self.log, self.folder, environment)
        self.write(state)

    def wait(self, seconds=None):
        """Waits until the server answers; fails at once when its process ends."""
        state = self.state()
        seconds = seconds or self.PATIENCE
        end = time.monotonic() + seconds
        while not self.serves(state):
            if self._child is not None:
                self._child.poll()
            if not processes.alive(state["process"]):
                raise Problem(f"{self.TITLE} in {self.folder} ended while starting:\n{self._tail()}")
            if time.monotonic() > end:
                raise Problem(f"{self.TITLE} in {self.folder} does not answer after {seconds} s:\n{self._tail()}")
            time.sleep(0.05)

    def _tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:]) if self.log.exists() else "(no log)"

    def restart(self):
        """Starts the server again on the same data and ports; a running one is stopped cleanly first."""
        self.end()
        self.launch()
        try:
            self.wait()
        except BaseException:
            processes.kill(self.state()["process"])  # half a server would keep the ports
            raise

    def end(self):
        """Stops a running one cleanly."""
        who = self.state().get("process")
        if processes.alive(who):
            processes.end(who, 60)

    def kill(self):
        """kill -9; returns when the process is gone."""
        who = self.state()["process"]
        if not processes.alive(who):
            raise Problem(f"the {self.TITLE} in {self.folder} (process {who['pid']}) is not running")
        processes.kill(who)

    def kill_if_running(self):
        """kill -9 of whatever is left."""
        who = noted(self.state_file).get("process")
        if processes.alive(who):
            processes.kill(who)

    def signal(self, number):
        """Sends it a signal, such as STOP or CONT."""
        who = self.state()["process"]
        if not processes.send(who, number):
            raise Problem(f"the {self.TITLE} in {self.folder} (process {who['pid']}) is not running")

    def down(self, remove=False):
        """Ends the server and gives its ports back; with `remove` the folder goes too."""
        who = noted(self.state_file).get("process")
        if processes.alive(who):
            processes.end(who, 30)
        self._forget()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self):
        ports.release(self.state_file)
        self.state_file.unlink(missing_ok=True)
