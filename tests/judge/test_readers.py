"""What the judge reads: Avro, oracle files, members' logs, keys, the report."""

import io
import json
import pathlib
import struct
import tempfile
import unittest

import fastavro

import avro
import judge
import members
import oracle
import partitioning
import read_kafka
import report
import topics

MDT = "lus-MDT0000"
FID = {"seq": 0x200000401, "oid": 7, "ver": 0}


class Avro(unittest.TestCase):
    def setUp(self):
        self.schemas = avro.load()
        self.decoder = avro.Decoder()

    def framed(self, version, **more):
        """A record as any writer of that version would frame it."""
        record = {"mdt": MDT, "index": 5, "incarnation": 2, "type": "CREAT", "type_code": 1, "time": 123456789012,
                  "flags": 0, "tfid": FID, "pfid": None, "name": "n", "name_raw": None, **more}
        out = io.BytesIO()
        schema = avro.plain(self.schemas[version])
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
        return avro.MAGIC + avro.fingerprint_of(schema) + out.getvalue()

    def test_the_fingerprint_is_the_one_of_the_specification(self):
        # Avro's own test vectors give 7195948357588979594 for "null".
        self.assertEqual(avro.fingerprint_of("null"), struct.pack("<q", 7195948357588979594))

    def test_every_version_is_decoded_by_its_fingerprint(self):
        self.assertEqual(sorted(self.schemas), [1, 2, 3, 4, 5])
        for version in self.schemas:
            seen, record = self.decoder(self.framed(version))
            self.assertEqual(seen, version)
            self.assertEqual((record["mdt"], record["index"], record["incarnation"], record["time"], record["tfid"]),
                             (MDT, 5, 2, 123456789012, FID))
            self.assertIsNone(record["retracts"])

    def test_a_retraction_and_a_rename_are_seen(self):
        _, record = self.decoder(self.framed(5, retracts={"incarnation": 1, "from": 3, "to": 9}))
        self.assertEqual(record["retracts"], {"incarnation": 1, "from": 3, "to": 9})
        source = {"seq": 0x200000402, "oid": 9, "ver": 0}
        _, record = self.decoder(self.framed(2, rename={"sfid": source, "spfid": FID, "sname": "a", "sname_raw": None}))
        self.assertEqual(record["rename"]["sfid"], source)

    def test_what_is_not_framed_or_unknown_is_told(self):
        with self.assertRaisesRegex(ValueError, "not single-object"):
            self.decoder(b"\0\0\0\0\1rest")
        with self.assertRaisesRegex(ValueError, "no schema file"):
            self.decoder(avro.MAGIC + bytes(8))

    def test_a_message_is_taken_into_its_topic_and_its_key_judged(self):
        topic = read_kafka.named(f"lustre.{MDT}")
        topic.partitions = 4
        key = b"[0x200000401:0x7:0x0]"
        where = partitioning.partition(key, 4)
        topics.take(topic, where, 0, key, self.framed(5), None, self.decoder)
        self.assertEqual((len(topic), topic.misplaced), (1, []))
        topics.take(topic, (where + 1) % 4, 0, key, self.framed(5), None, self.decoder)
        topics.take(topic, where, 1, b"[0x200000401:0x8:0x0]", self.framed(5), None, self.decoder)
        self.assertEqual(len(topic.misplaced), 2)
        topics.take(topic, where, 2, key, b"rubbish", None, self.decoder)
        self.assertEqual(len(topic.bad), 1)


class Oracle(unittest.TestCase):
    def file(self, data):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = pathlib.Path(folder.name) / "oracle"
        path.write_bytes(data)
        return path

    @staticmethod
    def entry(index):
        return oracle.EMITTED.pack(oracle.E, 1, index, 1, 1000 + index, 0x200000401, index, 0, 2000 + index)

    @staticmethod
    def event(**event):
        text = json.dumps(event).encode()
        return b"J" + struct.pack("<I", len(text)) + text

    def test_records_and_events_keep_their_order_and_a_torn_end_is_left_out(self):
        data = self.entry(1) + self.entry(2) + self.event(event="committed", upto=2) + self.entry(3) + self.entry(4)[:20]
        history = oracle.read(self.file(data), MDT)
        self.assertEqual(list(history.index), [1, 2, 3])
        self.assertEqual(history.events, [(2, {"event": "committed", "upto": 2})])

    def test_the_export_as_lines_says_the_same(self):
        line = json.dumps({"event": "record", "mdt": MDT, "life": 1, "index": 4, "type": "CREAT", "type_code": 1,
                           "time_ns": 1004, "tfid": "[0x200000401:0x4:0x0]", "wall_ns": 2004}) + "\n"
        history = oracle.read(self.file((line + '{"event":"committed","upto":4}\n' + line[:20]).encode()), MDT)
        self.assertEqual((list(history.index), list(history.oid), len(history.events)), ([4], [4], 1))

    def test_a_damaged_file_is_told(self):
        with self.assertRaisesRegex(ValueError, "damaged at byte 49"):
            oracle.read(self.file(self.entry(1) + b"?" * 60), MDT)


class Members(unittest.TestCase):
    def test_the_time_of_an_acknowledgement_is_that_of_the_first_announcement_beyond_it(self):
        group = members.Group("g")
        group.about(30, {"t": {"0": 10}})
        group.about(10, {"t": {"0": 5}})
        group.about(20, {"t": {"0": 3}})  # read again after a rebalance
        self.assertEqual([group.when("t", 0, offset) for offset in (0, 4, 5, 9, 10)],
                         [10, 10, 30, 30, members.NEVER])
        self.assertEqual(group.when("t", 1, 0), members.NEVER)

    def test_half_a_line_of_a_killed_member_is_left_out(self):
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "m.jsonl"
            about = json.dumps({"event": "about", "at_ns": 7, "group": "g", "member": "m", "offsets": {"t": {"0": 2}}})
            log.write_text(about + "\n" + about.replace("2}", "9}")[:-3])
            groups = members.read([folder])
        self.assertEqual((groups["g"].when("t", 0, 1), groups["g"].when("t", 0, 2)), (7, members.NEVER))


class Names(unittest.TestCase):
    def test_topics_are_known_by_their_names(self):
        seen = [(topic.mdt, topic.feed, topic.repairs) if topic is not None else None for topic in map(read_kafka.named, (
            "lustre.lus-MDT0000", "lustre.lus-MDT000a.hsm", "lustre.lus-MDT0000.repair.lake",
            "lustre.lus-MDT0000.hsm.repair.lake", "clbridge.state.lus-MDT0000", "lustre.other"))]
        self.assertEqual(seen, [("lus-MDT0000", "", ""), ("lus-MDT000a", "hsm", ""), ("lus-MDT0000", "", "lake"),
                                ("lus-MDT0000", "hsm", "lake"), None, None])

    def test_groups_and_feeds_are_read_from_the_command_line(self):
        known = {}
        found = judge.takers(["a", "b@hsm=x-MDT0000,x-MDT0001"], ["b"], ["a"], known)
        self.assertEqual([(t.group.name, t.feed, t.mdts, t.must_finish, t.holds) for t in found],
                         [("a", "", None, True, False),
                          ("b", "hsm", frozenset({"x-MDT0000", "x-MDT0001"}), False, True)])
        self.assertEqual(judge.feeds(["hsm=HSM,11"])["hsm"].types, frozenset({16, 11}))


class Report(unittest.TestCase):
    def test_rows_are_appended_to_one_array(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "report" / "faults.json"
            report.append({"fault": "a"}, path)
            report.append({"fault": "b"}, path)
            self.assertEqual(json.loads(path.read_text()), [{"fault": "a"}, {"fault": "b"}])


if __name__ == "__main__":
    unittest.main()
