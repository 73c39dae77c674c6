"""RabbitMQ: what was published. Nothing can be read back from an exchange, so an audit queue (audit.py), bound to the
exchanges before the first record, has a copy of everything; its queue is a stream, which is read again at will.

The exchange `PREFIX[.FEED]` tells the feed, the routing key `FS-MDT0000.TYPE` the MDT. A group answers a record by its
identity, and the answers are in the members' logs alone: there is no position to ask the broker for.
"""

import re
import time

import pika

import audit
from topics import TYPES, Topic, take

PACKED = "application/vnd.clbridge.packed"
MDT = r"(?P<mdt>[^.]+-MDT[0-9a-fA-F]{4})\.(?P<kind>[A-Z0-9_]+)"
QUIET = 60  # seconds without a message before the reading is given up


def named(exchange, key, prefix="lustre"):
    """(the topic's name, MDT, feed, type) of a message, or None if it is no record."""
    found = re.fullmatch(MDT, key)
    if not found or not (exchange == prefix or exchange.startswith(f"{prefix}.")):
        return None
    feed = exchange[len(prefix) + 1:]
    name = f"{prefix}.{found['mdt']}" + (f".{feed}" if feed else "")
    return name, found["mdt"], feed, found["kind"]


def unpacked(content_type, body):
    """The payloads of a message: one, or several, each behind its length."""
    if content_type != PACKED:
        return [body]
    found, at = [], 0
    while at < len(body):
        size = int.from_bytes(body[at:at + 4], "big")
        if at + 4 + size > len(body):
            raise ValueError(f"a packed message of {len(body)} bytes ends within a record")
        found.append(body[at + 4:at + 4 + size])
        at += 4 + size
    return found


def fault(properties, kind, mdt, feed, record):
    """What is wrong with a message of one record, or None."""
    retraction = record["retracts"] is not None
    wanted = f"{mdt}/{feed or 'all'}:{record['incarnation']}:{record['index']}" + (":r0" if retraction else "")
    if properties.message_id != wanted:
        return f"its message_id is {properties.message_id!r}, it is {wanted}"
    if not retraction and kind not in (*TYPES[record["type_code"]:][:1], f"T{record['type_code']}"):
        return f"its routing key says {kind}, its type is {record['type_code']}"
    return None


def read_all(at, decoder, prefix="lustre", by_object=True, pinned=None):
    """Everything in the audit queue, as topics of one partition, in the order in which the broker took it."""
    del by_object, pinned  # one partition, and no key that places anything
    found = {}
    connection = pika.BlockingConnection(pika.URLParameters(at))
    try:
        channel = connection.channel()
        end = audit.mark_end(channel, prefix)
        channel.basic_qos(prefetch_count=2000)
        arguments = {"x-stream-offset": "first"}
        for method, properties, body in channel.consume(audit.queue(prefix), arguments=arguments, inactivity_timeout=QUIET):
            if method is None:
                raise TimeoutError(f"the audit queue gave nothing for {QUIET} s, and its end did not come")
            channel.basic_ack(method.delivery_tag)
            if properties.message_id == end:
                break
            _take(found, method, properties, body, decoder, prefix)
    finally:
        connection.close()
    return found


def _take(found, method, properties, body, decoder, prefix):
    said = named(method.exchange, method.routing_key, prefix)
    if said is None:
        return
    name, mdt, feed, kind = said
    topic = found.setdefault(name, Topic(name, mdt, feed=feed, by_identity=True, low={0: 0}))
    headers = [(key, str(value).encode()) for key, value in (properties.headers or {}).items()]
    offset = properties.headers["x-stream-offset"]
    payloads = unpacked(properties.content_type, body)
    for payload in payloads:
        record = take(topic, 0, offset, None, payload, headers, decoder, by_object=False)
        wrong = fault(properties, kind, mdt, feed, record) if record is not None and properties.content_type != PACKED else None
        if wrong and record["retracts"]:
            topic.bad.append((0, offset, wrong))
        elif wrong:
            topic.misplaced.append((len(topic) - 1, wrong))


def committed_now(at, group, topics, at_ns):
    """Nothing: what a group has finished is what its members said."""
    del at, group, topics, at_ns


def patient(at, seconds=60):
    """A connection, as soon as the broker gives one."""
    end = time.monotonic() + seconds
    while True:
        try:
            return pika.BlockingConnection(pika.URLParameters(at))
        except pika.exceptions.AMQPError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
