"""What the judge reads from RabbitMQ: routing keys, packed messages, names, and groups that answer by identity."""

import types
import unittest

import members
import read_amqp
from test_checks import MDT, World
from topics import identity


class Messages(unittest.TestCase):
    def test_exchange_and_routing_key_tell_the_topic(self):
        said = [read_amqp.named(*where) for where in (
            ("lustre", "lus-MDT0000.CREAT"), ("lustre.hsm", "lus-MDT000a.RETRACTION"), ("other", "lus-MDT0000.CREAT"),
            ("lustre", "audit.lustre"))]
        self.assertEqual(said, [("lustre.lus-MDT0000", "lus-MDT0000", "", "CREAT"),
                                ("lustre.lus-MDT000a.hsm", "lus-MDT000a", "hsm", "RETRACTION"), None, None])

    def test_a_packed_message_is_unpacked_and_a_torn_one_is_told(self):
        body = b"\0\0\0\3abc\0\0\0\1d"
        self.assertEqual(read_amqp.unpacked(read_amqp.PACKED, body), [b"abc", b"d"])
        self.assertEqual(read_amqp.unpacked("avro/binary", body), [body])
        with self.assertRaisesRegex(ValueError, "ends within a record"):
            read_amqp.unpacked(read_amqp.PACKED, body[:-1])

    def test_a_name_or_key_that_says_another_record_is_found(self):
        record = {"incarnation": 2, "index": 7, "type_code": 1, "retracts": None}
        named = types.SimpleNamespace(message_id=f"{MDT}/all:2:7")
        self.assertIsNone(read_amqp.fault(named, "CREAT", MDT, "", record))
        self.assertIn("routing key", read_amqp.fault(named, "UNLNK", MDT, "", record))
        self.assertIn("message_id", read_amqp.fault(named, "CREAT", MDT, "hsm", record))
        self.assertIn(":r0", read_amqp.fault(named, "RETRACTION", MDT, "", record | {"retracts": {}}))


class Answers(unittest.TestCase):
    def world(self):
        world = World()
        world.topic.by_identity, world.topic.partitions = True, 1
        for row in range(30):
            world.put(0, row)
        return world

    def answer(self, world, rows, incarnation=1):
        for group in world.groups.values():
            group.about_each(world.now(), {world.topic.name: {"0": [identity(incarnation, row + 1) for row in rows]}})

    def test_answers_by_identity_count(self):
        world = self.world()
        self.answer(world, range(30))
        world.clear(20)
        self.assertEqual(world.verdict().counts, {})

    def test_an_answer_to_what_was_retracted_does_not_clear_what_came_again(self):
        world = self.world()
        self.answer(world, range(30))
        world.retract(2, (1, 26, 40), partitions=[0])
        for row in range(25, 30):
            world.put(0, row, incarnation=2)
        world.clear(28)
        verdict = world.verdict()
        self.assertEqual(dict(verdict.counts), {"not acknowledged": 10, "early clear": 3}, verdict.told)
        self.answer(world, range(25, 30), incarnation=2)
        world.clear(30)
        self.assertEqual(dict(world.verdict().counts), {"early clear": 3})

    def test_a_group_that_answered_nothing_holds_everything_back(self):
        world = self.world()
        self.answer(world, range(30))
        world.groups["third"] = members.Group("third")
        world.clear(20)
        self.assertEqual(set(world.verdict().counts), {"not acknowledged", "early clear"})


if __name__ == "__main__":
    unittest.main()
