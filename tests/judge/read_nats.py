"""NATS JetStream: what stands in the streams, and where the groups' acknowledgement floors are.

A stream is known by its subjects, one a partition, `PREFIX.FEED.FS.MDT0000.PARTITION.*` (default feed `all`; a repair's have
`repair.GROUP` before the partition); a position is a sequence of the stream; the partition is in the subject. The header
`Nats-Msg-Id: WRITER:INCARNATION:INDEX[:rPARTITION]` says what a message is without its payload, and
`Nats-Expected-Last-Msg-Id` behind which one it was meant to stand; both are judged.
"""

import asyncio
import re
import time

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from topics import OF_THE_OBJECT, TYPES, Topic, take

IDENTITY, BEFORE = "Nats-Msg-Id", "Nats-Expected-Last-Msg-Id"
DEFAULT_FEED = "all"
AT_ONCE = 2000


def servers(at):
    """The servers that a comma-separated list names."""
    return at.split(",")


async def connected(at):
    """A connection that comes back by itself, however long the server is away."""
    async def ignored(_error):
        pass  # each call says itself what went wrong with it

    return await nats.connect(servers(at), max_reconnect_attempts=-1, reconnect_time_wait=0.2, ping_interval=2,
                              max_outstanding_pings=2, error_cb=ignored)


def durable(group):
    """The name of the group's consumer: no dot, no space, no wildcard may be in it."""
    return re.sub(r"[^A-Za-z0-9_=-]", "_", group)


def named(stream, subjects, prefix="lustre"):
    """The empty Topic of a stream with these subjects, or None if it holds no records."""
    pattern = (re.escape(prefix) + r"\.(?P<feed>[^.]+)\.(?P<fs>[^.]+)\.(?P<mdt>MDT[0-9a-fA-F]{4})"
               r"(\.repair\.(?P<group>[^.]+))?\.(?!repair\.).*")
    found = [re.fullmatch(pattern, subject) for subject in subjects]
    if None in found or len({one.groups() for one in found}) != 1:
        return None
    feed, repairs = found[0]["feed"], found[0]["group"] or ""
    return Topic(stream, f"{found[0]['fs']}-{found[0]['mdt']}", feed="" if feed == DEFAULT_FEED else feed, repairs=repairs,
                 partitions=len(subjects))


def placed(subject):
    """(partition, type) that a record's subject names."""
    tokens = subject.split(".")
    return int(tokens[-2]), tokens[-1]


class Chain:
    """What the messages of one stream say of themselves and of the one before, in the order of the stream."""

    def __init__(self, topic):
        self.topic = topic
        self.before = None

    def fault(self, headers, kind, record):
        """What is wrong with a message's headers or subject, or None."""
        known, self.before = self.before, headers.get(IDENTITY)
        if not record["retracts"] and kind not in (*TYPES[record["type_code"]:][:1], f"T{record['type_code']}"):
            return f"its subject says {kind}, its type is {record['type_code']}"
        said = (self.before or "").split(":")[1:3]
        if said != [str(record["incarnation"]), str(record["index"])]:
            return f"its header {IDENTITY} is {self.before!r}, it is {record['incarnation']}:{record['index']}"
        wanted = headers.get(BEFORE)
        if known is not None and wanted is not None and wanted != known:
            return f"its header {BEFORE} names {wanted}, and {known} stands before it"
        return None


def read_all(at, decoder, prefix="lustre", by_object=True, pinned=None):
    """Every record stream, read to the end that it has now."""
    return asyncio.run(_read_all(at, decoder, prefix, by_object, pinned or {}))


async def _streams(jetstream):
    found, offset = [], 0
    while True:
        page = await jetstream.streams_info(offset=offset)
        found += page
        offset += len(page)
        if not page:
            return found


async def _read_all(at, decoder, prefix, by_object, pinned):
    client = await connected(at)
    found = {}
    try:
        jetstream = client.jetstream(timeout=30)
        for info in await _streams(jetstream):
            topic = named(info.config.name, info.config.subjects or [], prefix)
            if topic is None:
                continue
            found[topic.name] = topic
            topic.partitions = min(pinned.get(topic.feed, topic.partitions), topic.partitions)
            first = info.state.first_seq
            topic.low = dict.fromkeys(range(topic.partitions), first if first > 1 else 0)
            if info.state.messages:
                await _read(jetstream, topic, info.state.last_seq, decoder, by_object)
    finally:
        await client.close()
    return found


async def _read(jetstream, topic, last, decoder, by_object):
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, inactive_threshold=60,
                            mem_storage=True)
    reader = await jetstream.pull_subscribe(">", stream=topic.name, config=config)
    chain, sequence, quiet = Chain(topic), 0, time.monotonic()
    while sequence < last:
        try:
            batch = await reader.fetch(AT_ONCE, timeout=2)
        except (nats.errors.TimeoutError, TimeoutError):
            if time.monotonic() - quiet > 60:
                raise TimeoutError(f"{topic.name}: nothing for 60 s behind {sequence}, and its end is {last}") from None
            continue
        quiet = time.monotonic()
        for message in batch:
            following = message.metadata.sequence.stream
            if following <= sequence:
                raise RuntimeError(f"{topic.name}: {following} was delivered behind {sequence}")
            sequence = following
            _take(topic, chain, message, sequence, decoder, by_object)
    await reader.unsubscribe()


def _take(topic, chain, message, sequence, decoder, by_object):
    partition, kind = placed(message.subject)
    headers = message.headers or {}
    given = [(name, value.encode()) for name, value in headers.items()]
    record = take(topic, partition, sequence, OF_THE_OBJECT, message.data, given, decoder, by_object)
    if record is None:
        return
    fault = chain.fault(headers, kind, record)
    if fault and record["retracts"]:
        topic.bad.append((partition, sequence, fault))
    elif fault:
        topic.misplaced.append((len(topic) - 1, fault))


def committed_now(at, group, topics, at_ns):
    """Adds the floors that the server has for the group now: an acknowledgement whose announcement we lack still
    covers."""
    asyncio.run(_committed_now(at, group, topics, at_ns))


async def _committed_now(at, group, topics, at_ns):
    client = await connected(at)
    try:
        jetstream = client.jetstream(timeout=30)
        for topic in topics.values():
            try:
                info = await jetstream.consumer_info(topic.name, durable(group.name))
            except NotFoundError:
                continue
            for partition in range(topic.partitions):
                group.commits[topic.name, partition].add(at_ns, info.ack_floor.stream_seq + 1)
    finally:
        await client.close()
