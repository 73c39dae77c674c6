//! What comes into a [`Core`](super::Core) and what goes out of it, and how one MDT is handled.

use std::num::NonZeroU64;

use clbridge_sinks::state::Mark;
use clbridge_sinks::{Durable, GroupSpec, Offsets, Position, Progress, Stored, TopicIx};

use super::clears::ClearSettings;
use super::ledger::{Clearable, WithoutGroups};
use super::start::Stop;
use super::{Now, Reason};
use crate::source::Probe;

/// How one MDT is handled.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A record is stable at the earliest this long after it was read.
    pub min_age: Now,
    /// How clears are batched.
    pub clears: ClearSettings,
    /// What may be cleared without a persistent group.
    pub without_groups: WithoutGroups,
    /// State is written at least this often, so that a waiting bridge sees that this one lives.
    pub state_every: Now,
    /// Answers about groups and the registry older than this hold clears back.
    pub answers_fresh: Now,
    /// At most this many point reads at once.
    pub reads: usize,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Records were read and have their verdict (accepted by the publisher, or dropped); `last` is the newest.
    Read {
        /// The newest of them.
        last: Mark,
        /// How many.
        records: u64,
        /// How many of them modules dropped.
        dropped: u64,
    },
    /// A batch was sealed with this frontier.
    Sealed(Mark),
    /// The publisher reports.
    Durable(Durable),
    /// The registry was read; its groups are delivered as the following events.
    Registry {
        /// Its version.
        version: u64,
    },
    /// The registry, or the groups' positions, could not be read.
    Unanswered {
        /// What could not be asked, for `status`.
        what: Reason,
        /// The broker's words.
        why: String,
    },
    /// A group is registered for this topic, with its first positions.
    GroupAdded {
        /// The topic that it takes.
        topic: TopicIx,
        /// Its specification.
        spec: GroupSpec,
        /// Its first positions.
        first: Offsets,
    },
    /// A group's specification changed (policy, `accept`).
    GroupChanged(GroupSpec),
    /// A group is no longer registered.
    GroupRemoved(&'a str),
    /// `groups repair` was carried out for a group.
    GroupRepaired {
        /// The group.
        group: &'a str,
        /// Number of the command.
        number: u64,
        /// Its repair topic.
        topic: String,
        /// Position behind the last record of each partition.
        end: Vec<u64>,
        /// Positions that could not be republished, since the MDT no longer has their records.
        missing: u64,
    },
    /// What groups have committed.
    Progress(&'a Progress),
    /// A probe's answer, or that it could not be carried out.
    Probed {
        /// The index asked for.
        index: NonZeroU64,
        /// The answer.
        probe: Option<Probe>,
    },
    /// A clear came back.
    Cleared {
        /// Its value.
        upto: Clearable,
        /// How.
        outcome: ClearOutcome,
    },
    /// A point read's answer.
    Learned {
        /// The topic.
        topic: TopicIx,
        /// The position asked for.
        at: Position,
        /// The first record at or behind it.
        found: Option<Stored>,
    },
    /// Nothing more will be published by this life.
    Draining,
    /// Time passed.
    Tick,
}

/// How a clear came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClearOutcome {
    /// Carried out, or nothing at or below its value can be read any more.
    Done,
    /// State was no longer fresh when its turn came: nothing was written to the MDT.
    Late,
    /// The MDT cannot just now: try again.
    Busy(String),
    /// The MDT refuses, and the records are still there: user unknown.
    UnknownUser,
    /// Beyond the MDT's newest index: it may have crashed.
    Beyond,
}

/// What to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Probe this record on a fresh descriptor.
    Probe(NonZeroU64),
    /// Issue this clear, unless `until` has passed when its turn comes.
    Clear {
        /// The value.
        upto: Clearable,
        /// Only before this time.
        until: Now,
    },
    /// Read the first record at or behind each of these positions.
    ReadAt(Vec<(TopicIx, Position)>),
    /// Drop this MDT's pipeline and start again: a crash is suspected.
    Restart(String),
    /// Stop this MDT until an operator acts.
    Stop(Stop),
}
