"""Free ports that stay ours while a broker is down.

They lie below the kernel's range for outgoing connections: there a client that retries could be given the very port
of a killed broker as its own end, and the broker could not come back.
"""

import pathlib
import random
import socket

from . import paths

RANGE = range(15000, 31000)


def _bindable(port):
    with socket.socket() as probe:
        # As brokers do: a port whose old connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def reserve(count, owner):
    """Takes `count` ports for the folder `owner`; they are free again once that folder's state is gone."""
    folder = paths.cache() / "ports"
    folder.mkdir(exist_ok=True)
    taken = []
    with paths.locked("ports"):
        for note in folder.iterdir():
            if not pathlib.Path(note.read_text()).exists():
                note.unlink()
        for port in random.sample(RANGE, len(RANGE)):
            note = folder / str(port)
            if not note.exists() and _bindable(port):
                note.write_text(str(owner))
                taken.append(port)
                if len(taken) == count:
                    return taken
    raise paths.Problem(f"no {count} free ports between {RANGE.start} and {RANGE.stop} on 127.0.0.1")


def release(owner):
    """Gives back what `owner` took."""
    folder = paths.cache() / "ports"
    with paths.locked("ports"):
        for note in folder.iterdir() if folder.exists() else ():
            if note.read_text() == str(owner):
                note.unlink()
