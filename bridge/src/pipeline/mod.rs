//! The threads that drive the core, one pipeline per MDT.
//!
//! * [`writer`]: the MDT's own thread: read, view in place, filter, partition, encode, publish, seal. No allocation,
//!   lock or future of ours per record; the core is locked once a chunk.
//! * [`clearing`]: a thread beside it for probes and clears, which can block for a minute.
//! * [`control`]: async: carries out the core's actions, asks the broker about groups, applies the registry, trims.
//! * [`life`]: one life of a pipeline, from fencing to the error or signal that ends it.
//!
//! One failure path: whatever fails beyond a retry ends the life, and the next one begins as after a kill.

pub mod clearing;
pub mod clock;
pub mod control;
pub mod groups;
pub mod life;
pub mod recovery;
pub mod repair;
pub mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clbridge_schemas::avro::{Framing, SchemaVersion};
use clbridge_schemas::key::KeyKind;
use clbridge_sinks::Owner;

use crate::core::{Core, Settings};
use crate::modules::TypeSet;

/// One way to publish an MDT.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// Its name; `None` is the default feed.
    pub name: Option<String>,
    /// Avro version written.
    pub version: SchemaVersion,
    /// How payloads are framed.
    pub framing: Framing,
    /// What the key is made of.
    pub key: KeyKind,
    /// Types that it takes.
    pub types: TypeSet,
    /// Partitions of a topic that has to be created.
    pub partitions: u32,
}

/// How batches are made.
#[derive(Clone, Copy, Debug)]
pub struct BatchSettings {
    /// Seal at this many payload bytes.
    pub max_bytes: u64,
    /// Seal at the latest this long after the first record of a batch.
    pub max_age: Duration,
    /// Do not seal more often than this when the input runs dry.
    pub min_age: Duration,
}

/// Everything a pipeline has to know.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    /// This bridge.
    pub owner: Owner,
    /// The core's.
    pub core: Settings,
    /// Feeds; a topic each, in this order.
    pub feeds: Vec<FeedSettings>,
    /// Batching.
    pub batch: BatchSettings,
    /// How often groups' positions are asked for.
    pub poll_groups: Duration,
    /// How often the registry is read.
    pub poll_registry: Duration,
    /// How often topics are trimmed.
    pub trim_every: Duration,
    /// What is younger is not trimmed.
    pub keep: Duration,
    /// Another bridge's State must not have changed for this long before it is fenced.
    pub takeover_after: Duration,
    /// Longest wait between two attempts to start.
    pub retry_max: Duration,
}

/// Joined by all threads of one life.
pub struct Shared {
    core: Mutex<Core>,
    /// Set when the life should end cleanly: stop reading, make everything durable.
    pub draining: AtomicBool,
    /// Set by the writer once a drain is complete.
    pub drained: AtomicBool,
    /// Set when the life is over, for whatever reason.
    pub over: AtomicBool,
    /// Accepted and not yet durable: messages.
    pub in_flight: AtomicU64,
}

impl Shared {
    /// Around a core that a start has made.
    #[must_use]
    pub fn new(core: Core) -> Self {
        Self {
            core: Mutex::new(core),
            draining: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            over: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
        }
    }

    /// The core. A thread that panicked while holding it has broken an invariant; the life ends and nobody goes on
    /// with that core, so a poisoned lock may be looked into for `status`.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a thread died while it held the core: an invariant does not hold, nothing may go on.
    #[must_use]
    pub fn broken(&self) -> bool {
        self.core.is_poisoned()
    }

    /// Whether the life is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}
