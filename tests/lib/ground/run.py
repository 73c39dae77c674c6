"""`tests/up run -- CMD`: a broker for as long as a command runs, taken down whatever happens."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from . import cluster, install, kafka, paths, processes

ENDED_BY = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


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
    """Every broker in the folder, those that the command itself started below it too."""
    for note in list(folder.rglob("cluster.json")):
        cluster.Cluster(note.parent).down()
    for state in folder.rglob("state.json"):
        kafka.Broker(state.parent).down()


def _new_run():
    runs = paths.cache() / "runs"
    runs.mkdir(exist_ok=True)
    _sweep(runs)
    with paths.locked("runs"):
        folder = pathlib.Path(tempfile.mkdtemp(dir=runs, prefix="run-"))
        (folder / "owner.json").write_text(json.dumps(processes.identity(os.getpid())))
    return folder


def run(command, secure=False, settings=(), heap="768m", own=False):
    """Runs `command` with KAFKA_* set and returns its exit status.

    A broker named by CLB_KAFKA=HOST:PORT is used as it is (KAFKA_DIR is then unset: nothing may kill it). With `own`
    the command starts its brokers itself, below CLB_RUN_DIR.
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
        if named:
            install.say(f"using the broker at CLB_KAFKA={named}")
            environment["KAFKA_BOOTSTRAP"] = named
        elif not own:
            broker = kafka.Broker(folder / "kafka")
            broker.start(secure, settings, heap)
            environment |= broker.environment()
            install.say(f"Kafka at {environment['KAFKA_BOOTSTRAP']}, process {environment['KAFKA_PID']}")
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
    logs = [log for log in folder.rglob("kafka.log")]
    if logs:
        kept = pathlib.Path(tempfile.mkdtemp(prefix="clbridge-kafka-log-"))
        for number, log in enumerate(logs):
            shutil.copy(log, kept / f"kafka-{number}.log")
        install.say(f"the command failed; the brokers' logs are in {kept}")
