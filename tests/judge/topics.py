"""What stands in the record topics, read from the first record to the end with a client that is not clbridge's."""

import json
import os
import re
import time
from array import array
from dataclasses import dataclass, field

MDT = r"(?P<mdt>[^.]+-MDT[0-9a-fA-F]{4})"


@dataclass
class Topic:
    """One topic's records in columns, by partition and then by offset, as they stand in it."""

    name: str
    mdt: str
    feed: str = ""          # empty: the default feed
    repairs: str = ""       # the group whose repair topic this is
    partitions: int = 1
    low: dict = field(default_factory=dict)
    offset: array = field(default_factory=lambda: array("Q"))
    partition: array = field(default_factory=lambda: array("I"))
    incarnation: array = field(default_factory=lambda: array("I"))
    index: array = field(default_factory=lambda: array("Q"))
    kind: array = field(default_factory=lambda: array("I"))
    time: array = field(default_factory=lambda: array("Q"))
    seq: array = field(default_factory=lambda: array("Q"))
    oid: array = field(default_factory=lambda: array("I"))
    ver: array = field(default_factory=lambda: array("I"))
    misplaced: list = field(default_factory=list)    # (row, what is wrong with its key or partition)
    retractions: list = field(default_factory=list)  # (partition, offset, incarnation, (of incarnation, from, to))
    bad: list = field(default_factory=list)          # (partition, offset, why it could not be decoded)

    def __len__(self):
        return len(self.offset)

    def add(self, partition, offset, record):
        """Takes in a record that the decoder gave; rows come in the order of offsets within a partition."""
        retracts = record.get("retracts")
        if retracts is not None:
            self.retractions.append((partition, offset, record["incarnation"],
                                     (retracts["incarnation"], retracts["from"], retracts["to"])))
            return None
        self.partition.append(partition)
        self.offset.append(offset)
        self.incarnation.append(record["incarnation"])
        self.index.append(record["index"])
        self.kind.append(record["type_code"])
        self.time.append(record["time"])
        tfid = record["tfid"]
        self.seq.append(tfid["seq"] & 0xFFFFFFFFFFFFFFFF)
        self.oid.append(tfid["oid"])
        self.ver.append(tfid["ver"])
        return len(self) - 1

    def tell(self, row):
        """A published record in words, for messages."""
        return (f"{self.name}[{self.partition[row]}]@{self.offset[row]} "
                f"(incarnation {self.incarnation[row]}, index {self.index[row]}, type {self.kind[row]})")


def named(name, prefix="lustre."):
    """The empty Topic of that name, or None if it is not a record topic."""
    found = re.fullmatch(re.escape(prefix) + MDT + r"(\.(?P<rest>.+))?", name)
    if not found:
        return None
    rest = found["rest"] or ""
    if rest.startswith("repair."):
        return Topic(name, found["mdt"], repairs=rest.removeprefix("repair."))
    feed, repair, group = rest.partition(".repair.")
    return Topic(name, found["mdt"], feed=feed, repairs=group if repair else "")


def key_fault(key, record, partition, count, by_object):
    """What is wrong with where a record stands, or None. MARK (type 0) has no object: its key is not judged."""
    from partitioning import fid, partition as rule
    if key is None:
        return "it has no key" if by_object and record["type_code"] != 0 else None
    if by_object and record["type_code"] != 0:
        source = (record.get("rename") or {}).get("sfid")
        # A rename within Lustre 2.0's two records, or of nothing, has a source of zeros: the target is the object.
        holder = source if source and any(source.values()) else record["tfid"]
        wanted = (holder["seq"] & 0xFFFFFFFFFFFFFFFF, holder["oid"], holder["ver"])
        if fid(key) != wanted:
            return f"its key is {key!r}, its object [{wanted[0]:#x}:{wanted[1]:#x}:{wanted[2]:#x}]"
    where = rule(key, count)
    return None if where == partition else f"murmur2 of its key {key!r} says partition {where} of {count}"


def retraction_header(headers):
    """Versions below 5 have no field for a retraction: it is in the header `clb-retracts`."""
    for name, value in headers or ():
        if name == "clb-retracts":
            text = value.decode()
            if text.startswith("{"):
                return json.loads(text)
            incarnation, first, last = re.findall(r"\d+", text)
            return {"incarnation": int(incarnation), "from": int(first), "to": int(last)}
    return None


def read_all(bootstrap, decoder, prefix="lustre.", by_object=True, patience=90, settings=None, pinned=0):
    """Every record topic of the broker, read to its end; waits for open transactions to end. `pinned`: how many of
    its partitions a topic of several has records in, where that is fewer than all."""
    from confluent_kafka import Consumer, TopicPartition
    from confluent_kafka.admin import AdminClient

    client = {"bootstrap.servers": bootstrap, **(settings or {})}
    reader = Consumer({**client, "group.id": f"judge-{os.getpid()}-{time.time_ns()}", "enable.auto.commit": False,
                       "isolation.level": "read_committed", "auto.offset.reset": "error",
                       "enable.partition.eof": True, "fetch.wait.max.ms": 20, "queued.max.messages.kbytes": 262144})
    admin = AdminClient(client)
    found = {}
    try:
        for name, about in reader.list_topics(timeout=30).topics.items():
            topic = named(name, prefix)
            if topic is not None:
                topic.partitions = len(about.partitions)
                found[name] = topic
        wanted = [TopicPartition(t.name, p) for t in found.values() for p in range(t.partitions)]
        for topic in found.values():
            topic.partitions = min(pinned, topic.partitions) or topic.partitions
        if wanted:
            _settled(admin, wanted, patience)
            _read(reader, found, wanted, decoder, by_object)
    finally:
        reader.close()
    return found


def _ends(admin, partitions, level):
    from confluent_kafka.admin import OffsetSpec
    answers = admin.list_offsets({p: OffsetSpec.latest() for p in partitions}, isolation_level=level)
    return {(p.topic, p.partition): answer.result(30).offset for p, answer in answers.items()}


def _settled(admin, partitions, patience):
    """Waits until no transaction is open; an open one would hide records that are there."""
    from confluent_kafka import IsolationLevel
    end = time.monotonic() + patience
    while True:
        every = _ends(admin, partitions, IsolationLevel.READ_UNCOMMITTED)
        stable = _ends(admin, partitions, IsolationLevel.READ_COMMITTED)
        held = [where for where in every if stable[where] < every[where]]
        if not held:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"a transaction is still open after {patience} s in {held[:3]}")
        time.sleep(0.25)


def _read(reader, found, wanted, decoder, by_object):
    from confluent_kafka import KafkaError, TopicPartition
    for one in wanted:
        low, _ = reader.get_watermark_offsets(one, timeout=30)
        found[one.topic].low[one.partition] = low
    reader.assign([TopicPartition(w.topic, w.partition, found[w.topic].low[w.partition]) for w in wanted])
    open_ends = {(w.topic, w.partition) for w in wanted}
    quiet = time.monotonic()
    while open_ends:
        batch = reader.consume(10000, timeout=1)
        if batch:
            quiet = time.monotonic()
        elif time.monotonic() - quiet > 60:
            raise TimeoutError(f"no record and no end for 60 s in {sorted(open_ends)[:3]}")
        for message in batch:
            error = message.error()
            where = (message.topic(), message.partition())
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise RuntimeError(f"reading {where}: {error}")
                open_ends.discard(where)
                continue
            take(found[where[0]], where[1], message.offset(), message.key(), message.value(), message.headers(),
                 decoder, by_object)


def take(topic, partition, offset, key, value, headers, decoder, by_object=True):
    """Takes one message into its topic's columns."""
    try:
        version, record = decoder(value)
        if version < 5 and headers:
            record["retracts"] = retraction_header(headers)
        if record["mdt"] != topic.mdt:
            raise ValueError(f"it says MDT {record['mdt']}")
    except (ValueError, TypeError, EOFError, IndexError, KeyError) as why:
        topic.bad.append((partition, offset, str(why)))
        return
    row = topic.add(partition, offset, record)
    if row is not None:
        fault = key_fault(key, record, partition, topic.partitions, by_object)
        if fault:
            topic.misplaced.append((row, fault))
