"""What the Kafka sink publishes, as kcat shows it: keys, partitions, and what a retraction makes void."""

import json
import os
import pathlib
import subprocess
import sys
import unittest
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import kcat_partitions  # noqa: E402
from confluent_kafka.admin import AdminClient  # noqa: E402

BOOTSTRAP = os.environ["KAFKA_BOOTSTRAP"]
# The example kafka_capture of sinks/, and the capture that has all types and renames.
PUBLISH = os.environ["CLB_KAFKA_CAPTURE"]
CAPTURE = "p2-main-all-mask.MDT0000.ioctl-0x1e"
FILE = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "lustre" / f"{CAPTURE}.bin"
PARTITIONS = 7


def text(fid):
    """A FID as Lustre's tools print it."""
    return f"[{fid['seq'] & (1 << 64) - 1:#x}:{fid['oid']:#x}:{fid['ver']:#x}]"


def key_of(record, mdt):
    """The rule in words: the object's FID, for a rename the renamed object's; a MARK is about no object."""
    if record["type"] == "MARK":
        return mdt
    rename = record["rename"]
    return text(rename["sfid"] if rename else record["tfid"])


def records():
    """The capture's records as the decoder of another test has them, without the sample retraction behind them."""
    lines = (pathlib.Path(os.environ["CLB_AVRO_SAMPLES"]) / CAPTURE / "v5.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if not record["retracts"]]


class Published(unittest.TestCase):
    def test_kcat_sees_keys_partitions_and_retractions_of_every_schema_version(self):
        expected = records()
        self.assertGreater(len(expected), 100)
        for version in range(1, 6):
            with self.subTest(version=version):
                mdt = f"i{uuid.uuid4().hex[:7]}-MDT0000"
                topic = f"lustre.{mdt}"
                subprocess.run([PUBLISH, BOOTSTRAP, mdt, FILE, str(version), str(PARTITIONS)], check=True)
                admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
                self.addCleanup(lambda topic=topic: admin.delete_topics([topic])[topic].result(30))

                self.assertEqual(kcat_partitions.topics(BOOTSTRAP, topic), {topic: PARTITIONS})
                seen, wrong = kcat_partitions.misplaced(BOOTSTRAP, topic, PARTITIONS)
                self.assertEqual((seen, wrong), (len(expected) + PARTITIONS, []))
                keys = sorted(key.decode() for _, key in kcat_partitions.keys(BOOTSTRAP, topic) if key is not None)
                self.assertEqual(keys, sorted(key_of(record, mdt) for record in expected))

                last = max(record["index"] for record in expected)
                self.assertEqual(sorted(kcat_partitions.retractions(BOOTSTRAP, topic)),
                                 [(place, f"1:1..{last}") for place in range(PARTITIONS)])


if __name__ == "__main__":
    unittest.main()
