//! `[feed]` and `[feeds.NAME]`: ways to publish an MDT.

use clbridge_schemas::key::KeyKind;
use serde::{Deserialize, Serialize};

/// One way to publish an MDT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedConfig {
    /// Schema version of the records, 1 to 5.
    pub schema_version: u8,
    /// Names of the types that are published; none: all. MARK is always among them.
    pub types: Option<Vec<String>>,
    /// What the message key is made of.
    pub key: KeyKind,
    /// Partitions of a topic that does not exist yet. An existing topic keeps its own number.
    pub partitions: u32,
    /// What stands before the Avro bytes.
    pub framing: FramingName,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self { schema_version: 5, types: None, key: KeyKind::Object, partitions: 8, framing: FramingName::SingleObject }
    }
}

/// What stands before the Avro bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FramingName {
    /// Avro's single-object encoding: C3 01 and the schema's fingerprint.
    #[default]
    SingleObject,
    /// The Confluent form: 0 and the id that a schema registry gave to the schema.
    Confluent {
        /// That id.
        id: u32,
    },
}
