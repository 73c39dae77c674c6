"""A real Docker engine and a Compose: those of this machine, or an engine of our own for as long as the test runs."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from ground import install, paths, processes
from ground.paths import Problem

HOW = """How to get a Docker engine: on Debian, as root, 'apt-get install docker.io' is enough, and this test starts dockerd
by itself; elsewhere https://docs.docker.com/engine/install/. Compose: Debian's docker-compose, or the plugin (v2)."""


class NoEngine(Exception):
    """No engine runs here and none could be started: says why."""


class Docker:
    """The engine's command line, and Compose's."""

    def __init__(self, environment):
        self.environment = environment
        # Compose v2 builds with BuildKit, a plugin that Debian's engine comes without.
        if command(["docker", "buildx", "version"], check=False, env=environment).returncode:
            environment["DOCKER_BUILDKIT"] = "0"
        self.compose = self._newest_compose()

    def run(self, *words, check=True, **more):
        """`docker WORDS`; the answer's standard output as text."""
        return command(["docker", *words], check=check, env=self.environment, **more).stdout

    def probe(self, image):
        """Starts one container with a network; raises NoEngine where the engine cannot do that."""
        try:
            self.run("run", "--rm", image, "true")
        except Problem as why:
            raise NoEngine(f"the engine runs no container here: {why}") from None

    def composes(self):
        """Every Compose on this machine, the newest first."""
        if command(["docker", "compose", "version"], check=False, env=self.environment).returncode == 0:
            yield ["docker", "compose"]
        if shutil.which("docker-compose"):
            yield ["docker-compose"]

    def _newest_compose(self):
        for found in self.composes():
            return found
        try:
            install.apt({"docker-compose"})
        except Problem as why:
            raise NoEngine(f"there is no Compose: {why}") from None
        return ["docker-compose"]


def command(words, check=True, **more):
    """Runs a command to its end; a failure is a Problem with what it said."""
    done = subprocess.run(words, capture_output=True, text=True, **more)
    if check and done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise Problem(f"'{' '.join(words)}' ended with {done.returncode}:\n{said}")
    return done


def _answers(environment):
    if not shutil.which("docker"):
        return False
    done = command(["docker", "info", "--format", "{{.ServerVersion}}"], check=False, env=environment)
    return done.returncode == 0 and bool(done.stdout.strip())


@contextlib.contextmanager
def docker():
    """The engine that answers here, else one that is started, and ended in the end; raises NoEngine."""
    environment = dict(os.environ)
    if _answers(environment):
        yield Docker(environment)
        return
    if os.geteuid() != 0:
        raise NoEngine("no Docker engine answers, and only root can start one")
    if not shutil.which("dockerd") or not shutil.which("docker"):
        try:
            install.apt({"docker.io"})
        except Problem as why:
            raise NoEngine(f"no Docker engine answers, and none could be installed: {why}") from None
    with _own(environment) as engine:
        yield engine


@contextlib.contextmanager
def _own(environment):
    """dockerd with images in the cache, so that the next run finds them, and a socket that only we know."""
    note = paths.cache() / "docker.json"
    if note.exists():  # a run that was itself killed; whoever calls holds the lock, so nobody uses it
        processes.end(json.loads(note.read_text()), 30)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="clbridge-docker-"))
    environment["DOCKER_HOST"] = f"unix://{folder}/socket"
    log = folder / "log"
    child, who = processes.spawn(
        ["dockerd", "--host", environment["DOCKER_HOST"], "--data-root", str(paths.cache() / "docker"),
         "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")], log, folder)
    note.write_text(json.dumps(who))
    try:
        end = time.monotonic() + 60
        while not _answers(environment):
            if child.poll() is not None or time.monotonic() > end:
                said = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                raise NoEngine(f"dockerd does not start on this machine. Its last words:\n{said}")
            time.sleep(0.2)
        engine = Docker(environment)
        yield engine
        engine.run("image", "prune", "-f")  # what this run's builds replaced; all images here are ours
    finally:
        processes.end(who, 60)
        note.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
