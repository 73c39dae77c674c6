"""Kafka's own ConsumerGroupCommand shows the groups, positions and lag that `clbridge status --json` shows.

  tests/up python tests/interop/java_groups.py --bootstrap HOST:PORT --status FILE_OR_-

To be called when nothing moves: both are pictures of one moment. Exit status 1 if they differ or show no group.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections import defaultdict

UP = pathlib.Path(__file__).resolve().parents[1] / "up"


def described(text):
    """{(group, topic): {partition: (committed or None, lag or None)}} from what `--describe` prints."""
    found, columns = defaultdict(dict), None
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["GROUP"]:
            columns = {name: at for at, name in enumerate(words)}
        elif columns and len(words) >= len(columns) - 1 and words[columns["PARTITION"]].isdigit():
            committed, lag = (None if words[columns[name]] == "-" else int(words[columns[name]])
                              for name in ("CURRENT-OFFSET", "LAG"))
            found[words[columns["GROUP"]], words[columns["TOPIC"]]][int(words[columns["PARTITION"]])] = committed, lag
    return found


def ask(bootstrap, group):
    """What the Java tool says of one group."""
    done = subprocess.run([UP, "tool", "kafka-consumer-groups", "--bootstrap-server", bootstrap, "--describe",
                           "--offsets", "--group", group], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"kafka-consumer-groups --group {group}: {done.stdout.strip()} {done.stderr.strip()}")
    return described(done.stdout)


def shown(status):
    """[(group, topic, committed by partition, lag)] of a status."""
    return [(group["name"], group["topic"], group["committed"], group["lag_positions"])
            for mdt in status["mdts"] for group in mdt["groups"]]


def differences(status, java):
    """What the two do not agree on, in words."""
    wrong = []
    for group, topic, committed, lag in shown(status):
        theirs = java.get((group, topic))
        if theirs is None:
            wrong.append(f"the Java tool does not show {group} on {topic}")
            continue
        positions = [theirs.get(partition, (None, None))[0] for partition in range(len(committed))]
        if positions != committed:
            wrong.append(f"{group} on {topic}: committed {committed} in status, {positions} in the Java tool")
        behind = sum(one[1] or 0 for one in theirs.values())
        if behind != lag:
            wrong.append(f"{group} on {topic}: lag {lag} positions in status, {behind} in the Java tool")
    return wrong


def main(words):
    """Compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--status", required=True)
    said = parser.parse_args(words)
    status = json.load(sys.stdin if said.status == "-" else open(said.status))
    names = sorted({group for group, *_ in shown(status)})
    java = {}
    for name in names:
        java.update(ask(said.bootstrap, name))
    wrong = differences(status, java)
    print(f"Java: {len(shown(status))} groups × MDTs compared, {len(wrong)} differences")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong or not names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
