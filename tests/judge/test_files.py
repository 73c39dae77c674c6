"""What the judge reads from files: names, whole blocks, what is durable, and gaps between files."""

import json
import pathlib
import struct
import tempfile
import unittest

import fastavro

import avro
import read_files

MDT = "lus-MDT0000"


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
        data = struct.pack("<Q", 7).ljust(512, b"\0")
        for number, body in slots:
            data += (read_files.HEAD.pack(read_files.MAGIC, number, len(body), 0) + body).ljust(1024, b"\0")
        (self.at / "own.state").mkdir()
        (self.at / "own.state" / MDT).write_bytes(data)

    def read(self):
        return read_files.read_all(self.at, None)[self.topic.name]

    def test_files_are_read_in_order_whatever_their_codec(self):
        self.part(3, [7, 9], "zstandard")
        self.part(0, [1, 2, 4])
        topic = self.read()
        self.assertEqual((list(topic.index), list(topic.offset), topic.bad), ([1, 2, 4, 7, 9], [0, 1, 2, 3, 4], []))

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

    def test_what_was_trimmed_is_known_by_the_first_position(self):
        self.part(5, [7])
        self.assertEqual(self.read().low, {0: 5})


if __name__ == "__main__":
    unittest.main()
