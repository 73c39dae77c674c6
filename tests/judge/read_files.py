"""Files: what stands in the Avro object container files of each topic, read by fastavro.

A topic is a folder `PREFIX.FS-MDT0000[.FEED]`, and `….repair.GROUP` for a repair; a position is the ordinal of a record in
the topic, of which a file's name tells the first: `POSITION.INCARNATION-INDEX.avro`, with `.inprogress` while it is
written. Of that one only what stands in the file of State is durable, in whole blocks.
"""

import io
import json
import pathlib
import re
import struct

import fastavro

import read_kafka
from avro import reader_of
from topics import retraction_header, take_record

PART = re.compile(r"(?P<first>\d{20})\.\d+-\d+\.avro(?P<open>\.inprogress)?")
MAGIC, SECTOR = b"clbslot1", 512
HEAD = struct.Struct("<8sQQQ")  # magic, number, length, checksum


def slot(path):
    """The newest durable record of a file of two slots, as bytes."""
    data = pathlib.Path(path).read_bytes()
    durable, stride = struct.unpack_from("<Q", data)[0], (len(data) - SECTOR) // 2
    found = []
    for at in (SECTOR, SECTOR + stride):
        magic, number, length, _ = HEAD.unpack_from(data, at)
        if magic == MAGIC and number <= durable:
            found.append((number, data[at + HEAD.size:at + HEAD.size + length]))
    if not found:
        raise ValueError(f"{path} has no durable record")
    return max(found)[1]


def ends(folder, prefix, mdt):
    """Where the topics of an MDT end, by name: the part that is written, and its durable length in bytes."""
    for own in pathlib.Path(folder).glob("*.state"):
        if (own / mdt).exists() and not own.name.startswith(f"{prefix}."):
            topics = json.loads(slot(own / mdt).partition(b"\n")[0])["topics"]
            return {name: (end["file"], end["length"]) for name, end in topics.items()}
    return {}


def parts(folder):
    """(first position, path) of a topic's files, in order."""
    found = {}
    for path in sorted(folder.iterdir()):
        name = PART.fullmatch(path.name)
        if name:
            found.setdefault(int(name["first"]), path)  # under both names while it is closed
    return sorted(found.items())


def records(path, length=None):
    """The records of one file and what its header says; `length`: of its first so many bytes."""
    data = path.read_bytes()
    data = data if length is None else data[:length]
    plain = fastavro.reader(io.BytesIO(data))
    header = [("clb-retracts", plain.metadata["clb-retracts"].encode())] if "clb-retracts" in plain.metadata else None
    for record in fastavro.reader(io.BytesIO(data), reader_of(plain.writer_schema)):
        if record["retracts"] is None and header:
            record["retracts"] = retraction_header(header)
        yield record


def read_all(at, decoder, prefix="lustre", by_object=True, pinned=None):
    """Every record topic of the folder, as far as it is durable."""
    del decoder, by_object, pinned  # the schema is in each file; there is one partition
    found = {}
    for folder in sorted(pathlib.Path(at).iterdir()):
        topic = read_kafka.named(folder.name, prefix) if folder.is_dir() else None
        if topic is None:
            continue
        found[topic.name] = topic
        known = parts(folder)
        writing, length = ends(at, prefix, topic.mdt).get(topic.name, (None, None))
        topic.low = {0: known[0][0] if known else 0}
        for first, path in known:
            if writing is not None and (first > writing or first == writing and not length):
                break  # it was never sealed
            position = first
            for position, record in enumerate(records(path, length if first == writing else None), first):
                take_record(topic, 0, position, record)
            following = next((later for later, _ in known if later > first), None)
            if following is not None and following != position + 1 and (writing is None or following <= writing):
                topic.bad.append((0, position, f"{path.name} ends at {position}, and the next begins at {following}"))
    return found


def committed_now(at, group, topics, at_ns):
    """Nothing: what a group has committed is what its members said."""
    del at, group, topics, at_ns
