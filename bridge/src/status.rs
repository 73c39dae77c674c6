//! What `clbridge status` and `/status` say. One shape for people's tables, JSON and metrics.

use clbridge_schemas::ids::MdtName;
use serde::{Deserialize, Serialize};

/// The whole bridge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BridgeStatus {
    /// Name of this bridge (`instance`).
    pub instance: String,
    /// clbridge's version.
    pub version: String,
    /// `kafka`, with the delivery mode: `kafka` or `kafka-idempotent`.
    pub sink: String,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// By MDT.
    pub mdts: Vec<MdtStatus>,
}

/// What an MDT's pipeline is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Connecting, recovering.
    Starting {
        /// The step.
        step: String,
    },
    /// Reading and publishing.
    Running,
    /// Another bridge owns this MDT.
    Fenced {
        /// Its name.
        owner: String,
    },
    /// Will start again by itself.
    Retrying {
        /// The error.
        error: String,
    },
    /// An operator has to act.
    Stopped {
        /// What happened.
        error: String,
        /// The command that ends it.
        command: String,
    },
}

/// One MDT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MdtStatus {
    /// Its name.
    pub mdt: MdtName,
    /// What its pipeline does.
    pub phase: Phase,
    /// Changelog user id.
    pub user: String,
    /// Newest index read; 0 before the first.
    pub read: u64,
    /// Newest index with a verdict (accepted or dropped).
    pub published: u64,
    /// Frontier: durable up to here.
    pub durable: u64,
    /// Stable up to here.
    pub stable: u64,
    /// Highest clear that returned.
    pub cleared: u64,
    /// Every group's floor, the lowest: what groups would allow to be cleared.
    pub acknowledged: u64,
    /// Current incarnation, from 1.
    pub incarnation: u32,
    /// MDT crashes with reused indexes noticed since the start.
    pub crashes: u64,
    /// Records dropped by modules since the start.
    pub dropped: u64,
    /// Records known to be missing.
    pub gap_records: u64,
    /// Records read a second, over the last ten seconds.
    pub read_per_s: f64,
    /// Records cleared a second, over the last ten seconds.
    pub cleared_per_s: f64,
    /// Records read and not yet cleared.
    pub backlog: u64,
    /// Seconds until the backlog reaches the configured limit at the present rates; `None`: it does not grow.
    pub backlog_full_in_s: Option<f64>,
    /// Why nothing is cleared, if so, and the command that ends it.
    pub holding: Vec<Holding>,
    /// Topics, one a feed.
    pub topics: Vec<String>,
    /// Its groups.
    pub groups: Vec<GroupStatus>,
}

impl MdtStatus {
    /// An MDT of which nothing is known yet.
    #[must_use]
    pub fn empty(mdt: MdtName, user: String) -> Self {
        Self {
            mdt,
            phase: Phase::Starting { step: "waiting".into() },
            user,
            read: 0,
            published: 0,
            durable: 0,
            stable: 0,
            cleared: 0,
            acknowledged: 0,
            incarnation: 0,
            crashes: 0,
            dropped: 0,
            gap_records: 0,
            read_per_s: 0.0,
            cleared_per_s: 0.0,
            backlog: 0,
            backlog_full_in_s: None,
            holding: Vec::new(),
            topics: Vec::new(),
            groups: Vec::new(),
        }
    }
}

/// The command or action that ends a stop with this reason.
#[must_use]
pub fn command_for(reason: &str, mdt: &str) -> String {
    match reason {
        "stopped_reset" | "stopped_below_stable" | "state_unreadable" | "topic_changed" | "foreign_records" => {
            format!("look at what happened, then: clbridge reset {mdt}")
        }
        // The error ends with what to do.
        "broker_mismatch" => "do what the error says; it is looked at again every few seconds".into(),
        _ => "see the log and docs/what-happens-when.md, then restart clbridge".into(),
    }
}

/// A reason that holds clears back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Short name, stable over versions, for example `no_first_position`.
    pub reason: String,
    /// In words.
    pub text: String,
    /// The command or action that ends it.
    pub command: String,
}

/// One group on one MDT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Group id.
    pub name: String,
    /// Topic that it takes.
    pub topic: String,
    /// Its floor on this MDT.
    pub floor: u64,
    /// Committed position by partition.
    pub committed: Vec<Option<u64>>,
    /// Records published and not acknowledged (an estimate between samples).
    pub lag_records: u64,
    /// Positions (with holes) between committed and end, the number that Kafka's own tools show.
    pub lag_positions: u64,
    /// Age of the oldest record not acknowledged, seconds; 0 if none.
    pub lag_s: f64,
    /// Live members as the broker says.
    pub members: usize,
    /// Its policy has let it go up to here: the MDT may forget these records, the topic still holds them; 0: never.
    #[serde(default)]
    pub released: u64,
    /// `active`, `idle`, `released` or `holding`.
    pub state: String,
    /// Set when holding.
    pub holding: Option<Holding>,
}

#[cfg(test)]
pub(crate) mod examples;
