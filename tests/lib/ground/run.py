"""`tests/up run -- CMD`: servers for as long as a command runs, taken down whatever happens."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from . import amqp, cluster, install, kafka, nats, paths, processes
from .server import noted

ENDED_BY = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SERVERS = {"kafka": kafka.Broker, "nats": nats.Server, "amqp": amqp.Server}


class _Told(Exception):
    pass


def _sweep(runs):
    """Takes down what a run left that was itself killed -9."""
    with paths.locked("runs"):
        for folder in runs.iterdir():
            note = folder / "owner.json"
            if not note.exists() or processes.alive(json.loads(note.read_text())):
                continue
            install.say(f"taking down what an interrupted run left in {folder}")
            _down_all(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _down_all(folder):
    """Every server in the folder, those that the command itself started below it too."""
    for note in list(folder.rglob("cluster.json")):
        cluster.KINDS[noted(note)["kind"]](note.parent).down()
    for note in list(folder.rglob("state.json")):
        kind = noted(note).get("kind")
        if kind in SERVERS:
            SERVERS[kind](note.parent).down()


def _new_run():
    runs = paths.cache() / "runs"
    runs.mkdir(exist_ok=True)
    _sweep(runs)
    with paths.locked("runs"):
        folder = pathlib.Path(tempfile.mkdtemp(dir=runs, prefix="run-"))
        (folder / "owner.json").write_text(json.dumps(processes.identity(os.getpid())))
    return folder


def _start(folder, kinds, how):
    """Starts one server of each kind, all at the same time; returns what they say of themselves."""
    known = {}
    with concurrent.futures.ThreadPoolExecutor() as several:
        started = {kind: SERVERS[kind](folder / kind) for kind in kinds}
        waits = [several.submit(server.start, **how.get(kind, {})) for kind, server in started.items()]
        for wait in waits:
            wait.result()
    for server in started.values():
        known |= server.environment()
        install.say(f"{server.TITLE} in {server.folder}, process {server.state()['process']['pid']}")
    return known


def run(command, kinds=tuple(SERVERS), how=None):
    """Runs `command` with the variables of one server of each of `kinds` set, and returns its exit status. `how`: what
    `start` of a kind is told.

    A Kafka named by CLB_KAFKA=HOST:PORT is used as it is (KAFKA_DIR is then unset: nothing may kill it). Without kinds
    the command starts its servers itself, below CLB_RUN_DIR.
    """
    folder = _new_run()
    environment = dict(os.environ, CLB_RUN_DIR=str(folder), CLB_UP=str(paths.SOURCE / "tests" / "up"),
                       CLB_PYTHON=str(install.python()))
    install.tools()
    failed = True

    def told(number, _frame):
        raise _Told(number)

    before = {number: signal.signal(number, told) for number in ENDED_BY}
    child = None
    try:
        named = os.environ.get("CLB_KAFKA")
        if named and "kafka" in kinds:
            install.say(f"using the broker at CLB_KAFKA={named}")
            environment["KAFKA_BOOTSTRAP"] = named
            kinds = [kind for kind in kinds if kind != "kafka"]
        environment |= _start(folder, kinds, how or {})
        child = subprocess.Popen(command, env=environment)
        status = child.wait()
        failed = status != 0
        return status if status >= 0 else 128 - status
    except _Told as end:
        number = end.args[0]
        if child is not None and child.poll() is None:
            child.send_signal(number)
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        return 128 + number
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # the tear-down is not interrupted
        _down_all(folder)
        if failed:
            _keep_logs(folder)
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_logs(folder):
    logs = [log for kind in SERVERS for log in folder.rglob(f"{kind}.log")]
    if logs:
        kept = pathlib.Path(tempfile.mkdtemp(prefix="clbridge-server-logs-"))
        for number, log in enumerate(logs):
            shutil.copy(log, kept / f"{log.stem}-{number}.log")
        install.say(f"the command failed; the servers' logs are in {kept}")
