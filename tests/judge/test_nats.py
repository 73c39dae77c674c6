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
            ["lustre.all.lus.MDT0000.0.*", "lustre.all.lus.MDT0000.1.*"], ["lustre.hsm.lus.MDT000a.0.*"],
            ["lustre.all.lus.MDT0000.0.*", "other.>"], ["other.all.lus.MDT0000.0.*"],
            ["lustre.all.lus.MDT0000.repair.lake.0.*"], [])]
        self.assertEqual([(topic.mdt, topic.feed, topic.repairs) if topic is not None else None for topic in said],
                         [("lus-MDT0000", "", ""), ("lus-MDT000a", "hsm", ""), None, None, ("lus-MDT0000", "", "lake"), None])

    def test_partition_and_type_are_the_last_two_tokens(self):
        self.assertEqual(read_nats.placed("lustre.all.lus.MDT0000.3.CREAT"), (3, "CREAT"))

    def test_the_key_that_is_not_sent_is_the_objects(self):
        self.assertEqual(key_of(record(1)), b"[0x200000401:0x7:0x0]")
        self.assertIsNone(key_of(record(1, kind=0)))


class Chain(unittest.TestCase):
    def setUp(self):
        self.chain = read_nats.Chain(Topic(STREAM, MDT))

    def fault(self, name, before, token, index, **more):
        headers = {read_nats.IDENTITY: name, read_nats.BEFORE: before}
        return self.chain.fault({key: value for key, value in headers.items() if value}, token, record(index, **more))

    def test_messages_that_name_the_one_before_are_right(self):
        for name, before, index in (("w:1:5", None, 5), ("w:1:6", "w:1:5", 6), ("v:1:9", "w:1:6", 9), ("v:1:10", None, 10)):
            self.assertIsNone(self.fault(name, before, "CREAT", index))

    def test_one_that_stands_behind_another_than_was_meant_is_found(self):
        self.fault("w:1:5", None, "CREAT", 5)
        self.assertIn("w:1:5 stands before it", self.fault("w:1:7", "w:1:6", "CREAT", 7))

    def test_a_header_or_subject_that_says_another_record_is_found(self):
        self.assertIn("it is 1:5", self.fault("w:1:6", None, "CREAT", 5))
        self.assertIn("it is 1:5", self.fault(None, None, "CREAT", 5))
        self.assertIn("subject", self.fault("w:1:5", None, "UNLNK", 5))
        self.assertIsNone(self.fault("w:1:5", None, "T99", 5, kind=99))


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
