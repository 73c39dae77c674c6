"""Files that a real bridge wrote, read by fastavro and DuckDB: every record of a capture, in order, field by field."""

import json
import os
import pathlib
import subprocess
import tempfile
import time
import unittest

import duckdb
import duckdb_extension_avro
import fastavro

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAPTURE = "p2-main-all-mask.MDT0000.ioctl-0x1e"
FILE = ROOT / "tests" / "fixtures" / "lustre" / f"{CAPTURE}.bin"
MDT = "interop-MDT0000"
PATIENCE = 60


def expected():
    """The capture's records as another decoder has them, without the sample retraction behind them."""
    lines = (pathlib.Path(os.environ["CLB_AVRO_SAMPLES"]) / CAPTURE / "v5.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if not record["retracts"]]


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.wanted = [record["index"] for record in expected()]
        cls.written = {codec: cls.publish(codec) for codec in ("null", "deflate", "zstd")}

    @classmethod
    def publish(cls, codec):
        """The files of a bridge that replays the capture until all of it is in closed files."""
        base = pathlib.Path(cls.folder.name) / codec
        base.mkdir()
        config = base / "clbridge.toml"
        config.write_text(f"""instance = "interop"
[source]
kind = "replay"
files = {{ "{MDT}" = ["{FILE}"] }}
[sink.files]
dir = "{base / 'files'}"
codec = "{codec}"
rotate_bytes = 16384
rotate_after_ms = 1000
[http]
listen = "127.0.0.1:0"
[groups.lake]
from = "oldest"
""")
        with open(base / "log", "w", encoding="utf-8") as log:
            bridge = subprocess.Popen([os.environ["CLB_CLBRIDGE"], "run", "--config", config], stdout=log, stderr=log)
        try:
            end = time.monotonic() + PATIENCE
            topic = base / "files" / f"lustre.{MDT}"
            while time.monotonic() < end and bridge.poll() is None:
                closed = sorted(topic.glob("*.avro"))
                if cls.wanted and sum(len(read(path)[1]) for path in closed) >= len(cls.wanted):
                    return closed
                time.sleep(0.1)
        finally:
            bridge.terminate()
            bridge.wait()
        raise TimeoutError((base / "log").read_text())

    def test_fastavro_reads_every_record_of_every_codec_in_order(self):
        names = {"null": "null", "deflate": "deflate", "zstd": "zstandard"}
        for codec, files in self.written.items():
            with self.subTest(codec=codec):
                found = []
                for path in files:
                    told, records = read(path)
                    self.assertEqual(told, names[codec])
                    self.assertIn(f".1-{records[0]['index']}.avro", path.name)
                    self.assertEqual(int(path.name[:20]), len(found))
                    found += records
                self.assertEqual([record["index"] for record in found], self.wanted)
                self.assertEqual({record["mdt"] for record in found}, {MDT})

    def test_members_of_a_group_take_every_record_once_and_go_on_where_the_last_one_ended(self):
        config = pathlib.Path(self.folder.name) / "deflate" / "clbridge.toml"
        half = len(self.wanted) // 2
        taken = []
        for count in (half, len(self.wanted) - half):
            said = subprocess.run([os.environ["CLB_CLBRIDGE"], "consume", "--config", config, "--group", "lake",
                                   "--format", "json", "--max", str(count)],
                                  stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE).stdout
            taken.append([json.loads(line)["index"] for line in said.splitlines()])
        self.assertEqual(taken, [self.wanted[:half], self.wanted[half:]])

    def test_duckdb_counts_types_as_fastavro_does_with_no_schema_given(self):
        found = [record for path in self.written["deflate"] for record in read(path)[1]]
        counts = {}
        for record in found:
            counts[record["type"]] = counts.get(record["type"], 0) + 1
        database = duckdb.connect()
        # The same file that `INSTALL avro` would fetch.
        own = pathlib.Path(duckdb_extension_avro.__file__).parent
        database.load_extension(str(next(own.rglob("avro.duckdb_extension"))))
        pattern = str(self.written["deflate"][0].parent / "*.avro")
        answer = database.execute("SELECT type::VARCHAR, count(*) FROM read_avro(?) GROUP BY type", [pattern])
        self.assertEqual(dict(answer.fetchall()), counts)


def read(path):
    """(codec, records) of a file."""
    with open(path, "rb") as file:
        reader = fastavro.reader(file)
        return reader.metadata["avro.codec"], list(reader)


if __name__ == "__main__":
    unittest.main()
