//! State: the little about one MDT that cannot be derived from anywhere else, kept in the broker.
//!
//! It is written with each sealed batch where the broker can make that atomic, else every few hundred milliseconds,
//! and always before a clear. Whoever cannot read it clears nothing. It stays below 64 KiB.

use std::collections::BTreeMap;

use clbridge_schemas::ids::{Digest, MdtName, RecordId};
use serde::{Deserialize, Serialize};

use crate::error::SinkError;

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

/// Why a group holds the MDT back although it may believe itself done. Each has a command that ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Hold {
    /// A partition without a first position: the group may begin anywhere.
    NoFirstPosition {
        /// The partition.
        partition: u32,
    },
    /// A position that was known is gone: expired, or the group was deleted.
    PositionsVanished {
        /// The partition.
        partition: u32,
        /// The position last believed.
        was: u64,
    },
    /// A position went back; what was cleared since cannot be read again from the MDT.
    WentBack {
        /// The partition.
        partition: u32,
        /// The position last believed.
        was: u64,
        /// The position now.
        now: u64,
    },
    /// A position beyond the end: records to come would count as done.
    BeyondEnd {
        /// The partition.
        partition: u32,
        /// The position.
        at: u64,
        /// The topic's end when it was seen.
        end: u64,
    },
    /// Someone else deleted records that the group had not read.
    Evicted {
        /// The partition.
        partition: u32,
        /// The group's position.
        at: u64,
        /// The topic's first position.
        low: u64,
    },
}

impl Hold {
    /// Short name, stable over versions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoFirstPosition { .. } => "no_first_position",
            Self::PositionsVanished { .. } => "positions_vanished",
            Self::WentBack { .. } => "went_back",
            Self::BeyondEnd { .. } => "beyond_end",
            Self::Evicted { .. } => "evicted",
        }
    }

    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        match *self {
            Self::NoFirstPosition { partition } => {
                format!("partition {partition} has no first position; it counts from the group's first commit there")
            }
            Self::PositionsVanished { partition, was } => {
                format!("the position of partition {partition} ({was}) vanished: expired, or the group was deleted")
            }
            Self::WentBack { partition, was, now } => {
                format!("the position of partition {partition} went back from {was} to {now}")
            }
            Self::BeyondEnd { partition, at, end } => {
                format!("the position of partition {partition} ({at}) is beyond the end ({end})")
            }
            Self::Evicted { partition, at, low } => {
                format!("records of partition {partition} from {at} to {low} were deleted before the group read them")
            }
        }
    }

    /// The command that ends it.
    #[must_use]
    pub fn command(&self, group: &str) -> String {
        match self {
            Self::Evicted { .. } => format!("clbridge groups repair {group}"),
            _ => format!("clbridge groups accept {group}"),
        }
    }

    /// Ended by the group itself when it commits again at or behind what was believed.
    #[must_use]
    pub fn heals(&self) -> bool {
        matches!(self, Self::NoFirstPosition { .. } | Self::WentBack { .. })
    }
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
    #[serde(default)]
    pub accepted: u64,
    /// Number of the last `groups repair` that was applied to it.
    #[serde(default)]
    pub repaired: u64,
    /// By partition: why it held when State was written, where only a command may end it.
    #[serde(default)]
    pub holding: Vec<Option<Hold>>,
    /// A repair topic that the group has not yet finished, with the position behind its last record.
    #[serde(default)]
    pub repair: Option<(String, Vec<u64>)>,
}

/// Who writes State.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// Name of the bridge; the same after a restart.
    pub name: String,
    /// Which run of it: no two processes have the same, on whatever host.
    pub run: String,
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
    /// Which run of that bridge wrote it ([`Owner::run`]); empty where none did: a reset, or a version that
    /// did not tell.
    #[serde(default)]
    pub run: String,
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
    /// Its owner ended in good order behind this State: nothing of it is on its way, and nobody need wait for it. A clear
    /// that the kernel still has is found as after any start.
    #[serde(default)]
    pub left: bool,
    /// Nothing was published behind `frontier`: the bridge that wrote this had stopped publishing for good.
    #[serde(default)]
    pub clean: bool,
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
            run: String::new(),
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
            left: false,
            clean: false,
        }
    }

    /// State as it is kept in a broker; `what` says whose it is.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] if it is larger than [`STATE_MAX_BYTES`].
    pub fn write(&self, what: &str) -> Result<Vec<u8>, SinkError> {
        let wrong = |why: String| SinkError::Mismatch {
            what: format!("{what}: State {}", self.number),
            why,
            hint: "remove groups or feeds that are no longer used".to_owned(),
        };
        let bytes = serde_json::to_vec(self).map_err(|e| wrong(e.to_string()))?;
        if bytes.len() > STATE_MAX_BYTES {
            return Err(wrong(format!("has {} bytes, at most {STATE_MAX_BYTES} are allowed", bytes.len())));
        }
        Ok(bytes)
    }

    /// Understands what [`State::write`] wrote; `place` says where it lies.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] if it is none, or of another layout.
    pub fn read(place: &str, bytes: &[u8]) -> Result<Self, SinkError> {
        let unknown = |why: String| SinkError::Mismatch {
            what: place.to_owned(),
            why,
            hint: "run the version of clbridge that wrote it, or `clbridge reset`".to_owned(),
        };
        let state: Self = serde_json::from_slice(bytes).map_err(|e| unknown(format!("cannot be understood: {e}")))?;
        if state.version == 1 { Ok(state) } else { Err(unknown(format!("has layout version {}", state.version))) }
    }
}
