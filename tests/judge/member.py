"""One member of a consumer group, as a user would write it, that says what it does before it does it.

JSON lines, flushed to the system before the commit is sent:
  {"event":"started","at_ns":N,"group":G,"member":M,"log_records":BOOL}
  {"event":"records","at_ns":N,"group":G,"member":M,"records":{topic:{partition:[[offset,incarnation,index],...]}}}
  {"event":"about","at_ns":N,"group":G,"member":M,"offsets":{topic:{partition:next offset}}}
  {"event":"committed"|"failed","at_ns":N,...,"error":TEXT for failed}
  {"event":"assigned"|"revoked"|"lost","at_ns":N,...,"partitions":{topic:[partition,...]}}
  {"event":"stopped","at_ns":N,...,"reason":TEXT,"consumed":N}
"""

import argparse
import json
import os
import signal
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition


def arguments(words):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--member", default=None, help="its name in the log (default: GROUP-PID)")
    parser.add_argument("--topics", required=True, help="a list a,b,c or one regular expression that begins with ^")
    parser.add_argument("--log", required=True, help="JSON lines are appended to this file")
    parser.add_argument("--assignor", default="range", help="range, roundrobin or cooperative-sticky")
    parser.add_argument("--protocol", default="classic", choices=("classic", "consumer"), help="consumer: KIP-848")
    parser.add_argument("--reset", default="error", help="auto.offset.reset: a registered group never needs it")
    parser.add_argument("--batch", type=int, default=1000, help="records taken at once at most")
    parser.add_argument("--delay-ms", type=float, default=0, help="work pretended for each batch")
    parser.add_argument("--commit-ms", type=float, default=100, help="commits at most this often")
    parser.add_argument("--never-commit", action="store_true")
    parser.add_argument("--log-records", action="store_true")
    parser.add_argument("--idle-s", type=float, default=0, help="ends after this long without a record (0: never); longer than the session, or a killed "
                        "neighbour's partitions are left unread")
    parser.add_argument("--session-ms", type=int, default=10000)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any librdkafka setting")
    return parser.parse_args(words)


class Member:
    """Consumes, announces, commits."""

    def __init__(self, said):
        self.said = said
        self.name = said.member or f"{said.group}-{os.getpid()}"
        self.log = os.open(said.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.pending = {}  # (topic, partition) -> next offset, worked on and not yet committed
        self.consumed = 0
        self.ending = None
        self.decoder = None
        if said.log_records:
            sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
            import avro
            self.decoder = avro.Decoder()
        settings = {
            "bootstrap.servers": said.bootstrap, "group.id": said.group, "client.id": self.name,
            "enable.auto.commit": False, "enable.auto.offset.store": False, "isolation.level": "read_committed",
            "auto.offset.reset": said.reset, "fetch.wait.max.ms": 50, "topic.metadata.refresh.interval.ms": 2000,
            "allow.auto.create.topics": False,
        }
        if said.protocol == "consumer":
            settings["group.protocol"] = "consumer"
        else:
            settings |= {"partition.assignment.strategy": said.assignor, "session.timeout.ms": said.session_ms,
                         "heartbeat.interval.ms": max(500, said.session_ms // 5)}
        settings |= dict(text.split("=", 1) for text in said.set)
        self.consumer = Consumer(settings)

    def say(self, event, **more):
        """One line, in the system's hands when this returns."""
        line = {"event": event, "at_ns": time.time_ns(), "group": self.said.group, "member": self.name, **more}
        os.write(self.log, json.dumps(line, separators=(",", ":")).encode() + b"\n")

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
        self.say("started", log_records=said.log_records)
        topics = [said.topics] if said.topics.startswith("^") else said.topics.split(",")
        self.consumer.subscribe(topics, on_assign=self.on_assign, on_revoke=self.on_revoke, on_lost=self.on_lost)
        committed = busy = time.monotonic()
        while self.ending is None:
            count = self.work(self.consumer.consume(said.batch, timeout=0.05))
            self.consumed += count
            now = time.monotonic()
            if count:
                busy = now
            elif said.idle_s and now - busy > said.idle_s:
                self.ending = "idle"
            if self.pending and (now - committed) * 1000 >= said.commit_ms:
                self.commit()
                committed = now
        self.commit()

    def close(self, reason):
        """Leaves the group."""
        self.consumer.close()
        self.say("stopped", reason=reason, consumed=self.consumed)
        os.close(self.log)


def main(words):
    """One member's life; returns the exit status."""
    member = Member(arguments(words))

    def told(_number, _frame):
        member.ending = "signal"

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    try:
        member.run()
    except KafkaException as error:
        member.close(f"error: {error}")
        print(f"member {member.name}: {error}", file=sys.stderr)
        return 1
    member.close(member.ending)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
