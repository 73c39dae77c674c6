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
import time

import fastavro
import xxhash

import read_kafka
from avro import reader_of
from topics import retraction_header, take_record

PART = re.compile(r"(?P<first>\d{20})\.\d+-\d+\.avro(?P<open>\.inprogress)?")
MAGIC, SECTOR, LOOKS = b"clbslot1", 512, 1000
HEAD = struct.Struct("<8sQQQ")  # magic, number, length, XXH64 with the number as its seed


def read_if_there(path):
    """What stands in a file; nothing of one that was removed meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def durable(data):
    """[(number, bytes)] of the durable records in a file of two slots."""
    if len(data) < SECTOR:
        return []
    announced, stride = struct.unpack_from("<Q", data)[0], (len(data) - SECTOR) // 2
    found = []
    for at in (SECTOR, SECTOR + stride):
        magic, number, length, checksum = HEAD.unpack_from(data, at)
        body = data[at + HEAD.size:at + HEAD.size + length]
        if magic == MAGIC and number <= announced and xxhash.xxh64_intdigest(body, seed=number) == checksum:
            found.append((number, body))
    return found


def newest(path):
    """(number, bytes) of the newest durable record in a file of two slots, which may be written or replaced meanwhile."""
    for _ in range(LOOKS):
        # A start replaces State by an empty file first, and keeps the one before as long as that is so.
        for file in (pathlib.Path(path), pathlib.Path(f"{path}.before")):
            if found := durable(read_if_there(file)):
                return max(found)
        time.sleep(0.01)
    raise ValueError(f"{path} has no durable record")


def ends(folder, prefix, mdt):
    """Where the topics of an MDT end, by name: the part that is written, and its durable length in bytes."""
    for own in pathlib.Path(folder).glob("*.state"):
        if (own / mdt).exists() and not own.name.startswith(f"{prefix}."):
            topics = json.loads(newest(own / mdt)[1].partition(b"\n")[0])["topics"]
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
    """Adds where the group stands now: a position whose announcement we lack still covers."""
    for path in pathlib.Path(at).glob(f"*.groups/{group.name}/*.position"):
        topic = path.name.removesuffix(".position")
        if topic in topics:
            group.commits[topic, 0].add(at_ns, json.loads(newest(path)[1])["position"])
