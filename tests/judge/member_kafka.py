"""A member of a Kafka group: commits positions."""

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

import membership

ERRORS = (KafkaException,)


class Member(membership.Member):
    """Consumes, announces, commits."""

    def __init__(self, said):
        super().__init__(said)
        self.pending = {}  # (topic, partition) -> next offset, worked on and not yet committed
        settings = {
            "bootstrap.servers": said.at, "group.id": said.group, "client.id": self.name,
            "enable.auto.commit": False, "enable.auto.offset.store": False, "isolation.level": "read_committed",
            "auto.offset.reset": said.reset, "fetch.wait.max.ms": 50, "topic.metadata.refresh.interval.ms": 2000,
            "allow.auto.create.topics": False,
            # What was asked of a coordinator that stood still is asked again after this time, not after a minute.
            "socket.timeout.ms": 10000,
        }
        if said.protocol == "consumer":
            settings["group.protocol"] = "consumer"
        else:
            settings |= {"partition.assignment.strategy": said.assignor, "session.timeout.ms": said.session_ms,
                         "heartbeat.interval.ms": max(500, said.session_ms // 5)}
        settings |= dict(text.split("=", 1) for text in said.set)
        self.consumer = Consumer(settings)

    def _tell_partitions(self, event, partitions):
        grouped = {}
        for one in partitions:
            grouped.setdefault(one.topic, []).append(one.partition)
        self.say(event, partitions=grouped)

    def on_assign(self, _consumer, partitions):
        self._tell_partitions("assigned", partitions)

    def on_revoke(self, _consumer, partitions):
        """What was worked on is committed before it is given away."""
        self.commit({(one.topic, one.partition) for one in partitions})
        self._tell_partitions("revoked", partitions)

    def on_lost(self, _consumer, partitions):
        """Somebody else has them already: a commit would be refused."""
        for one in partitions:
            self.pending.pop((one.topic, one.partition), None)
        self._tell_partitions("lost", partitions)

    def commit(self, only=None):
        """Announces and commits what is pending."""
        ready = {where: at for where, at in self.pending.items() if only is None or where in only}
        if not ready or self.said.never_commit:
            return
        offsets = {}
        for (topic, partition), following in ready.items():
            offsets.setdefault(topic, {})[partition] = following
        self.say("about", offsets=offsets)
        try:
            answers = self.consumer.commit(
                offsets=[TopicPartition(topic, partition, at) for (topic, partition), at in ready.items()],
                asynchronous=False)
            wrong = [f"{one.topic}[{one.partition}]: {one.error}" for one in answers if one.error is not None]
        except KafkaException as error:
            wrong = [str(error)]
        if wrong:
            # They are read again by whoever has the partition now, or committed with the next batch.
            self.say("failed", offsets=offsets, error="; ".join(wrong))
            return
        self.say("committed", offsets=offsets)
        for where, at in ready.items():
            if self.pending.get(where) == at:
                del self.pending[where]

    def work(self, batch):
        """Takes a batch in; returns how many records it had."""
        taken, count = {}, 0
        for message in batch:
            error = message.error()
            if error is not None:
                if error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise KafkaException(error)
                self.say("error", error=str(error))
                continue
            count += 1
            where = (message.topic(), message.partition())
            self.pending[where] = message.offset() + 1
            if self.decoder is not None:
                _, record = self.decoder(message.value())
                taken.setdefault(where[0], {}).setdefault(where[1], []).append(
                    (message.offset(), record["incarnation"], record["index"]))
        if count and self.said.delay_ms:
            time.sleep(self.said.delay_ms / 1000)
        if taken:
            self.say("records", records=taken)
        return count

    def run(self):
        """Until SIGTERM, or idle for as long as allowed."""
        said = self.said
        topics = [said.topics] if said.topics.startswith("^") else said.topics.split(",")
        self.consumer.subscribe(topics, on_assign=self.on_assign, on_revoke=self.on_revoke, on_lost=self.on_lost)
        committed = time.monotonic()
        while self.ending is None:
            self.took(self.work(self.consumer.consume(said.batch, timeout=0.05)))
            now = time.monotonic()
            if self.pending and (now - committed) * 1000 >= said.commit_ms:
                self.commit()
                committed = now
        self.commit()

    def close(self):
        """Leaves the group."""
        self.consumer.close()
