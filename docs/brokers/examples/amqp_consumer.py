"""A member of a group on RabbitMQ: python3 amqp_consumer.py URL QUEUE GROUP SCHEMA.avsc [MAX]

Prints each record as JSON, answers it, and only then acknowledges it. Needs: pip install pika fastavro
"""
import io
import json
import struct
import sys

import fastavro
import pika

url, queue, group, schema_file = sys.argv[1:5]
most = int(sys.argv[5]) if len(sys.argv) > 5 else None
schema = fastavro.parse_schema(json.load(open(schema_file)))
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
channel.confirm_delivery()  # an answer that the broker has not confirmed is none
channel.basic_qos(prefetch_count=100)


def frames(properties, body):
    if properties.content_type != "application/vnd.clbridge.packed":
        yield body
        return
    while body:
        (size,), body = struct.unpack(">I", body[:4]), body[4:]
        yield body[:size]
        body = body[size:]


for seen, (method, properties, body) in enumerate(channel.consume(queue), 1):
    for frame in frames(properties, body):  # 10 bytes of framing, then the record
        print(json.dumps(fastavro.schemaless_reader(io.BytesIO(frame[10:]), schema), default=str), flush=True)
    answer = pika.BasicProperties(correlation_id=properties.correlation_id, headers={"clb-group": group}, delivery_mode=2)
    channel.basic_publish("clbridge.answers", properties.reply_to, b"", answer, mandatory=True)
    channel.basic_ack(method.delivery_tag)
    if seen == most:
        break
channel.cancel()
