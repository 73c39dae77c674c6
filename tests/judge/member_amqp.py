"""A member of an AMQP group: it works, answers with a publisher confirm, and only then acknowledges the delivery.

An answer goes to the delivery's `reply_to` and names what it is for by the delivery's `correlation_id`; several are sent
in one message, one name a line. A group's queues are `TOPIC:GROUP`.
"""

import time

import pika
import pika.exceptions

import membership
from read_amqp import patient, unpacked
from topics import identity

ERRORS = ()
SETBACKS = (pika.exceptions.AMQPError, OSError)
GROUP_HEADER = "clb-group"


class Member(membership.Member):
    """Takes, announces, answers, acknowledges."""

    DECODES = True
    connection = None

    def run(self):
        """Until SIGTERM, or idle for as long as allowed."""
        while self.ending is None:
            try:
                self._serve()
            except SETBACKS as error:
                self.say("error", error=repr(error))
                self.close()
                time.sleep(0.2)

    def _serve(self):
        self.connection = patient(self.said.at)
        channel = self.connection.channel()
        channel.basic_qos(prefetch_count=min(self.said.batch, 1000))
        answering = self.connection.channel()
        answering.confirm_delivery()
        batch = []
        for topic in self.said.topics.split(","):
            channel.basic_consume(f"{topic}:{self.said.group}",
                                  lambda _c, method, properties, body, topic=topic: batch.append((topic, method, properties, body)))
        while self.ending is None:
            self.connection.process_data_events(time_limit=self.said.commit_ms / 1000)
            if not channel.is_open:
                raise pika.exceptions.ChannelWrongStateError("the channel was closed")
            taken, batch[:] = list(batch), []
            self.took(len(taken))
            if taken:
                self._work(channel, answering, taken)

    def _work(self, channel, answering, taken):
        done, records, answers = {}, {}, {}
        for topic, _method, properties, body in taken:
            answers.setdefault(properties.reply_to, []).append(properties.correlation_id)
            for payload in unpacked(properties.content_type, body):
                _, record = self.decoder(payload)
                if record["retracts"] is not None:
                    continue  # it is no record, and has the identity of the one behind it
                at = identity(record["incarnation"], record["index"])
                done.setdefault(topic, {}).setdefault(0, []).append(at)
                records.setdefault(topic, {}).setdefault(0, []).append((at, record["incarnation"], record["index"]))
        if self.said.delay_ms:
            self.connection.sleep(self.said.delay_ms / 1000)
        if self.said.log_records:
            self.say("records", records=records)
        if self.said.never_commit:
            return
        self.say("about", done=done)
        for reply_to, names in answers.items():
            properties = pika.BasicProperties(delivery_mode=2, headers={GROUP_HEADER: self.said.group})
            answering.basic_publish("", reply_to, "\n".join(names).encode(), properties, mandatory=True)
        channel.basic_ack(taken[-1][1].delivery_tag, multiple=True)
        self.say("committed", done=done)

    def close(self):
        """Closes the connection: what was not acknowledged comes to another member."""
        try:
            self.connection.close()
        except SETBACKS:
            pass  # it is closed already
