"""Every version of the schema reads every other, decided by fastavro on bytes that clbridge's encoder wrote."""

import io
import json
import os
import pathlib
import sys
import unittest

import fastavro

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "judge"))

import avro  # noqa: E402

# A folder for each capture, written by the example avro_samples of schemas/.
SAMPLES = sorted(pathlib.Path(os.environ["CLB_AVRO_SAMPLES"]).iterdir())


def framed(folder, version):
    """The sample file of a version: messages, each behind its length (u32, little-endian)."""
    data, at, found = (folder / f"v{version}.bin").read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at:at + 4], "little")
        found.append(data[at + 4:at + 4 + size])
        at += 4 + size
    return found


def expected(folder, version):
    """The same records as the writer's side says they are, one JSON object a line."""
    return [json.loads(line) for line in (folder / f"v{version}.jsonl").read_text().splitlines()]


def as_json(value):
    """Bytes as the expectation writes them: a list of numbers."""
    if isinstance(value, dict):
        return {key: as_json(part) for key, part in value.items()}
    return list(value) if isinstance(value, bytes) else value


def missing(field):
    """What a reader sees in a field that the writer did not have."""
    return field["default"]


class EveryVersionReadsEveryOther(unittest.TestCase):
    def test_all_pairs_resolve_both_ways(self):
        schemas = {version: avro.plain(schema) for version, schema in avro.load().items()}
        self.assertEqual(sorted(schemas), [1, 2, 3, 4, 5])
        for writer, schema in schemas.items():
            messages = [message for folder in SAMPLES for message in framed(folder, writer)]
            records = [record for folder in SAMPLES for record in expected(folder, writer)]
            self.assertGreater(len(messages), 100)
            self.assertEqual(len(messages), len(records))
            for reader, wanted in schemas.items():
                with self.subTest(writer=writer, reader=reader):
                    ours, theirs = fastavro.parse_schema(schema), fastavro.parse_schema(wanted)
                    had = {field["name"] for field in schema["fields"]}
                    for message, record in zip(messages, records):
                        self.assertEqual(message[:10], avro.MAGIC + avro.fingerprint_of(schema))
                        body = io.BytesIO(message[10:])
                        seen = fastavro.schemaless_reader(body, ours, theirs)
                        self.assertEqual(body.read(), b"", "bytes are left over")
                        self.assertEqual(as_json(seen), {
                            field["name"]: record[field["name"]] if field["name"] in had else missing(field)
                            for field in wanted["fields"]})

    def test_a_later_version_only_adds_nullable_fields_at_the_end(self):
        schemas = avro.load()
        for version in range(2, len(schemas) + 1):
            older, newer = schemas[version - 1]["fields"], schemas[version]["fields"]
            self.assertEqual([field["name"] for field in newer[:len(older)]], [field["name"] for field in older])
            for field in newer[len(older):]:
                self.assertIsNone(field["default"])
                self.assertEqual(field["type"][0], "null")


if __name__ == "__main__":
    unittest.main()
