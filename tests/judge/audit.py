"""Makes the audit queue of a run on RabbitMQ: a copy of everything that is published to the exchanges of records.

Run before the bridge is started: the exchanges are made as the bridge makes them, and the queue is bound to them with `#`.

  tests/up python tests/judge/audit.py --at AMQP_URL [--prefix lustre] [--feed NAME]...
"""

import argparse
import sys
import uuid

import pika


def queue(prefix):
    """The name of the audit queue of all exchanges with this prefix."""
    return f"audit.{prefix}"


def mark_end(channel, prefix):
    """Publishes, confirmed, what stands behind everything in the queue now; returns its message_id."""
    end = f"end-{uuid.uuid4()}"
    channel.confirm_delivery()
    properties = pika.BasicProperties(message_id=end, delivery_mode=2)
    channel.basic_publish("", queue(prefix), b"", properties, mandatory=True)
    return end


def make(at, prefix, feeds):
    """Declares exchanges and queue, and binds them."""
    connection = pika.BlockingConnection(pika.URLParameters(at))
    channel = connection.channel()
    # A stream: written once, read from the beginning as often as one likes, and never trimmed.
    channel.queue_declare(queue(prefix), durable=True, arguments={"x-queue-type": "stream"})
    for exchange in [prefix, *(f"{prefix}.{feed}" for feed in feeds)]:
        channel.exchange_declare(exchange, exchange_type="topic", durable=True)
        channel.queue_bind(queue(prefix), exchange, "#")
    connection.close()


def main(words):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", required=True)
    parser.add_argument("--prefix", default="lustre")
    parser.add_argument("--feed", action="append", default=[])
    said = parser.parse_args(words)
    make(said.at, said.prefix, said.feed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
