"""What the judge reads from NATS: subjects, headers, and members that acknowledge each record by itself."""

import unittest

import members
import read_nats
from topics import Topic, key_of

MDT, STREAM = "lus-MDT0000", "lustre_lus-MDT0000"


def record(index, incarnation=1, kind=1, retracts=None):
    return {"mdt": MDT, "index": index, "incarnation": incarnation, "type_code": kind, "retracts": retracts,
            "tfid": {"seq": 0x200000401, "oid": 7, "ver": 0}}


class Subjects(unittest.TestCase):
    def test_a_stream_is_known_by_its_subjects(self):
        said = [read_nats.named("s", subjects) for subjects in (
            ["lustre.all.lus.MDT0000.>"], ["lustre.hsm.lus.MDT000a.>"], ["lustre.all.lus.MDT0000.>", "other.>"],
            ["other.all.lus.MDT0000.>"], [])]
        self.assertEqual([(topic.mdt, topic.feed) if topic is not None else None for topic in said],
                         [("lus-MDT0000", ""), ("lus-MDT000a", "hsm"), None, None, None])

    def test_partition_and_type_are_the_last_two_tokens(self):
        self.assertEqual(read_nats.placed("lustre.all.lus.MDT0000.3.CREAT"), (3, "CREAT"))

    def test_the_key_that_is_not_sent_is_the_objects(self):
        self.assertEqual(key_of(record(1)), b"[0x200000401:0x7:0x0]")
        self.assertIsNone(key_of(record(1, kind=0)))


class Chain(unittest.TestCase):
    def setUp(self):
        self.chain = read_nats.Chain(Topic(STREAM, MDT))

    def test_messages_that_name_the_one_before_are_right(self):
        for header, index in (("1:5:0", 5), ("1:6:5", 6), ("1:9:6", 9)):
            self.assertIsNone(self.chain.fault(header, "CREAT", record(index)))

    def test_a_hole_is_found(self):
        self.chain.fault("1:5:4", "CREAT", record(5))
        self.assertIn("which is 5", self.chain.fault("1:7:6", "CREAT", record(7)))

    def test_a_header_or_subject_that_says_another_record_is_found(self):
        self.assertIn("it is 1:5", self.chain.fault("1:6:4", "CREAT", record(5)))
        self.assertIn("header", self.chain.fault(None, "CREAT", record(5)))
        self.assertIn("subject", self.chain.fault("1:5:4", "UNLNK", record(5)))


class Members(unittest.TestCase):
    def test_a_record_is_done_when_it_was_announced_by_itself(self):
        group = members.Group("g")
        group.about_each(30, {STREAM: {"0": [4, 9], "1": [5]}})
        group.about_each(20, {STREAM: {"0": [9]}})
        self.assertEqual([group.when(STREAM, 0, 4), group.when(STREAM, 0, 9), group.when(STREAM, 1, 5)], [30, 20, 30])
        self.assertEqual([group.when(STREAM, 0, 5), group.when(STREAM, 1, 4)], [members.NEVER, members.NEVER])

    def test_a_floor_covers_what_lies_below_it(self):
        group = members.Group("g")
        group.about_each(30, {STREAM: {"0": [4]}})
        group.commits[STREAM, 0].add(50, 6)
        self.assertEqual([group.when(STREAM, 0, 4), group.when(STREAM, 0, 5), group.when(STREAM, 0, 6)],
                         [30, 50, members.NEVER])


if __name__ == "__main__":
    unittest.main()
