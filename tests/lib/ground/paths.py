"""Where things lie, and the one lock that makes two runs at once safe."""

import contextlib
import fcntl
import os
import pathlib

SOURCE = pathlib.Path(__file__).resolve().parents[3]


class Problem(Exception):
    """Something the caller can act on; its text says what, where and what to do."""


def cache():
    """The cache outside the source tree; CLB_CACHE names another."""
    named = os.environ.get("CLB_CACHE")
    folder = pathlib.Path(named) if named else pathlib.Path.home() / ".cache" / "clbridge"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(name):
    """Holds the cache's lock of that name; the kernel frees it however the holder ends."""
    with open(cache() / f"{name}.lock", "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
