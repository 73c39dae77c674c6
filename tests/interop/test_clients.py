"""The rule for partitions and the reading of the Java tool's table, checked against the clients themselves."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "judge"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import java_groups  # noqa: E402
import kcat_partitions  # noqa: E402
from confluent_kafka import Producer  # noqa: E402
from confluent_kafka.admin import AdminClient, NewTopic  # noqa: E402

BOOTSTRAP = os.environ["KAFKA_BOOTSTRAP"]
UP = pathlib.Path(__file__).resolve().parents[1] / "up"
PARTITIONS = 7
KEYS = [f"[0x20000{i:x}:0x{i * 7919:x}:0x{i % 2:x}]" for i in range(1000)]


class Clients(unittest.TestCase):
    def setUp(self):
        self.admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
        self.topic = f"interop-{uuid.uuid4().hex[:12]}"
        self.admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])[self.topic].result(30)
        self.addCleanup(lambda: self.admin.delete_topics([self.topic])[self.topic].result(30))
        self.lines = "".join(f"{key}\tvalue\n" for key in KEYS)

    def all_where_the_rule_says(self):
        self.assertEqual(kcat_partitions.topics(BOOTSTRAP, self.topic), {self.topic: PARTITIONS})
        self.assertEqual(kcat_partitions.misplaced(BOOTSTRAP, self.topic, PARTITIONS), (len(KEYS), []))

    def test_the_java_producer_puts_keys_where_the_rule_says(self):
        subprocess.run([UP, "tool", "kafka-console-producer", "--bootstrap-server", BOOTSTRAP, "--topic", self.topic,
                        "--property", "parse.key=true"],
                       input=self.lines, text=True, check=True, capture_output=True)
        self.all_where_the_rule_says()

    def test_librdkafkas_murmur2_puts_keys_where_the_rule_says(self):
        subprocess.run(["kcat", "-b", BOOTSTRAP, "-P", "-t", self.topic, "-K", "\t",
                        "-X", "topic.partitioner=murmur2"], input=self.lines, text=True, check=True)
        self.all_where_the_rule_says()

    def test_a_key_in_another_partition_is_seen(self):
        producer = Producer({"bootstrap.servers": BOOTSTRAP})
        wrong = (kcat_partitions.partition(KEYS[0].encode(), PARTITIONS) + 1) % PARTITIONS
        producer.produce(self.topic, b"value", KEYS[0].encode(), partition=wrong)
        producer.flush(30)
        seen, found = kcat_partitions.misplaced(BOOTSTRAP, self.topic, PARTITIONS)
        self.assertEqual((seen, len(found)), (1, 1))

    def test_a_members_positions_and_lag_are_read_from_the_java_tool(self):
        producer = Producer({"bootstrap.servers": BOOTSTRAP})
        for number in range(70):
            producer.produce(self.topic, str(number), partition=number % PARTITIONS)
        producer.flush(30)
        group = f"group-{self.topic}"
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "m.jsonl"
            member = pathlib.Path(__file__).resolve().parents[1] / "judge" / "member.py"
            subprocess.run([sys.executable, member, "--at", BOOTSTRAP, "--group", group, "--topics", self.topic,
                            "--log", log, "--reset", "earliest", "--idle-s", "3", "--assignor", "cooperative-sticky"],
                           check=True)
            self.assertIn('"event":"committed"', log.read_text())
        for number in range(3):
            producer.produce(self.topic, str(number), partition=2)
        producer.flush(30)
        status = {"mdts": [{"groups": [
            {"name": group, "topic": self.topic, "committed": [10] * PARTITIONS, "lag_positions": 3}]}]}
        java = java_groups.ask(BOOTSTRAP, group)
        self.assertEqual(java_groups.differences(status, java), [])
        status["mdts"][0]["groups"][0]["lag_positions"] = 4
        status["mdts"][0]["groups"][0]["committed"][1] = 9
        self.assertEqual(len(java_groups.differences(status, java)), 2)


if __name__ == "__main__":
    unittest.main()
