"""Kafka: what stands in the topics, read committed, and what the groups have committed."""

import os
import re
import time

from topics import Topic, take

MDT = r"(?P<mdt>[^.]+-MDT[0-9a-fA-F]{4})"


def named(name, prefix="lustre"):
    """The empty Topic of that name, or None if it is not a record topic."""
    found = re.fullmatch(re.escape(prefix) + r"\." + MDT + r"(\.(?P<rest>.+))?", name)
    if not found:
        return None
    rest = found["rest"] or ""
    if rest.startswith("repair."):
        return Topic(name, found["mdt"], repairs=rest.removeprefix("repair."))
    feed, repair, group = rest.partition(".repair.")
    return Topic(name, found["mdt"], feed=feed, repairs=group if repair else "")


def read_all(bootstrap, decoder, prefix="lustre", by_object=True, pinned=None, patience=90, settings=None):
    """Every record topic of the broker, read to its end; waits for open transactions to end. `pinned`: over how many
    of its partitions a feed's keys are spread, where that is fewer than all."""
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
            topic.partitions = min((pinned or {}).get(topic.feed, topic.partitions), topic.partitions)
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


def committed_now(bootstrap, group, topics, at_ns, settings=None):
    """Adds what the broker holds for the group now: a commit whose announcement we lack still covers."""
    from confluent_kafka import ConsumerGroupTopicPartitions
    from confluent_kafka.admin import AdminClient
    admin = AdminClient({"bootstrap.servers": bootstrap, **(settings or {})})
    answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group.name)])
    for one in answer[group.name].result(30).topic_partitions:
        if one.topic in topics and one.offset > 0:
            group.commits[one.topic, one.partition].add(at_ns, one.offset)
