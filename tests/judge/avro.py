"""Decodes single-object Avro by its fingerprint with fastavro and the published schema files."""

import io
import json
import pathlib

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

AVSC = pathlib.Path(__file__).resolve().parents[2] / "schemas" / "avsc"
MAGIC = b"\xc3\x01"

FID = {"type": "record", "name": "Fid", "fields": [
    {"name": "seq", "type": "long"}, {"name": "oid", "type": "long"}, {"name": "ver", "type": "long"}]}


def load(folder=AVSC):
    """The schema files of every version, as {version: schema}."""
    found = {}
    for file in sorted(pathlib.Path(folder).glob("changelog-v*.avsc")):
        found[int(file.stem.removeprefix("changelog-v"))] = json.loads(file.read_text())
    if not found:
        raise FileNotFoundError(f"no changelog-v*.avsc in {folder}")
    return found


def plain(schema):
    """The schema without logical types: a time stays the number of nanoseconds that it is."""
    if isinstance(schema, dict):
        return {key: plain(value) for key, value in schema.items() if key != "logicalType"}
    return [plain(part) for part in schema] if isinstance(schema, list) else schema


def fingerprint_of(schema):
    """The eight bytes that announce this schema: CRC-64-AVRO of its canonical form, little-endian."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


def union_of(reference):
    """What the judge asks for: a reader's schema of its own, so that the rest is skipped, not decoded."""
    space = {"namespace": reference.get("namespace", "clbridge")}
    return {"type": "record", "name": reference["name"], **space, "fields": [
        {"name": "mdt", "type": "string"},
        {"name": "index", "type": "long"},
        {"name": "incarnation", "type": "int"},
        {"name": "type_code", "type": "int"},
        {"name": "time", "type": "long"},
        {"name": "tfid", "type": FID},
        {"name": "rename", "default": None, "type": ["null", {"type": "record", "name": "Rename", "fields": [
            {"name": "sfid", "type": "Fid"}]}]},
        {"name": "retracts", "default": None, "type": ["null", {"type": "record", "name": "Retraction", "fields": [
            {"name": "incarnation", "type": "int"}, {"name": "from", "type": "long"}, {"name": "to", "type": "long"}]}]},
    ]}


def _named_as_in(reader, writer):
    """Gives the reader's inner records the names of the writer's, by which Avro matches them."""
    theirs = {field["name"]: field["type"] for field in writer["fields"]}
    for field in reader["fields"]:
        wanted = theirs.get(field["name"])
        mine = field["type"]
        if isinstance(mine, list) and isinstance(wanted, list):
            record = next((part for part in wanted if isinstance(part, dict) and part["type"] == "record"), None)
            if record:
                mine[1]["name"] = record["name"]
    return reader


def reader_of(writer):
    """The judge's own reader schema for records that this schema wrote."""
    writer = plain(writer)
    return fastavro.parse_schema(_named_as_in(json.loads(json.dumps(union_of(writer))), writer))


class Decoder:
    """Decodes any released version into the fields that the judge needs."""

    def __init__(self, folder=AVSC):
        self.schemas = {}
        for version, schema in load(folder).items():
            writer = plain(schema)
            self.schemas[fingerprint_of(schema)] = version, fastavro.parse_schema(writer), reader_of(writer)

    def __call__(self, value):
        """(version, the record as a dictionary)."""
        if value[:2] != MAGIC:
            raise ValueError(f"not single-object Avro: begins with {value[:2].hex()}")
        try:
            version, writer, reader = self.schemas[value[2:10]]
        except KeyError:
            raise ValueError(f"no schema file has the fingerprint {value[2:10].hex()}") from None
        return version, fastavro.schemaless_reader(io.BytesIO(value[10:]), writer, reader)
