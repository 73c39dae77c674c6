"""The invariants, record by record: what happened (oracle), what stands in the topics, what the groups announced.

Pure: no broker, no file, no clock, so that planted violations can prove that it bites (test_checks.py). It shares
neither code nor tables with clbridge.
"""

import bisect
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from members import NEVER, former

SHOWN = 10
PURGED_BY_ALL = "cleared by all users"


@dataclass
class Feed:
    """One way an MDT is published; `types` None takes every type. MARK (0) is in every feed."""

    name: str = ""
    types: frozenset | None = None

    def takes(self, kind):
        return self.types is None or kind == 0 or kind in self.types


@dataclass(eq=False)
class Taker:
    """A persistent group: which feed it takes, which MDTs (None: all), whether it must have acknowledged all, and
    whether clears have to wait for it (not for one that its policy may let go)."""

    group: object
    feed: str = ""
    mdts: frozenset | None = None
    must_finish: bool = True
    holds: bool = True


@dataclass
class Verdict:
    """Counts by kind, and the first of each in words."""

    counts: Counter = field(default_factory=Counter)
    told: dict = field(default_factory=lambda: defaultdict(list))
    records: int = 0
    cleared: int = 0
    purged_unread: int = 0
    retractions: int = 0
    repeated: Counter = field(default_factory=Counter)  # by (topic, incarnation): retracted there, and published again

    def add(self, kind, text):
        self.counts[kind] += 1
        if len(self.told[kind]) < SHOWN:
            self.told[kind].append(text)

    def row(self):
        """The numbers of the report."""
        count = self.counts
        return {
            "records": self.records,
            "cleared": self.cleared,
            "retractions": self.retractions,
            "lost": count["lost"] + count["not acknowledged"],
            "duplicates": count["duplicate"],
            "repeated": sum(self.repeated.values()),
            "most_repeated": max(self.repeated.values(), default=0),
            "order_violations": count["order"] + count["misplaced"],
            "early_clears": count["early clear"] + count["cleared and taken back"],
            "retraction_violations": count["retraction missing"] + count["void but not retracted"]
            + count["never happened"] + count["undecodable"],
        }


class Replay:
    """The oracle's history played once: what survived, what was taken back, and what stood when a clear ran."""

    def __init__(self, history):
        self.history = history
        self.void = bytearray(len(history))    # taken back
        self.purged = bytearray(len(history))  # given up by the server before everybody had cleared it
        self.clears = []                       # (time, user, rows newly covered by this clear)
        self._play()

    def _play(self):
        index = self.history.index
        log = []         # rows that stand, in the order of their indexes
        done = Counter()  # by user: how many rows of the log its clears have covered
        at = 0
        for before, event in [*self.history.events, (len(index), {"event": "end"})]:
            log.extend(range(at, before))
            at = before

            def place(upto, log=log):
                return bisect.bisect_right(log, upto, key=index.__getitem__)

            match event["event"]:
                case "taken_back":
                    keep = place(event["from"] - 1)
                    for row in log[keep:]:
                        self.void[row] = 1
                    del log[keep:]
                    for user in done:
                        done[user] = min(done[user], keep)
                case "reset":
                    log, done = [], Counter()
                case "registered":
                    done[event["user"]] = place(event["index"])
                case "deregistered":
                    done.pop(event["user"], None)
                case "purged" if event["reason"] != PURGED_BY_ALL:
                    read = max(done.values(), default=0)
                    for row in log[max(read, place(event["from"] - 1)):place(event["to"])]:
                        self.purged[row] = 1
                case "clear" if event["errno"] == 0:
                    user, upto = event["user"], place(event["after"])
                    self.clears.append((event["at_ns"], user, log[done[user]:upto]))
                    done[user] = max(done[user], upto)


def check_topic(topic, verdict):
    """Once, in order, in its partition: what a topic shows by itself. Returns the ranges retracted."""
    for partition, offset, why in topic.bad:
        verdict.add("undecodable", f"{topic.name}[{partition}]@{offset}: {why}")
    for row, why in topic.misplaced:
        verdict.add("misplaced", f"{topic.tell(row)}: {why}")
    seen, highest = {}, {}
    first_of = defaultdict(dict)  # incarnation -> partition -> offset of its first record
    for row in range(len(topic)):
        partition, identity = topic.partition[row], (topic.incarnation[row], topic.index[row])
        first_of[identity[0]].setdefault(partition, topic.offset[row])
        if identity in seen:
            verdict.add("duplicate", f"{topic.tell(row)} stands already at {topic.tell(seen[identity])}")
            continue
        seen[identity] = row
        if identity < highest.get(partition, (0, 0)):
            verdict.add("order", f"{topic.tell(row)} stands behind {highest[partition]}")
        else:
            highest[partition] = identity
    return _check_retractions(topic, first_of, verdict)


def _check_retractions(topic, first_of, verdict):
    """Every incarnation but the first begins, in every partition, with what it makes void."""
    ranges = defaultdict(dict)  # (new incarnation, range) -> partition -> offset of its first mark
    for partition, offset, incarnation, void in topic.retractions:
        ranges[incarnation, void].setdefault(partition, offset)
        if incarnation <= void[0]:
            verdict.add("retraction missing", f"{topic.name}[{partition}]@{offset}: incarnation {incarnation} "
                                              f"retracts {void[0]}, which is not an earlier one")
    marked = {incarnation for incarnation, _ in ranges}
    for incarnation in sorted(first_of)[1:]:
        if incarnation not in marked:
            verdict.add("retraction missing", f"{topic.name}: incarnation {incarnation} begins without a retraction")
    for (incarnation, void), marks in ranges.items():
        for partition in range(topic.partitions):
            later = [where[partition] for i, where in first_of.items() if i >= incarnation and partition in where]
            mark = marks.get(partition)
            if mark is None:
                # A partition trimmed or emptied to beyond the mark cannot show it any more.
                if not topic.low.get(partition, 0):
                    verdict.add("retraction missing", f"{topic.name}[{partition}] has no retraction of "
                                                      f"{void[1]}..{void[2]} of incarnation {void[0]}")
            elif later and min(later) < mark:
                verdict.add("retraction missing", f"{topic.name}[{partition}]: the retraction of {void[1]}..{void[2]} "
                            f"of incarnation {void[0]} is at {mark}, behind a record of the next at {min(later)}")
    return {void for _, void in ranges}


class Published:
    """Where each record of a history stands in one feed: its own topic, repair topics, and what members read of it
    before it was deleted behind our back."""

    def __init__(self, history, topic, repairs, groups, void_ranges):
        self.history, self.topic, self.repairs = history, topic, repairs
        self.by_index = self._indexed(topic)
        self.repaired = {name: (repair, self._indexed(repair)) for name, repair in repairs.items()}
        self.by_incarnation = defaultdict(list)
        for incarnation, first, last in void_ranges:
            self.by_incarnation[incarnation].append((first, last))
        self.deleted = defaultdict(list)  # index -> [(partition, offset, incarnation)]
        lows = topic.low if topic is not None else {}
        for group in groups:
            for partition, low in lows.items():
                if low:
                    self._gone(group, partition, low)
                self._gone(group, former(partition), NEVER)
        self.matched = bytearray(len(topic) if topic is not None else 0)  # places that some record of the history accounts for

    def _gone(self, group, partition, low):
        """What this group read below `low`, where it can no longer be looked at."""
        for offset, (incarnation, index) in group.read.get((self.topic.name, partition), {}).items():
            if offset < low and (partition, offset, incarnation) not in self.deleted[index]:
                self.deleted[index].append((partition, offset, incarnation))

    @staticmethod
    def _indexed(topic):
        places = defaultdict(list)
        if topic is not None:
            for row, index in enumerate(topic.index):
                places[index].append(row)
        return places

    def retracted(self, incarnation, index):
        """A retraction holds for the incarnation that it names and for every earlier one."""
        return any(first <= index <= last for of, ranges in self.by_incarnation.items() if of >= incarnation
                   for first, last in ranges)

    def same(self, topic, place, row):
        """The digest: time and type, and the target, which a MARK does not have."""
        history = self.history
        return (topic.time[place] == history.time[row] and topic.kind[place] == history.kind[row]
                and (history.kind[row] == 0 or (topic.seq[place], topic.oid[place], topic.ver[place])
                     == (history.seq[row], history.oid[row], history.ver[row])))

    def places(self, row):
        """(partition, offset, live) of every place where this record stands or stood in the feed's own topic."""
        topic, index, found = self.topic, self.history.index[row], []
        for place in self.by_index.get(index, ()):
            if self.same(topic, place, row):
                self.matched[place] = 1
                found.append((topic.partition[place], topic.position(place),
                              not self.retracted(topic.incarnation[place], index)))
        if not found:
            found = [(partition, offset, not self.retracted(incarnation, index))
                     for partition, offset, incarnation in self.deleted.get(index, ())]
        return found

    def incarnations(self, row):
        """In which incarnations this record stands, and in which it stood and is retracted."""
        topic, index = self.topic, self.history.index[row]
        each = {topic.incarnation[place] for place in self.by_index.get(index, ()) if self.same(topic, place, row)}
        void = {incarnation for incarnation in each if self.retracted(incarnation, index)}
        return each - void, void

    def repairs_of(self, row, group):
        """(topic, partition, offset) where it was republished for this group."""
        topic, by_index = self.repaired.get(group, (None, {}))
        return [(topic.name, topic.partition[place], topic.position(place))
                for place in by_index.get(self.history.index[row], ()) if self.same(topic, place, row)]


def check_mdt(history, topics, feeds, takers, verdict, without_groups=False):
    """All checks of one MDT. `topics` are its own; `takers` the persistent groups that take it."""
    replay = Replay(history)
    takers = [taker for taker in takers if taker.mdts is None or history.mdt in taker.mdts]
    # When the last of the groups announced each record; NEVER where nobody may clear it yet.
    done = array("Q", bytes(8 * len(history)))
    if not takers and not without_groups:
        done = array("Q", [NEVER]) * len(history)
    for feed in feeds:
        own = [topic for topic in topics if topic.feed == feed.name]
        main = next((topic for topic in own if not topic.repairs), None)
        repairs = {topic.repairs: topic for topic in own if topic.repairs}
        void_ranges = check_topic(main, verdict) if main is not None else set()
        of_feed = [taker for taker in takers if taker.feed == feed.name]
        verdict.retractions += len(void_ranges)
        published = Published(history, main, repairs, [taker.group for taker in of_feed], void_ranges)
        _check_feed(replay, feed, published, of_feed, done, verdict)
        if main is not None:
            _check_truth(replay, main, published, verdict)
    verdict.records += sum(1 for row in range(len(history)) if not replay.void[row])
    verdict.purged_unread += sum(replay.purged)
    _check_clears(replay, done, verdict)


def _check_feed(replay, feed, published, takers, done, verdict):
    """Every record that happened is there and acknowledged; fills `done` with when the last group announced it."""
    history = replay.history
    name = published.topic.name if published.topic is not None else f"the topic of feed '{feed.name}'"
    for row in range(len(history)):
        if replay.void[row] or not feed.takes(history.kind[row]):
            continue
        places = published.places(row)
        # A retracted publication that was acknowledged says nothing of the record that happened.
        live = [(name, partition, offset) for partition, offset, alive in places if alive]
        if len(places) > 1:
            alive, void = published.incarnations(row)
            if len(alive) > 1:
                verdict.add("duplicate", f"{history.tell(row)} stands in {name} in the incarnations "
                                         f"{sorted(alive)}, and neither is retracted")
            if alive:
                verdict.repeated.update((name, incarnation) for incarnation in void)
        repaired = {taker: published.repairs_of(row, taker.group.name) for taker in takers}
        asked_for = not replay.purged[row]
        if not live and not any(repaired.values()) and asked_for:
            why = "it stands there, but retracted" if places else "it is not there"
            verdict.add("lost", f"{history.tell(row)} is not in {name}: {why}")
            asked_for = False
        latest = 0 if live or takers else NEVER
        for taker in takers:
            when = min((taker.group.when(*place) for place in live + repaired[taker]), default=NEVER)
            if when == NEVER and asked_for and taker.must_finish:
                verdict.add("not acknowledged", f"{history.tell(row)} was not acknowledged by {taker.group.name}")
            if taker.holds:
                latest = max(latest, when)
        done[row] = max(done[row], latest)


def _check_truth(replay, topic, published, verdict):
    """What is published and not retracted did happen."""
    history = replay.history
    void_at = defaultdict(list)
    for row in range(len(history)):
        if replay.void[row]:
            void_at[history.index[row]].append(row)
    void_places = set()
    for index, rows in void_at.items():
        for place in published.by_index.get(index, ()):
            if any(published.same(topic, place, row) for row in rows):
                void_places.add(place)
    for place in range(len(topic)):
        if published.retracted(topic.incarnation[place], topic.index[place]):
            continue
        if place in void_places:
            verdict.add("void but not retracted", f"{topic.tell(place)} was taken back by a crash")
        elif not published.matched[place]:
            verdict.add("never happened", f"{topic.tell(place)} is no record that the MDT ever had")


def _check_clears(replay, done, verdict):
    history = replay.history
    for at_ns, user, rows in replay.clears:
        for row in rows:
            verdict.cleared += 1
            if replay.void[row]:
                verdict.add("cleared and taken back", f"{history.tell(row)} was cleared by cl{user} at {at_ns} "
                                                      "before it was committed on the MDT: a crash took it back")
            elif replay.purged[row]:
                continue
            elif done[row] > at_ns:
                when = "never" if done[row] == NEVER else f"only {done[row] - at_ns} ns later"
                verdict.add("early clear", f"{history.tell(row)} was cleared by cl{user} at {at_ns}; the last group "
                                           f"announced it {when}")
