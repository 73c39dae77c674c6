"""kcat sees the keys and partitions of the record topics as the rule says: murmur2(key) mod partitions.

  tests/up python tests/interop/kcat_partitions.py --bootstrap HOST:PORT [--prefix lustre.]

Exit status 1 if a message stands elsewhere, a key has two partitions, or there is nothing to look at.
"""

import argparse
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "judge"))

from partitioning import partition  # noqa: E402


def topics(bootstrap, prefix):
    """{record topic: partitions}, as kcat lists them."""
    listing = subprocess.run(["kcat", "-b", bootstrap, "-L"], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in listing.splitlines():
        words = line.split()
        if words[:1] == ["topic"] and words[1].strip('"').startswith(prefix):
            found[words[1].strip('"')] = int(words[3])
    return found


def printed(bootstrap, topic, form):
    """A line for every message, as kcat prints it."""
    done = subprocess.run(["kcat", "-b", bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-q",
                           "-X", "isolation.level=read_committed", "-f", form + "\n"],
                          capture_output=True, check=True)
    return done.stdout.splitlines()


def retractions(bootstrap, topic):
    """(partition, what is void) of every message that has the header of a retraction."""
    for line in printed(bootstrap, topic, "%p %h"):
        place, header = line.decode().split(" ", 1)
        if header.startswith("clb-retracts="):
            yield int(place), header.removeprefix("clb-retracts=")


def keys(bootstrap, topic):
    """(partition, key) of every message, as kcat prints them; a key is text here."""
    for line in printed(bootstrap, topic, "%p %K %k"):
        place, length, key = line.split(b" ", 2)
        yield int(place), None if int(length) < 0 else key


def misplaced(bootstrap, topic, count):
    """(how many messages were seen, what is wrong with them). A retraction stands in every partition under one key
    of its MDT, so keys that are no FID are not held to one partition."""
    wrong, seen = [], 0
    for place, key in keys(bootstrap, topic):
        seen += 1
        if key is not None and key.startswith(b"[") and partition(key, count) != place:
            wrong.append(f"{topic}: {key!r} stands in partition {place}, the rule says {partition(key, count)}")
    return seen, wrong


def main(words):
    """Looks at every record topic; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", default="lustre.")
    said = parser.parse_args(words)
    total, wrong = 0, []
    for topic, count in topics(said.bootstrap, said.prefix).items():
        seen, bad = misplaced(said.bootstrap, topic, count)
        total += seen
        wrong += bad
    print(f"kcat: {total} messages, {len(wrong)} in the wrong partition")
    print("\n".join(wrong[:10]), end="\n" if wrong else "")
    return 1 if wrong or not total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
