//! Schema versions, their texts and fingerprints, and how a message says which one it has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version of the record's schema.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum SchemaVersion {
    /// What every Lustre has.
    V1,
    /// Adds the rename extension.
    V2,
    /// Adds the job id.
    V3,
    /// Adds extra flags, uid, gid, NID, open mode and xattr name.
    V4,
    /// Adds path, entry and retractions: what clbridge itself knows.
    #[default]
    V5,
}

impl SchemaVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 5] = [Self::V1, Self::V2, Self::V3, Self::V4, Self::V5];

    /// The version's number, from 1.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8 + 1
    }
}

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// A number that is no schema version.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("\"{0}\" is not a schema version: expected 1 to 5")]
pub struct UnknownVersion(String);

impl TryFrom<u8> for SchemaVersion {
    type Error = UnknownVersion;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Self::ALL.into_iter().find(|v| v.number() == number).ok_or_else(|| UnknownVersion(number.to_string()))
    }
}

impl From<SchemaVersion> for u8 {
    fn from(version: SchemaVersion) -> Self {
        version.number()
    }
}

impl FromStr for SchemaVersion {
    type Err = UnknownVersion;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|v| s == v.to_string()).ok_or_else(|| UnknownVersion(s.to_owned()))
    }
}

/// The schema as it is released: JSON with docs.
#[must_use]
pub const fn schema_json(version: SchemaVersion) -> &'static str {
    match version {
        SchemaVersion::V1 => include_str!("../../avsc/changelog-v1.avsc"),
        SchemaVersion::V2 => include_str!("../../avsc/changelog-v2.avsc"),
        SchemaVersion::V3 => include_str!("../../avsc/changelog-v3.avsc"),
        SchemaVersion::V4 => include_str!("../../avsc/changelog-v4.avsc"),
        SchemaVersion::V5 => include_str!("../../avsc/changelog-v5.avsc"),
    }
}

/// CRC-64-AVRO of each version's Parsing Canonical Form. Written down, not computed, so that an edit of a released
/// schema fails a test.
const FINGERPRINTS: [u64; 5] =
    [0x13b9_9701_d0aa_dca8, 0xd35b_2c0a_a0ad_95e9, 0x8742_b5b6_c919_c7cf, 0x4c1e_a859_4f0f_6b84, 0x0fd5_46d0_74e0_2756];

/// The fingerprint as single-object framing has it: CRC-64-AVRO of the Parsing Canonical Form, little-endian.
#[must_use]
pub const fn fingerprint(version: SchemaVersion) -> [u8; 8] {
    FINGERPRINTS[version as usize].to_le_bytes()
}

/// The version with this fingerprint.
#[must_use]
pub fn by_fingerprint(wanted: [u8; 8]) -> Option<SchemaVersion> {
    SchemaVersion::ALL.into_iter().find(|v| fingerprint(*v) == wanted)
}

/// How a message says which schema it was written with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// Avro single-object encoding: `C3 01` and the schema's fingerprint.
    #[default]
    SingleObject,
    /// Confluent's: `00` and the schema's id in a registry, big-endian.
    Confluent {
        /// The id of the written version in the registry.
        id: u32,
    },
}

impl Framing {
    /// Appends the bytes that stand before the body.
    pub fn write(self, version: SchemaVersion, out: &mut Vec<u8>) {
        match self {
            Self::SingleObject => {
                out.extend_from_slice(&SINGLE_OBJECT);
                out.extend_from_slice(&fingerprint(version));
            }
            Self::Confluent { id } => {
                out.push(CONFLUENT);
                out.extend_from_slice(&id.to_be_bytes());
            }
        }
    }
}

/// The marker of single-object encoding.
pub(super) const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];
/// The magic byte of Confluent's framing.
pub(super) const CONFLUENT: u8 = 0;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use apache_avro::Schema;
    use apache_avro::rabin::Rabin;

    #[test]
    fn a_released_schema_has_the_fingerprint_that_stands_in_brokers() {
        for v in SchemaVersion::ALL {
            // Given the schema without logical types, which apache-avro leaves as objects in the canonical form
            // where the specification wants the simple form (fastavro and Java have it)
            let plain = schema_json(v).replace(r#"{"type": "long", "logicalType": "timestamp-nanos"}"#, r#""long""#);
            let schema = Schema::parse_str(&plain).unwrap();
            // then its fingerprint is what is written down.
            assert_eq!(schema.fingerprint::<Rabin>().bytes, fingerprint(v), "version {v}");
            assert_eq!(by_fingerprint(fingerprint(v)), Some(v));
        }
        assert_eq!(by_fingerprint([0; 8]), None);
    }

    /// Field by field: what follows from it is that every version reads every other.
    #[test]
    fn a_later_version_only_adds_nullable_fields_with_default_null_at_the_end() {
        let fields = |v| -> Vec<serde_json::Value> {
            let schema: serde_json::Value = serde_json::from_str(schema_json(v)).unwrap();
            schema["fields"].as_array().unwrap().clone()
        };
        for pair in SchemaVersion::ALL.windows(2) {
            let (old, new) = (fields(pair[0]), fields(pair[1]));
            let (same, added) = new.split_at(old.len());
            assert_eq!(same, old);
            assert!(!added.is_empty());
            for field in added {
                assert_eq!(field["type"][0], "null");
                assert!(field.as_object().unwrap()["default"].is_null());
            }
        }
    }

    #[test]
    fn a_version_is_a_number_in_text_and_in_serde() {
        assert_eq!("3".parse::<SchemaVersion>().unwrap(), SchemaVersion::V3);
        assert_eq!(serde_json::to_string(&SchemaVersion::V5).unwrap(), "5");
        for bad in ["0", "6", "05", "v1", ""] {
            assert!(bad.parse::<SchemaVersion>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<SchemaVersion>("6").is_err());
    }
}
