"""Processes by identity: an id and the moment it started, so that a reused id is never signalled."""

import os
import signal
import subprocess
import time

from .paths import Problem


def started_at(pid):
    """The process's start in clock ticks since boot, or None when there is none.

    A zombie counts as none, but not while other threads of it live: they still hold its ports and locks.
    """
    try:
        with open(f"/proc/{pid}/stat") as handle:
            fields = handle.read().rpartition(")")[2].split()
        if fields[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) < 2:
            return None
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19])


def identity(pid):
    """What must be kept to signal this process later."""
    return {"pid": pid, "started": started_at(pid)}


def alive(who):
    """Whether exactly this process still runs."""
    return bool(who) and who["started"] is not None and started_at(who["pid"]) == who["started"]


def send(who, number):
    """Signals this process; False when it is gone."""
    if not alive(who):
        return False
    try:
        os.kill(who["pid"], number)
    except ProcessLookupError:
        return False
    return True


def wait_gone(who, seconds):
    """Waits until this process is gone; False when it is still there at the end."""
    end = time.monotonic() + seconds
    while alive(who):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def end(who, grace):
    """Asks this process to end, and kills it after `grace` seconds."""
    send(who, signal.SIGCONT)
    send(who, signal.SIGTERM)
    if not wait_gone(who, grace):
        kill(who)


def kill(who):
    """kill -9, and waits until the process is really gone, so that its ports and locks are free."""
    send(who, signal.SIGKILL)
    if not wait_gone(who, 30):
        raise Problem(f"process {who['pid']} did not end 30 s after SIGKILL (a device it waits for?)")


def spawn(command, log, cwd, environment=None):
    """Starts a process that outlives the caller, in a session of its own (so Ctrl-C does not reach it)."""
    with open(log, "ab") as out:
        child = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env=environment, start_new_session=True)
    return child, identity(child.pid)
