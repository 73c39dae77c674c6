//! State: the little about one MDT that cannot be derived from anywhere else, kept in the broker.
//!
//! It is written with each sealed batch where the broker can make that atomic, else every few hundred milliseconds,
//! and always before a clear. Whoever cannot read it clears nothing. It stays below 64 KiB.

use std::collections::BTreeMap;

use clbridge_schemas::ids::{Digest, MdtName, RecordId};
use serde::{Deserialize, Serialize};

/// A record and the digest that recognises it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// Identity.
    pub id: RecordId,
    /// Digest over index, type, time and target FID.
    pub digest: Digest,
}

/// Indexes `from..=to` of every incarnation below `incarnation` are void: the MDT crashed and took them back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Retraction {
    /// The incarnation that began there.
    pub incarnation: u32,
    /// First index of the new incarnation, and first void index of the older ones.
    pub from: u64,
    /// Last index that had been published before.
    pub to: u64,
}

/// What is remembered of one topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TopicState {
    /// The broker's name of the topic.
    pub name: String,
    /// Identity of the topic's life.
    pub id: String,
    /// Pinned number of partitions.
    pub partitions: u32,
}

/// What is remembered of one group on one topic.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GroupState {
    /// The feed that it takes; empty for the default feed.
    pub feed: String,
    /// Committed position by partition as last seen and believed; `None`: never seen.
    pub committed: Vec<Option<u64>>,
    /// Highest index such that it and all before it are done for this group.
    pub floor: u64,
    /// Number of the last `groups accept` that was applied to it.
    pub accepted: u64,
    /// Why it holds, in the words of `status`, if it did when State was written and only a command may end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holding: Option<String>,
}

/// One MDT's State.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// Version of this layout: 1.
    pub version: u16,
    /// The MDT.
    pub mdt: MdtName,
    /// Name of the bridge that wrote it.
    pub owner: String,
    /// Rises by one with every State written, over all owners.
    pub number: u64,
    /// Wall clock at writing, milliseconds since the epoch; for people, nothing is decided by it.
    pub written_ms: u64,
    /// Current incarnation, from 1.
    pub incarnation: u32,
    /// The highest record such that it and all before it have their verdict; `None` before the first record.
    pub frontier: Option<Mark>,
    /// Highest index for which a clear was, or is about to be, issued; 0 if none.
    pub last_clear: u64,
    /// The highest record that an MDT crash cannot take back.
    pub stable: Option<Mark>,
    /// Retractions so far, oldest first, as long as void records may still lie in a topic.
    pub retractions: Vec<Retraction>,
    /// Topics by feed; the default feed's key is empty.
    pub topics: BTreeMap<String, TopicState>,
    /// Version of the group registry that was applied.
    pub registry_version: u64,
    /// Groups by name.
    pub groups: BTreeMap<String, GroupState>,
    /// Records known to be missing (purged by the server before they were read), in total.
    pub gap_records: u64,
}

/// State's largest size, bytes.
pub const STATE_MAX_BYTES: usize = 64 * 1024;

impl State {
    /// The first State of an MDT that was never published.
    #[must_use]
    pub fn first(mdt: MdtName, owner: String) -> Self {
        Self {
            version: 1,
            mdt,
            owner,
            number: 0,
            written_ms: 0,
            incarnation: 1,
            frontier: None,
            last_clear: 0,
            stable: None,
            retractions: Vec::new(),
            topics: BTreeMap::new(),
            registry_version: 0,
            groups: BTreeMap::new(),
            gap_records: 0,
        }
    }
}
