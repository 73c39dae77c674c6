"""Reads the oracle log of a simulated MDT: what really happened there, in the order in which it happened.

The only room that knows mdt-sim's file (compose/mdt-sim/PROTOCOL.md): `E` and 48 bytes for a record emitted, `J`, a
u32 length and a JSON object for everything else; or the JSON lines that `mdt-sim oracle` exports. A torn last entry
is the end: the server may have been killed while it wrote.
"""

import json
import pathlib
import struct
from array import array

EMITTED = struct.Struct("<BIQIQQIIQ")  # letter, life, index, type, time, tfid seq, oid, ver, wall clock
E, J = 0x45, 0x4A


class History:
    """One MDT's records in columns, and the events between them."""

    def __init__(self, mdt):
        self.mdt = mdt
        self.index, self.time, self.wall, self.seq = (array("Q") for _ in range(4))
        self.kind, self.oid, self.ver, self.life = (array("I") for _ in range(4))
        # (how many records were emitted before it, the event as a dictionary)
        self.events = []

    def __len__(self):
        return len(self.index)

    def record(self, life, index, kind, time, seq, oid, ver, wall):
        self.life.append(life)
        self.index.append(index)
        self.kind.append(kind)
        self.time.append(time)
        self.seq.append(seq)
        self.oid.append(oid)
        self.ver.append(ver)
        self.wall.append(wall)

    def event(self, event):
        self.events.append((len(self), event))

    def tell(self, row):
        """A record in words, for messages."""
        return (f"{self.mdt} index {self.index[row]} (life {self.life[row]}, type {self.kind[row]}, "
                f"time {self.time[row]}, [{self.seq[row]:#x}:{self.oid[row]:#x}:{self.ver[row]:#x}])")


def read(path, mdt):
    """The history in the file at `path`, in either form."""
    data = pathlib.Path(path).read_bytes()
    history = History(mdt)
    if data[:1] == b"{":
        _lines(data, history)
    else:
        _entries(data, history)
    return history


def _entries(data, history):
    at, size = 0, len(data)
    while at < size:
        if data[at] == E:
            end = at
            while end + EMITTED.size <= size and data[end] == E:
                end += EMITTED.size
            if end == at:
                return
            for _, life, index, kind, time, seq, oid, ver, wall in EMITTED.iter_unpack(data[at:end]):
                history.record(life, index, kind, time, seq, oid, ver, wall)
            at = end
        elif data[at] == J:
            if at + 5 > size:
                return
            length = struct.unpack_from("<I", data, at + 1)[0]
            if at + 5 + length > size:
                return
            history.event(json.loads(data[at + 5:at + 5 + length]))
            at += 5 + length
        else:
            raise ValueError(f"oracle log of {history.mdt} damaged at byte {at}: entry begins with {data[at]:#x}")


def _lines(data, history):
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        entry = json.loads(line)
        if entry["event"] == "record":
            seq, oid, ver = (int(part, 0) for part in entry["tfid"].strip("[]").split(":"))
            history.record(entry["life"], entry["index"], entry["type_code"], entry["time_ns"], seq, oid, ver,
                           entry["wall_ns"])
        else:
            history.event(entry)
