"""What the groups printed, against what happened on the MDTs. Pure: neither containers nor a clock, so that planted
violations can prove that it bites (test_printed.py)."""

import calendar
import json
import pathlib
import re
import sys
from collections import Counter

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "judge"))
import checks  # noqa: E402  (the judge's own replay of an oracle log)

SHOWN = 3
TIME = re.compile(r"(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)(?:\.(\d+))?Z")


class Printed:
    """One group's lines, by what identifies a record: its MDT, index and time."""

    def __init__(self, text):
        self.records = Counter()
        self.incarnations = {}  # identity -> the incarnations that it was printed in
        self.void = []          # (MDT, incarnation, from, to) that were retracted
        for record in objects(text):
            if "retracts" in record:
                void = record["retracts"]
                self.void.append((record["mdt"], void["incarnation"], void["from"], void["to"]))
                continue
            identity = record["mdt"], record["index"], nanoseconds(record["time"])
            self.records[identity] += 1
            self.incarnations.setdefault(identity, set()).add(record["incarnation"])

    def duplicates(self):
        """How often a record was printed again."""
        return sum(self.records.values()) - len(self.records)

    def retracted(self, identity):
        """Whether every incarnation in which it was printed was taken back."""
        mdt, index, _ = identity
        return all(any(mdt == m and i == incarnation and first <= index <= last for m, incarnation, first, last in self.void)
                   for i in self.incarnations[identity])


def objects(text):
    """The JSON objects of a container's log. A killed member leaves half a line, and the next one's first line is
    printed behind it: what was torn was not acknowledged and comes again, what follows it counts."""
    for line in text.splitlines():
        at = line.find("{")
        while at >= 0:
            try:
                yield json.loads(line[at:])
                break
            except json.JSONDecodeError:
                at = line.find("{", at + 1)


def nanoseconds(text):
    """RFC 3339 in UTC as nanoseconds since 1970."""
    *whole, fraction = TIME.fullmatch(text).groups()
    return calendar.timegm(tuple(map(int, whole)) + (0, 0, 0)) * 10**9 + int((fraction or "").ljust(9, "0"))


def identities(history):
    """Every record that an MDT ever logged, in the order of its rows."""
    return [(history.mdt, index, time) for index, time in zip(history.index, history.time)]


def uncovered(histories, printed):
    """Records that were cleared although this group had not printed them."""
    wrong = []
    for history in histories:
        known = identities(history)
        for _, _, rows in checks.Replay(history).clears:
            wrong += [history.tell(row) for row in rows if known[row] not in printed.records]
    return wrong


def violations(histories, group, printed):
    """Everything that is wrong with what a group printed, in words, kind by kind."""
    found = {"lost": [], "taken back, printed and not retracted": [], "printed, but never happened": []}
    lost, void, never = found.values()
    happened = set()
    for history in histories:
        replay = checks.Replay(history)
        for row, identity in enumerate(identities(history)):
            happened.add(identity)
            if not replay.void[row]:
                if identity not in printed.records:
                    lost.append(history.tell(row))
            elif identity in printed.records and not printed.retracted(identity):
                void.append(history.tell(row))
    never += [f"{mdt} index {index}, time {time}" for mdt, index, time in printed.records.keys() - happened]
    return [f"{group}: {len(rows)} × {kind}, for instance {'; '.join(rows[:SHOWN])}" for kind, rows in found.items() if rows]
