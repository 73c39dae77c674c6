"""What the judge reads from files: names, whole blocks, what is durable, and gaps between files."""

import json
import pathlib
import struct
import tempfile
import unittest

import fastavro
import xxhash

import avro
import member_files
import read_files

MDT = "lus-MDT0000"


def image(number, body):
    """A slot, as it is written."""
    return read_files.HEAD.pack(read_files.MAGIC, number, len(body), xxhash.xxh64_intdigest(body, seed=number)) + body


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.at = pathlib.Path(folder.name)
        self.topic = self.at / f"lustre.{MDT}"
        self.topic.mkdir()
        self.schema = fastavro.parse_schema(avro.plain(avro.load()[5]))

    def part(self, first, indexes, codec="deflate", end=".avro"):
        path = self.topic / f"{first:020}.1-{indexes[0]}{end}"
        rows = [{"mdt": MDT, "index": index, "incarnation": 1, "type": "CREAT", "type_code": 1, "time": 1000 + index,
                 "flags": 0, "tfid": {"seq": 1, "oid": index, "ver": 0}, "pfid": None, "name": None, "name_raw": None}
                for index in indexes]
        with open(path, "wb") as out:
            fastavro.writer(out, self.schema, rows, codec=codec, sync_interval=1)
        return path

    def state(self, file, length):
        """A file of State that says so, newest slot second."""
        text = json.dumps({"topics": {self.topic.name: {"id": "x", "file": file, "length": length, "end": 0}}}).encode()
        slots = [(6, b'{"topics":{}}\n'), (7, text + b"\n{}")]
        self.two_slots(self.at / "own.state" / MDT, slots)

    @staticmethod
    def two_slots(path, slots):
        data = struct.pack("<Q", slots[-1][0]).ljust(512, b"\0")
        for number, body in sorted(slots, key=lambda slot: slot[0] % 2):
            data += image(number, body).ljust(1024, b"\0")
        path.parent.mkdir(parents=True)
        path.write_bytes(data)

    def read(self):
        return read_files.read_all(self.at, None)[self.topic.name]

    def test_files_are_read_in_order_whatever_their_codec(self):
        self.part(3, [7, 9], "zstandard")
        self.part(0, [1, 2, 4])
        topic = self.read()
        self.assertEqual((list(topic.index), list(topic.offset), topic.bad), ([1, 2, 4, 7, 9], [0, 1, 2, 3, 4], []))

    def test_while_a_start_replaces_state_the_one_before_counts(self):
        self.part(0, [1, 2, 4])
        self.state(0, 0)
        own = self.at / "own.state"
        before = self.read()
        (own / MDT).rename(own / f"{MDT}.before")
        (own / MDT).write_bytes(bytes(512 + 2 * 1024))
        self.assertEqual(list(self.read().index), list(before.index))

    def test_only_what_is_durable_counts_of_the_file_that_is_written(self):
        path = self.part(0, list(range(1, 10)))
        whole = path.stat().st_size
        self.part(9, [10, 11], end=".avro.inprogress")
        self.state(0, whole)
        self.assertEqual(len(self.read()), 9)

    def test_a_gap_between_files_is_told(self):
        self.part(0, [1, 2])
        self.part(3, [4])
        self.assertIn("next begins at 3", self.read().bad[0][2])

    def test_a_member_takes_what_is_durable_and_writes_its_position_for_the_next_one(self):
        path = self.part(0, list(range(1, 10)))
        size = path.stat().st_size
        self.state(0, size)
        place = self.at / "own.groups" / "g" / f"{self.topic.name}.position"
        self.two_slots(place, [(1, b'{"topic_id":"x","position":3}'), (2, b'{"topic_id":"x","position":4}')])
        held = member_files.Position(place)
        with self.assertRaises(BlockingIOError):
            member_files.Position(place)
        tail = member_files.Tail(self.at, "lustre", self.topic.name, held.stand["position"])
        self.assertEqual([(at, record["index"]) for at, record in tail.take(100)],
                         [(4, 5), (5, 6), (6, 7), (7, 8), (8, 9)])
        self.assertEqual(tail.take(100), [])
        held.write(9)
        held.close()
        again = member_files.Position(place)
        self.addCleanup(again.close)
        self.assertEqual(again.stand, {"topic_id": "x", "position": 9})

    def test_a_member_goes_on_when_more_is_durable_and_in_the_next_file(self):
        path = self.part(0, list(range(1, 6)))
        whole = path.read_bytes()
        tail = member_files.Tail(self.at, "lustre", self.topic.name, 0)
        self.state(0, 0)
        self.assertEqual(tail.take(100), [])
        self.part(5, [7], end=".avro.inprogress")
        (self.at / "own.state" / MDT).unlink()
        (self.at / "own.state").rmdir()
        self.state(5, 1 << 20)
        self.assertEqual([at for at, _ in tail.take(100)], [0, 1, 2, 3, 4, 5])
        self.assertEqual(path.read_bytes(), whole)

    def test_what_was_trimmed_is_known_by_the_first_position(self):
        self.part(5, [7])
        self.assertEqual(self.read().low, {0: 5})


if __name__ == "__main__":
    unittest.main()
