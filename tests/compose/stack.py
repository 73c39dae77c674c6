"""One profile's stack, seen from outside: Compose brings it up and takes it down, the engine kills and starts its
containers, the programs in it are asked."""

import json
import pathlib
import sys
import tempfile
import threading
import time

from ground import paths
from ground.paths import Problem

from engine import command

sys.path.insert(0, str(paths.SOURCE / "tests" / "judge"))
import oracle  # noqa: E402  (the judge's reader of oracle logs)

FOLDER = paths.SOURCE / "compose"
BROKERS = {"kafka": "kafka", "nats": "nats", "amqp": "rabbitmq", "files": None}
GROUPS = ("robinhood", "lake", "audit")
JOURNALS = "/var/lib/mdt-sim"


STOPPED = threading.Event()  # the whole test was asked to end


def until(what, condition, seconds=300):
    """Waits for what must come; gives up, and says what did not come."""
    end = time.monotonic() + seconds
    while True:
        if STOPPED.is_set():
            raise Problem("the test was asked to end")
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise Problem(f"after {seconds} s still not so: {what}")
        time.sleep(0.3)


class Stack:
    """The containers of one profile, in a Compose project of its own."""

    def __init__(self, docker, profile, rate, variables):
        self.docker, self.profile, self.rate = docker, profile, rate
        self.environment = {**docker.environment, "STATUS_PORT": "", "RATE": str(rate), **variables}
        self.environment.pop("COMPOSE_PROFILES", None)
        self.files = ["-f", str(FOLDER / "compose.yml"), "-f", str(FOLDER / "compose.local.yml")]
        self.project = f"clbridge-test-{profile}"
        self.bridge = f"{profile}-bridge"
        self.groups = {name: f"{profile}-{name}" for name in GROUPS}
        self._ids = {}

    def compose(self, *words, tool=None, files=None):
        """Compose with these words, for this project and profile."""
        whole = [*(tool or self.docker.compose), *(files or self.files), "-p", self.project, "--profile", self.profile,
                 *words]
        return command(whole, env=self.environment, cwd=FOLDER).stdout

    def check(self):
        """Every Compose of this machine takes the files as they are, with the override and without."""
        for tool in self.docker.composes():
            self.compose("config", "-q", tool=tool)
            self.compose("config", "-q", tool=tool, files=self.files[:2])

    def services(self):
        """The services of this profile."""
        return [name for name in ("mdt", "workload", BROKERS[self.profile], self.bridge, *self.groups.values()) if name]

    def build(self):
        """Builds what this profile needs."""
        self.compose("build", *(name for name in ("mdt", BROKERS[self.profile]) if name))

    def up(self):
        """Starts all, after what an interrupted run left was removed."""
        self.down()
        self.compose("up", "-d", "--no-build")
        self._ids = {name: self.compose("ps", "-q", name).strip() for name in self.services()}

    def down(self):
        """Removes containers, networks and volumes."""
        self.compose("down", "-v", "--remove-orphans", "-t", "0")

    def id(self, service):
        """The container of a service."""
        return self._ids[service]

    def known(self):
        """The services whose containers were made."""
        return [name for name, one in self._ids.items() if one]

    def state(self, service):
        """What the engine says of a container: status, health, how often its restart policy acted."""
        state = json.loads(self.docker.run("inspect", "--format", "{{json .}}", self._ids[service]))
        health = state["State"].get("Health", {}).get("Status")
        return state["State"]["Status"], health, state["RestartCount"]

    def well(self, service):
        """Whether it runs, and is healthy where that is looked at."""
        status, health, _ = self.state(service)
        return status == "running" and health in (None, "healthy")

    def kill(self, *services):
        """kill -9 of containers."""
        self.docker.run("kill", *(self._ids[name] for name in services))

    def start(self, *services):
        """Starts killed containers again."""
        self.docker.run("start", *(self._ids[name] for name in services))

    def ask(self, service, *words):
        """The JSON answer of a program in a container; None while it does not answer."""
        done = command(["docker", "exec", self._ids[service], *words], check=False, env=self.environment)
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

    def mdts(self):
        """The simulated MDTs' own figures, by name."""
        return self.ask("mdt", "mdt-sim", "stats") or {}

    def emitted(self):
        """How many records the MDTs have logged since they started."""
        return sum(mdt["emitted"] for mdt in self.mdts().values())

    def status(self):
        """What the bridge says of each MDT, by name; empty while it does not answer."""
        said = self.ask(self.bridge, "clbridge", "status", "--json") or {"mdts": []}
        return {mdt["mdt"]: mdt for mdt in said["mdts"]}

    def log(self, service):
        """What a container has printed on its standard output, over all its lives."""
        return self.docker.run("logs", self._ids[service], errors="replace")

    def tail(self, service):
        """The last lines of its log, for a report; records that a group printed are left out."""
        done = command(["docker", "logs", "--tail", "5000", self._ids[service]], check=False, env=self.environment)
        return "\n".join(done.stderr.strip().splitlines()[-8:])

    def histories(self):
        """What really happened on each MDT, from the oracle logs in the MDTs' volume."""
        found = []
        for name in sorted(self.mdts()):
            lines = self.docker.run("exec", self._ids["mdt"], "mdt-sim", "oracle", "--dir", JOURNALS, "--mdt", name)
            with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
                file.write(lines)
                file.flush()
                found.append(oracle.read(pathlib.Path(file.name), name))
        return found
