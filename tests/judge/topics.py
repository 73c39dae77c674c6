"""What stands in the record topics. Each sink reads them from the first record to the end, with a client that is not
clbridge's: read_kafka.py, read_nats.py, read_amqp.py, read_files.py.
"""

import json
import re
from array import array
from dataclasses import dataclass, field

TYPES = ("MARK CREAT MKDIR HLINK SLINK MKNOD UNLNK RMDIR RENME RNMTO OPEN CLOSE LYOUT TRUNC SATTR XATTR HSM MTIME "
         "CTIME ATIME MIGRT FLRW RESYNC GXATR NOPEN").split()


@dataclass
class Topic:
    """One topic's records in columns, by partition and then by offset, as they stand in it."""

    name: str
    mdt: str
    feed: str = ""          # empty: the default feed
    repairs: str = ""       # the group whose repair topic this is
    partitions: int = 1
    by_identity: bool = False  # whether groups acknowledge a record by what it is, not by where it lies
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
    misplaced: list = field(default_factory=list)    # (row, what is wrong with its key, partition or headers)
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

    def position(self, row):
        """What a group says that it is done with, when it is done with this record."""
        return identity(self.incarnation[row], self.index[row]) if self.by_identity else self.offset[row]

    def tell(self, row):
        """A published record in words, for messages."""
        return (f"{self.name}[{self.partition[row]}]@{self.offset[row]} "
                f"(incarnation {self.incarnation[row]}, index {self.index[row]}, type {self.kind[row]})")


def identity(incarnation, index):
    """The position of a record where nothing but its identity tells it; rises with incarnation and index."""
    return incarnation << 40 | index


def object_of(record):
    """The three numbers of the object's FID: of a rename the renamed one, else the target."""
    source = (record.get("rename") or {}).get("sfid")
    # A rename within Lustre 2.0's two records, or of nothing, has a source of zeros: the target is the object.
    holder = source if source and any(source.values()) else record["tfid"]
    return holder["seq"] & 0xFFFFFFFFFFFFFFFF, holder["oid"], holder["ver"]


def key_of(record):
    """The key that a record of a feed with the object as its key has; None for a MARK, which has no object."""
    return None if record["type_code"] == 0 else "[{:#x}:{:#x}:{:#x}]".format(*object_of(record)).encode()


def key_fault(key, record, partition, count, by_object):
    """What is wrong with where a record stands, or None. MARK (type 0) has no object: its key is not judged."""
    from partitioning import fid, partition as rule
    if key is None:
        return "it has no key" if by_object and record["type_code"] != 0 else None
    if by_object and record["type_code"] != 0:
        wanted = object_of(record)
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


OF_THE_OBJECT = object()  # a key that is not sent: the one that the record's object has


def take(topic, partition, offset, key, value, headers, decoder, by_object=True):
    """Takes one message into its topic's columns; returns the record, None for one that could not be decoded."""
    try:
        version, record = decoder(value)
        if version < 5 and headers:
            record["retracts"] = retraction_header(headers)
        row = take_record(topic, partition, offset, record)
    except (ValueError, TypeError, EOFError, IndexError, KeyError) as why:
        topic.bad.append((partition, offset, str(why)))
        return None
    if row is not None and (key is not OF_THE_OBJECT or by_object):
        key = key_of(record) if key is OF_THE_OBJECT else key
        fault = key_fault(key, record, partition, topic.partitions, by_object)
        if fault:
            topic.misplaced.append((row, fault))
    return record


def take_record(topic, partition, offset, record):
    """Takes a decoded record into its topic's columns; returns its row, None for a retraction."""
    if record["mdt"] != topic.mdt:
        raise ValueError(f"it says MDT {record['mdt']}")
    return topic.add(partition, offset, record)
