//! The registry of groups: which consumer groups must have acknowledged a record before it is cleared.
//!
//! One registry for the whole site, kept in the broker, written by command or configuration with a rising version,
//! read by every bridge. A bridge that cannot read it clears nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use serde::{Deserialize, Serialize};

/// Where a newly registered group begins in a topic that already holds records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    /// Behind the newest record.
    #[default]
    Newest,
    /// At the oldest record that the topic still holds.
    Oldest,
}

/// Which MDTs a group takes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MdtSelection {
    /// All of them, those that appear later included.
    #[default]
    All,
    /// These only.
    List(Vec<MdtName>),
}

impl MdtSelection {
    /// Whether `mdt` is among them.
    #[must_use]
    pub fn takes(&self, mdt: &MdtName) -> bool {
        match self {
            Self::All => true,
            Self::List(l) => l.contains(mdt),
        }
    }
}

/// What happens when a group stays behind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The MDT keeps the records until the group has acknowledged them.
    #[default]
    Hold,
    /// Beyond these limits the MDT may forget the records, since the replicated topic still holds them.
    Release {
        /// Largest number of records that the group may hold back on one MDT.
        backlog: Option<u64>,
        /// Longest time that the group may hold a record back.
        age: Option<Duration>,
    },
}

/// One persistent group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupSpec {
    /// The broker's group id (Kafka: `group.id`).
    pub name: String,
    /// The MDTs it takes.
    #[serde(default)]
    pub mdts: MdtSelection,
    /// The feed it takes; `None` is the default feed.
    #[serde(default)]
    pub feed: Option<String>,
    /// Where it begins in a topic that already holds records.
    #[serde(default)]
    pub from: StartAt,
    /// What happens when it stays behind.
    #[serde(default)]
    pub policy: Policy,
    /// Rises with every `groups accept`: what is then committed is believed from there on.
    #[serde(default)]
    pub accept: u64,
    /// Rises with every `groups repair`.
    #[serde(default)]
    pub repair: u64,
    /// True if a name pattern brought it in.
    #[serde(default)]
    pub by_pattern: bool,
}

/// All groups of the site.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Registry {
    /// Rises with every change; 0: never written.
    pub version: u64,
    /// Groups by name.
    pub groups: BTreeMap<String, GroupSpec>,
}
