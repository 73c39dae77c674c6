"""A member of a group that reads files: it holds the lock of the group's position in a topic while it takes from it, and
writes the position, synced, behind what it has worked on.

The position is a file of two slots, `OWN.groups/GROUP/TOPIC.position`, of which the older one is written: see read_files.py.
"""

import fcntl
import io
import json
import os
import pathlib
import time

import fastavro
import xxhash

import membership
from avro import reader_of
from read_files import HEAD, MAGIC, SECTOR, ends, newest, parts
from read_kafka import named

ERRORS = (ValueError,)
POLL = 0.05
HEADER_AT_MOST = 1 << 20


class Position:
    """A position file that this member has locked."""

    def __init__(self, path):
        self.path = path
        self.file = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.file)
            raise
        self.stand = json.loads(newest(path)[1])

    def write(self, position):
        """Durable when this returns."""
        number = newest(self.path)[0] + 1
        body = json.dumps({**self.stand, "position": position}).encode()
        stride = (os.fstat(self.file).st_size - SECTOR) // 2
        image = HEAD.pack(MAGIC, number, len(body), xxhash.xxh64_intdigest(body, seed=number)) + body
        os.pwrite(self.file, image, SECTOR + number % 2 * stride)
        os.fdatasync(self.file)
        os.pwrite(self.file, number.to_bytes(8, "little"), 0)

    def close(self):
        os.close(self.file)


class Tail:
    """One topic, read from a position on, as far as it is durable."""

    def __init__(self, at, prefix, name, position):
        self.at, self.prefix, self.name, self.position = pathlib.Path(at), prefix, name, position
        self.mdt = named(name, prefix).mdt
        self.part = self.header = self.schema = None
        self.offset = self.next = 0

    def take(self, count):
        """At most about so many records, each with its position; whole blocks only."""
        writing, length = ends(self.at, self.prefix, self.mdt).get(self.name, (None, 0))
        found = []
        for first, path in parts(self.at / self.name):
            later = [other for other, _ in parts(self.at / self.name) if other > first]
            if later and later[0] <= self.position or writing is None or first > writing:
                continue
            try:
                if first != self.part:
                    self._open(first, path)
                found += self._read(path, length if first == writing else None)
            except FileNotFoundError:
                # It has got its last name since it was listed; the next look finds it there.
                break
            if len(found) >= count:
                break
        return found

    def _open(self, first, path):
        with open(path, "rb") as file:
            data = file.read(HEADER_AT_MOST)
        self.schema = fastavro.reader(io.BytesIO(data)).writer_schema
        self.header = header_of(data)
        self.part, self.offset, self.next = first, len(self.header), first

    def _read(self, path, limit):
        with open(path, "rb") as file:
            file.seek(self.offset)
            data = file.read() if limit is None else file.read(max(0, limit - self.offset))
        found, self.offset = [], self.offset + len(data)
        if data:
            for record in fastavro.reader(io.BytesIO(self.header + data), reader_of(self.schema)):
                if self.next >= self.position:
                    found.append((self.next, record))
                    self.position = self.next + 1
                self.next += 1
        return found


def header_of(data):
    """The bytes of a container file before its first block."""
    stream = io.BytesIO(data)
    fastavro.schemaless_reader(stream, HEADER)
    return data[:stream.tell()]


HEADER = fastavro.parse_schema({"type": "record", "name": "org.apache.avro.file.Header", "fields": [
    {"name": "magic", "type": {"type": "fixed", "name": "Magic", "size": 4}},
    {"name": "meta", "type": {"type": "map", "values": "bytes"}},
    {"name": "sync", "type": {"type": "fixed", "name": "Sync", "size": 16}}]})


class Member(membership.Member):
    """Takes, announces, writes its position."""

    def __init__(self, said):
        super().__init__(said)
        self.held = {}  # topic -> (its position file, its tail)

    def _hold(self, topic):
        for groups in pathlib.Path(self.said.at).glob("*.groups"):
            path = groups / self.said.group / f"{topic}.position"
            if path.exists():
                try:
                    position = Position(path)
                except BlockingIOError:
                    return None  # another member has it
                prefix = topic.partition(named_tail(topic))[0]
                return position, Tail(self.said.at, prefix, topic, position.stand["position"])
        return None

    def run(self):
        """Until SIGTERM, or idle for as long as allowed."""
        while self.ending is None:
            before = self.consumed
            for topic in self.said.topics.split(","):
                if topic not in self.held:
                    held = self._hold(topic)
                    if held is None:
                        continue
                    self.held[topic] = held
                    self.say("assigned", partitions={topic: [0]})
                self._work(topic, *self.held[topic])
            if self.consumed == before:
                self.took(0)
                time.sleep(POLL)

    def _work(self, topic, position, tail):
        batch = tail.take(self.said.batch)
        if not batch:
            return
        self.took(len(batch))
        if self.said.delay_ms:
            time.sleep(self.said.delay_ms / 1000)
        if self.said.log_records:
            rows = [(at, record["incarnation"], record["index"]) for at, record in batch]
            self.say("records", records={topic: {0: rows}})
        if self.said.never_commit:
            return
        offsets = {topic: {0: batch[-1][0] + 1}}
        self.say("about", offsets=offsets)
        position.write(batch[-1][0] + 1)
        self.say("committed", offsets=offsets)

    def close(self):
        """Lets go of its topics."""
        for position, _ in self.held.values():
            position.close()


def named_tail(topic):
    """What stands behind the prefix in a topic's name, with its dot."""
    stem, _, _ = topic.partition("-MDT")
    return topic[stem.rindex("."):]
