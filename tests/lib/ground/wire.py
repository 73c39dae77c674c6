"""The two requests that tell whether a Kafka broker is really there: a port that accepts is not yet a broker."""

import socket
import struct

METADATA, METADATA_VERSION = 3, 4


def _exactly(link, count):
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise OSError("connection closed")
        data += more
    return data


def _string(data, at):
    size = struct.unpack_from(">h", data, at)[0]
    return at + 2 + max(size, 0)


def serves(host, port, timeout=2.0):
    """Whether the broker answers a metadata request, lists itself and knows its controller."""
    body = struct.pack(">i?", 0, False)  # no topics, create none
    request = struct.pack(">hhih", METADATA, METADATA_VERSION, 1, 2) + b"up" + body
    try:
        with socket.create_connection((host, port), timeout=timeout) as link:
            link.settimeout(timeout)
            link.sendall(struct.pack(">i", len(request)) + request)
            data = _exactly(link, struct.unpack(">i", _exactly(link, 4))[0])
        at = 8  # correlation id, throttle time
        brokers = struct.unpack_from(">i", data, at)[0]
        at += 4
        for _ in range(brokers):
            at = _string(data, at + 4)  # node id, host
            at = _string(data, at + 4)  # port, rack
        at = _string(data, at)  # cluster id
        return brokers > 0 and struct.unpack_from(">i", data, at)[0] >= 0
    except (OSError, struct.error):
        return False
