"""The judge bites: a right history passes, and each planted violation is found, and only it."""

import json
import pathlib
import tempfile
import unittest

import checks
import members
import oracle
from topics import Topic

MDT, NAME, PARTITIONS = "lus-MDT0000", "lustre.lus-MDT0000", 3
TICK = 1000


class World:
    """A small run that went well: records emitted, published, acknowledged by two groups, cleared."""

    def __init__(self, records=30):
        self.clock = 0
        self.history = oracle.History(MDT)
        self.topic = Topic(NAME, MDT, partitions=PARTITIONS, low=dict.fromkeys(range(PARTITIONS), 0))
        self.groups = {name: members.Group(name) for name in ("robinhood", "lake")}
        self.ends = dict.fromkeys(range(PARTITIONS), 0)
        self.next = 1
        self.event("registered", user=1, index=0)
        self.emit(records)

    def now(self):
        self.clock += TICK
        return self.clock

    def event(self, kind, **more):
        self.history.event({"event": kind, "at_ns": self.now(), **more})

    def emit(self, count, kind=1):
        """Emits `count` records; returns their rows."""
        first = len(self.history)
        for _ in range(count):
            time = self.now()
            self.history.record(1, self.next, kind, time, 0x200000401, self.next, 0, time)
            self.next += 1
        return list(range(first, len(self.history)))

    def publish(self, rows, incarnation=1):
        for row in rows:
            self.put(row % PARTITIONS, row, incarnation)

    def put(self, partition, row, incarnation=1):
        history = self.history
        self.topic.add(partition, self.ends[partition], {
            "incarnation": incarnation, "index": history.index[row], "type_code": history.kind[row],
            "time": history.time[row],
            "tfid": {"seq": history.seq[row], "oid": history.oid[row], "ver": history.ver[row]}})
        self.ends[partition] += 1

    def retract(self, incarnation, void, partitions=range(PARTITIONS)):
        for partition in partitions:
            self.topic.add(partition, self.ends[partition], {
                "incarnation": incarnation, "index": 0,
                "retracts": {"incarnation": void[0], "from": void[1], "to": void[2]}})
            self.ends[partition] += 1

    def acknowledge(self, *names):
        for name in names or self.groups:
            self.groups[name].about(self.now(), {NAME: {p: end for p, end in self.ends.items()}})

    def clear(self, upto):
        self.event("clear", user=1, index=upto, after=upto, errno=0)

    def verdict(self, feeds=None, topics=None, **taker):
        verdict = checks.Verdict()
        takers = [checks.Taker(group, **taker) for group in self.groups.values()]
        checks.check_mdt(self.history, topics or [self.topic], feeds or [checks.Feed()], takers, verdict)
        return verdict


def good():
    world = World()
    world.publish(range(30))
    world.acknowledge()
    world.clear(20)
    return world


class Judge(unittest.TestCase):
    def only(self, world, kind, count=None, **more):
        """Given a world with one planted violation, then the judge finds that kind and no other."""
        verdict = world.verdict(**more)
        self.assertEqual(set(verdict.counts), {kind}, verdict.told)
        if count is not None:
            self.assertEqual(verdict.counts[kind], count, verdict.told)

    def test_a_run_that_went_well_passes(self):
        verdict = good().verdict()
        self.assertEqual(verdict.counts, {}, verdict.told)
        self.assertEqual((verdict.records, verdict.cleared), (30, 20))

    def test_a_lost_record_is_found(self):
        world = World()
        world.publish(row for row in range(30) if row != 17)
        world.acknowledge()
        self.only(world, "lost", 1)

    def test_a_record_with_other_content_at_the_same_index_does_not_count_as_published(self):
        world = good()
        world.topic.time[11] += 1
        verdict = world.verdict()
        self.assertEqual(verdict.counts["never happened"], 1)
        self.assertEqual(verdict.counts["lost"], 1)

    def test_a_duplicate_is_found(self):
        world = World()
        world.publish(range(30))
        world.put(29 % PARTITIONS, 29)
        world.acknowledge()
        self.only(world, "duplicate", 1)

    def test_a_record_that_comes_again_in_the_next_incarnation_without_a_retraction_is_a_duplicate(self):
        world = World()
        world.publish(range(30))
        world.retract(2, (1, 28, 40))
        world.publish(range(25, 30), incarnation=2)
        world.acknowledge()
        world.clear(20)
        self.only(world, "duplicate", 2)

    def two_crashes(self, *firsts):
        """Nothing is wrong when each takes back what stands from its first index on, and it all comes again behind a retraction."""
        world = World()
        world.publish(range(30))
        for incarnation, first in enumerate(firsts, 2):
            world.retract(incarnation, (incarnation - 1, first, 40))
            world.publish(range(first - 1, 30), incarnation=incarnation)
        world.acknowledge()
        world.clear(20)
        verdict = world.verdict()
        self.assertEqual(verdict.counts, {}, verdict.told)
        return verdict

    def test_a_retraction_holds_for_earlier_incarnations_too(self):
        # The second one reaches behind the beginning of the incarnation that followed the first.
        self.two_crashes(26, 21)

    def test_what_comes_again_behind_a_retraction_is_counted_and_no_duplicate(self):
        verdict = self.two_crashes(21, 26)
        self.assertEqual((verdict.row()["repeated"], verdict.row()["most_repeated"]), (15, 10))

    def test_a_duplicate_in_another_partition_is_found(self):
        world = World()
        world.publish(range(30))
        world.put(0, 28)
        world.acknowledge()
        self.only(world, "duplicate", 1)

    def test_a_swap_within_a_partition_is_found(self):
        world = World()
        world.publish([3, 0, *range(1, 3), *range(4, 30)])
        world.acknowledge()
        self.only(world, "order", 1)

    def test_a_record_that_one_group_never_acknowledged_is_found(self):
        world = World()
        world.publish(range(30))
        world.acknowledge("robinhood")
        world.groups["lake"].about(1, {NAME: {0: 10, 1: 10, 2: 9}})
        self.only(world, "not acknowledged", 1)

    def test_an_early_clear_is_found_when_one_group_commits_after_it(self):
        world = World()
        world.publish(range(30))
        world.acknowledge("robinhood")
        world.clear(7)
        world.acknowledge("lake")
        self.only(world, "early clear", 7)

    def test_a_clear_beyond_the_announced_position_is_early_by_just_those_records(self):
        world = World()
        world.publish(range(12))
        world.acknowledge()
        world.publish(range(12, 30))
        world.clear(14)
        world.acknowledge()
        self.only(world, "early clear", 2)

    def test_a_clear_while_a_group_has_never_committed_is_early(self):
        world = World()
        world.publish(range(30))
        world.acknowledge("robinhood")
        world.clear(1)
        self.only(world, "early clear", 1, must_finish=False)

    def test_no_clear_waits_for_a_group_that_was_released_but_it_must_acknowledge_everything(self):
        world = World()
        world.publish(range(30))
        world.acknowledge("robinhood")
        world.clear(30)
        self.only(world, "not acknowledged", 30, holds=False)
        world.acknowledge()
        self.assertFalse(world.verdict(holds=False).counts)

    def test_what_was_read_of_a_topic_deleted_since_counts_only_for_what_is_not_in_the_new_one(self):
        world = World()
        rows = {str(p): [(o, 1, 3 * o + p + 1) for o in range(10)] for p in range(PARTITIONS)}
        ends = {str(p): 10 for p in range(PARTITIONS)}
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "m.jsonl"
            log.write_text("".join(json.dumps({"group": group, "at_ns": world.now(), **line}) + "\n"
                                   for group in world.groups for line in (
                {"event": "started", "log_records": True}, {"event": "records", "records": {NAME: rows}},
                {"event": "about", "offsets": {NAME: ends}})))
            world.groups = members.read([], [log])
        world.clear(20)
        self.assertFalse(world.verdict().counts)
        # The new topic's records are not acknowledged by what was said of the old one.
        world.publish(range(20, 30), incarnation=2)
        self.only(world, "not acknowledged", 20)

    def test_a_clear_without_any_group_is_early(self):
        world = good()
        world.groups.clear()
        self.only(world, "early clear", 20)

    def test_a_refused_clear_is_no_clear(self):
        world = World()
        world.publish(range(30))
        world.event("clear", user=1, index=30, after=None, errno=22)
        world.acknowledge()
        verdict = world.verdict()
        self.assertEqual((verdict.counts, verdict.cleared), ({}, 0))

    def test_a_commit_that_jumps_over_unread_records_is_no_acknowledgement(self):
        world = good()
        for group in world.groups.values():
            places = {}
            for row in range(len(world.topic)):
                places.setdefault(world.topic.partition[row], []).append(
                    (world.topic.offset[row], 1, world.topic.index[row]))
            group.records({NAME: places})
        self.assertEqual(world.verdict().counts, {})
        del world.groups["lake"].read[NAME, 0][9]  # row 27, index 28: not cleared
        self.only(world, "not acknowledged", 1)

    def test_a_type_that_the_feed_drops_is_neither_lost_nor_early(self):
        world = World()
        dropped = world.emit(5, kind=11)
        world.publish(range(30))
        world.acknowledge()
        world.clear(world.history.index[dropped[-1]])
        verdict = world.verdict(feeds=[checks.Feed("", frozenset({1}))])
        self.assertEqual(verdict.counts, {}, verdict.told)

    def test_a_record_of_two_feeds_is_early_until_both_have_it_acknowledged(self):
        world = good()
        other = Topic(NAME + ".hsm", MDT, feed="hsm", partitions=1, low={0: 0})
        history = world.history
        for row in range(30):
            other.add(0, row, {"incarnation": 1, "index": history.index[row], "type_code": 1, "time": history.time[row],
                               "tfid": {"seq": history.seq[row], "oid": history.oid[row], "ver": 0}})
        archiver = members.Group("archiver")
        archiver.about(world.now(), {other.name: {0: 30}})
        verdict = checks.Verdict()
        takers = [checks.Taker(world.groups["lake"]), checks.Taker(archiver, "hsm")]
        checks.check_mdt(history, [world.topic, other], [checks.Feed(), checks.Feed("hsm")], takers, verdict)
        self.assertEqual(verdict.counts, {"early clear": 20}, verdict.told)


def crashed(marks=range(PARTITIONS), early=False, late=False):
    """30 records published; an MDT crash takes 26..30 back; 26' to 28' take their places."""
    world = World()
    world.publish(range(30))
    world.acknowledge()
    world.clear(30 if early else 20)
    world.event("taken_back", life=2, **{"from": 26, "to": 30}, reason="crash", clears=[])
    world.next = 26
    fresh = world.emit(3)
    if not late:
        world.retract(2, (1, 26, 30), marks)
    world.publish(fresh, incarnation=2)
    if late:
        world.retract(2, (1, 26, 30), marks)
    world.acknowledge()
    world.clear(28)
    return world


class MdtCrash(unittest.TestCase):
    only = Judge.only

    def test_a_retracted_crash_passes(self):
        verdict = crashed().verdict()
        self.assertEqual(verdict.counts, {}, verdict.told)
        self.assertEqual((verdict.records, verdict.cleared), (28, 28))

    def test_no_retraction_at_all_is_found(self):
        counts = crashed(marks=()).verdict().counts
        self.assertEqual(counts, {"retraction missing": 1, "void but not retracted": 5})

    def test_a_retraction_missing_in_one_partition_is_found(self):
        self.only(crashed(marks=(0, 2)), "retraction missing", 1)

    def test_a_retraction_behind_the_first_record_of_the_next_incarnation_is_found(self):
        self.only(crashed(late=True), "retraction missing", 3)

    def test_a_retraction_that_is_too_short_is_found(self):
        world = crashed()
        world.topic.retractions = [(p, o, i, (1, 26, 29)) for p, o, i, _ in world.topic.retractions]
        self.only(world, "void but not retracted", 1)

    def test_a_surviving_record_that_was_retracted_and_not_published_again_is_lost(self):
        world = crashed()
        world.topic.retractions = [(p, o, i, (1, 25, 30)) for p, o, i, _ in world.topic.retractions]
        self.assertEqual(world.verdict().counts, {"lost": 1, "early clear": 1})

    def test_a_clear_that_outran_the_journal_is_found(self):
        verdict = crashed(early=True).verdict()
        self.assertEqual(verdict.counts, {"cleared and taken back": 5}, verdict.told)

    def test_an_acknowledgement_of_the_old_record_does_not_allow_to_clear_the_new_one(self):
        world = World()
        world.publish(range(30))
        world.acknowledge()
        world.event("taken_back", life=2, **{"from": 30, "to": 30}, reason="crash", clears=[])
        world.next = 30
        fresh = world.emit(1)
        world.clear(30)
        world.retract(2, (1, 30, 30))
        world.publish(fresh, incarnation=2)
        world.acknowledge()
        self.only(world, "early clear", 1)

    def test_a_clear_taken_back_with_its_records_is_judged_again_for_the_new_ones(self):
        world = World()
        world.publish(range(30))
        world.acknowledge()
        world.clear(30)
        world.event("taken_back", life=2, **{"from": 29, "to": 30}, reason="crash",
                    clears=[{"user": 1, "from": 30, "to": 10}])
        world.next = 29
        world.publish(world.emit(2), incarnation=2)
        world.clear(30)
        self.assertEqual(world.verdict(must_finish=False).counts["early clear"], 2)


class Repair(unittest.TestCase):
    def world(self):
        """Partition 0 lost its records below offset 4 before `lake` read 2 and 3; robinhood had read them all."""
        world = World()
        world.publish(range(30))
        rows = [(world.topic.offset[row], 1, world.topic.index[row])
                for row in range(30) if world.topic.partition[row] == 0]
        for partition in range(PARTITIONS):
            for name, group in world.groups.items():
                read = [(world.topic.offset[row], 1, world.topic.index[row])
                        for row in range(30) if world.topic.partition[row] == partition]
                if partition == 0 and name == "lake":
                    read = read[:2] + read[4:]
                group.records({NAME: {partition: read}})
        world.acknowledge()
        keep = [row for row in range(30) if world.topic.partition[row] != 0 or world.topic.offset[row] >= 4]
        topic = Topic(NAME, MDT, partitions=PARTITIONS, low={0: 4, 1: 0, 2: 0})
        for row in keep:
            topic.add(world.topic.partition[row], world.topic.offset[row], {
                "incarnation": 1, "index": world.topic.index[row], "type_code": 1, "time": world.topic.time[row],
                "tfid": {"seq": world.topic.seq[row], "oid": world.topic.oid[row], "ver": 0}})
        world.topic = topic
        return world, [index - 1 for _, _, index in rows[2:4]]

    def repaired(self, world, rows):
        repair = Topic(NAME + ".repair.lake", MDT, repairs="lake", partitions=1, low={0: 0})
        for offset, row in enumerate(rows):
            repair.add(0, offset, {
                "incarnation": 1, "index": world.history.index[row], "type_code": 1, "time": world.history.time[row],
                "tfid": {"seq": world.history.seq[row], "oid": world.history.oid[row], "ver": 0}})
        world.groups["lake"].records({repair.name: {0: [(o, 1, world.history.index[r]) for o, r in enumerate(rows)]}})
        world.groups["lake"].about(world.now(), {repair.name: {0: len(rows)}})
        return repair

    def test_records_deleted_before_a_group_read_them_are_not_acknowledged_by_its_jump(self):
        world, _ = self.world()
        self.assertEqual(world.verdict().counts, {"not acknowledged": 2})

    def test_records_repaired_for_the_group_are_acknowledged_there(self):
        world, rows = self.world()
        repair = self.repaired(world, rows)
        world.clear(30)
        verdict = world.verdict(topics=[world.topic, repair])
        self.assertEqual(verdict.counts, {}, verdict.told)

    def test_a_clear_before_the_repair_was_acknowledged_is_early(self):
        world, rows = self.world()
        world.clear(30)
        repair = self.repaired(world, rows)
        self.assertEqual(world.verdict(topics=[world.topic, repair]).counts, {"early clear": 2})


if __name__ == "__main__":
    unittest.main()
