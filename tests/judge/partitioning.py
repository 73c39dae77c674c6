"""The rule that says where a record goes, written from its description alone: murmur2(key) mod partitions."""

import functools

SEED, M, R = 0x9747B28C, 0x5BD1E995, 24
MASK = 0xFFFFFFFF


def murmur2(data):
    """Kafka's murmur2 of the bytes, as an unsigned 32-bit number."""
    length = len(data)
    h = (SEED ^ length) & MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at:at + 4], "little") * M & MASK
        k ^= k >> R
        h = (h * M & MASK) ^ (k * M & MASK)
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * M & MASK
    h = (h ^ (h >> 13)) * M & MASK
    return h ^ (h >> 15)


@functools.lru_cache(maxsize=1 << 18)
def partition(key, count):
    """The partition of a key, as Kafka's own default partitioner has it (the sign bit is dropped)."""
    return (murmur2(key) & 0x7FFFFFFF) % count


def fid(text):
    """A FID's three numbers from its text `[0xSEQ:0xOID:0xVER]`; None for anything else."""
    try:
        seq, oid, ver = (int(part, 0) for part in text.decode("ascii").removeprefix("[").removesuffix("]").split(":"))
    except (ValueError, UnicodeDecodeError):
        return None
    return seq, oid, ver
