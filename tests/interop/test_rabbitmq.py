"""The members that docs/brokers/amqp.md shows, exactly as they stand there, take and answer what clbridge publishes."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "brokers" / "examples"
SCHEMA = ROOT / "schemas" / "avsc" / "changelog-v5.avsc"
CAPTURE = sorted((ROOT / "tests" / "fixtures" / "lustre").glob("*.ioctl-0x1e.bin"))[0]
URL = os.environ["AMQP_URL"]


class Members(unittest.TestCase):
    def taken_by(self, mdt, packed, member, behind=()):
        """Publishes the capture to a group and has it taken by `member`; how many records there are, and what it said."""
        capture = subprocess.Popen([os.environ["CLB_AMQP_CAPTURE"], URL, mdt, str(CAPTURE), "docs", str(packed)],
                                   stdout=subprocess.PIPE, text=True)
        self.addCleanup(capture.stdout.close)
        self.addCleanup(capture.wait)
        count = int(capture.stdout.readline().removeprefix("published "))
        messages = -(-count // packed)
        said = subprocess.run([*member, URL, f"lustre.{mdt}:docs", "docs", *behind, str(messages)],
                              stdout=subprocess.PIPE, text=True, check=True).stdout
        self.assertEqual(capture.stdout.readline(), "answered\n")
        return count, said.splitlines()

    def test_the_python_member_prints_and_answers_every_record(self):
        for mdt, packed in (("docs-MDT0000", 1), ("docs-MDT0001", 7)):
            script = [sys.executable, str(EXAMPLES / "amqp_consumer.py")]
            count, lines = self.taken_by(mdt, packed, script, [str(SCHEMA)])
            records = [json.loads(line) for line in lines]
            self.assertEqual(len(records), count)
            self.assertEqual([r["index"] for r in records], sorted(r["index"] for r in records))

    def test_the_go_member_answers_every_record(self):
        with tempfile.TemporaryDirectory() as folder:
            built = pathlib.Path(folder) / "consumer"
            source = pathlib.Path(folder) / "source"
            shutil.copytree(EXAMPLES / "go-amqp", source)
            subprocess.run(["go", "build", "-o", str(built), "."], cwd=source, check=True)
            count, lines = self.taken_by("docs-MDT0002", 1, [str(built)])
            self.assertEqual(len(lines), count)


if __name__ == "__main__":
    unittest.main()
