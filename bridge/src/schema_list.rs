//! The Avro schemas that are built in, as people and HTTP clients ask for them.

use clbridge_schemas::avro::{SchemaVersion, fingerprint};
use serde::Serialize;

/// One schema.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SchemaEntry {
    /// Its version, from 1.
    pub version: u8,
    /// CRC-64-AVRO as single-object framing has it, in hexadecimal, in the order of the bytes in a message.
    pub fingerprint: String,
    /// The fields that it adds to the version before it.
    pub adds: &'static str,
}

/// All of them, oldest first.
#[must_use]
pub fn all() -> Vec<SchemaEntry> {
    SchemaVersion::ALL.into_iter().map(entry).collect()
}

/// The one with this number or fingerprint.
#[must_use]
pub fn find(which: &str) -> Option<SchemaVersion> {
    SchemaVersion::ALL.into_iter().find(|v| which == v.to_string() || hex(fingerprint(*v)).eq_ignore_ascii_case(which))
}

fn entry(version: SchemaVersion) -> SchemaEntry {
    let adds = match version {
        SchemaVersion::V1 => "mdt index incarnation type type_code time flags tfid pfid name name_raw",
        SchemaVersion::V2 => "rename",
        SchemaVersion::V3 => "jobid",
        SchemaVersion::V4 => "extra_flags uid gid nid open_mode xattr",
        SchemaVersion::V5 => "path entry retracts",
    };
    SchemaEntry { version: version.number(), fingerprint: hex(fingerprint(version)), adds }
}

fn hex(bytes: [u8; 8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clbridge_schemas::avro::schema_json;

    #[test]
    fn a_schema_is_found_by_version_and_by_fingerprint() {
        for entry in all() {
            let by_version = find(&entry.version.to_string()).unwrap();
            assert_eq!(find(&entry.fingerprint.to_uppercase()), Some(by_version));
        }
        assert_eq!(find("6"), None);
    }

    #[test]
    fn the_fields_listed_are_those_of_the_schemas() {
        let mut listed = Vec::new();
        for (version, entry) in SchemaVersion::ALL.into_iter().zip(all()) {
            listed.extend(entry.adds.split(' '));
            let schema: serde_json::Value = serde_json::from_str(schema_json(version)).unwrap();
            let fields: Vec<_> =
                schema["fields"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
            assert_eq!(fields, listed);
        }
    }
}
