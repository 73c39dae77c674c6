"""What the members of the groups said: each acknowledgement *before* they made it, and what they had read.

Where a broker keeps a position, members announce positions; where each record is acknowledged by itself, they announce
those.

A bridge can know of a commit only after it was made, so a clear before the member even announced it is too early
whatever the clocks of broker and bridge did in between.
"""

import bisect
import json
import pathlib
from collections import defaultdict

NEVER = (1 << 64) - 1


class Commits:
    """One group's announced positions in one partition: rising, with the time of each rise."""

    def __init__(self):
        self.said = []
        self._next, self._time = [], []

    def add(self, at_ns, following):
        self.said.append((at_ns, following))
        self._next = []

    def when(self, offset):
        """When the group first announced a position beyond `offset`; NEVER if it did not."""
        if not self._next and self.said:
            self._time = []
            for at_ns, following in sorted(self.said):
                if not self._next or following > self._next[-1]:
                    self._next.append(following)
                    self._time.append(at_ns)
        place = bisect.bisect_right(self._next, offset)
        return self._time[place] if place < len(self._time) else NEVER


class Group:
    """One group: its announced commits, and what its members read if they logged it."""

    def __init__(self, name):
        self.name = name
        self.commits = defaultdict(Commits)  # (topic, partition)
        self.done = defaultdict(dict)        # (topic, partition) -> {position: when it was announced by itself}
        self.read = {}                       # (topic, partition) -> {offset: (incarnation, index)}
        self.logged = False                  # whether its members log what they read

    def about(self, at_ns, offsets):
        for topic, partitions in offsets.items():
            for partition, following in partitions.items():
                self.commits[topic, int(partition)].add(at_ns, following)

    def about_each(self, at_ns, positions):
        for topic, partitions in positions.items():
            for partition, each in partitions.items():
                done = self.done[topic, int(partition)]
                for position in each:
                    done[position] = min(at_ns, done.get(position, NEVER))

    def records(self, offsets):
        self.logged = True
        for topic, partitions in offsets.items():
            for partition, rows in partitions.items():
                self.read.setdefault((topic, int(partition)), {}).update(
                    (offset, (incarnation, index)) for offset, incarnation, index in rows)

    def when(self, topic, partition, offset):
        """When the group announced that it is done with this record: read, where that is logged, and committed."""
        if self.logged and offset not in self.read.get((topic, partition), ()):
            return NEVER
        commits = self.commits.get((topic, partition))
        by_itself = self.done.get((topic, partition), {}).get(offset, NEVER)
        return min(by_itself, commits.when(offset) if commits else NEVER)


def former(partition):
    """How a partition of a topic that was deleted and made again is called, of which the name tells nothing."""
    return -1 - partition


def read(places, before=()):
    """The groups in the members' logs; each place is a file or a folder of *.jsonl. What is said in the places
    `before` is about topics that were deleted and made again since."""
    groups = {}
    for said in _lines(before):
        for field in ("offsets", "done", "records"):
            if field in said:
                said[field] = {topic: {former(int(p)): rows for p, rows in partitions.items()}
                               for topic, partitions in said[field].items()}
        _take(said, groups)
    for said in _lines(places):
        _take(said, groups)
    return groups


def _lines(places):
    for place in map(pathlib.Path, places):
        for file in sorted(place.glob("*.jsonl")) if place.is_dir() else [place]:
            for line in file.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):  # a killed member may leave half a line: nothing was committed after it
                    yield json.loads(line)


def _take(said, groups):
    group = groups.setdefault(said["group"], Group(said["group"]))
    match said["event"]:
        case "about":
            group.about(said["at_ns"], said.get("offsets", {}))
            group.about_each(said["at_ns"], said.get("done", {}))
        case "records":
            group.records(said["records"])
        case "started":
            group.logged |= said["log_records"]

