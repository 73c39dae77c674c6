//! How an MDT is set up, and what it tells about itself: plain data, no behaviour.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::generation::Generation;
use crate::users::GcLimits;

/// How an MDT is set up. All but `name` and `dir` have a default.
#[derive(Clone, Debug)]
pub struct MdtConfig {
    /// The device name, `FS-MDT0000`.
    pub name: String,
    /// Folder of the journal and the oracle log, shared by all MDTs of a server.
    pub dir: PathBuf,
    /// Time between commits; zero: only on command. Lustre's default is 5 s.
    pub commit_interval: Duration,
    /// Bytes of records kept in memory; the rest is read from the journal.
    pub window: usize,
    /// A journal file ends at the first commit beyond this many bytes.
    pub journal_file: u64,
    /// Whether a commit also waits for the disk (else it survives `kill -9`, not a power cut).
    pub fsync: bool,
    /// Which Lustre this server is.
    pub generation: Generation,
    /// What skipping one uncleared record costs an open that seeks.
    pub seek_cost: Duration,
    /// When idle users are removed by force.
    pub gc: GcLimits,
}

impl MdtConfig {
    /// The defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            dir: dir.into(),
            commit_interval: Duration::from_secs(5),
            window: 64 << 20,
            journal_file: 64 << 20,
            fsync: false,
            generation: Generation::L2_16,
            seek_cost: Duration::ZERO,
            gc: GcLimits::default(),
        }
    }
}

/// What [`Mdt::emit`](super::Mdt::emit) does with index and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The next index and the present time; types outside the effective mask are not logged.
    Now,
    /// Both as they are in the record, which must have been logged once: no mask applies.
    Keep,
}

/// What came of an [`Mdt::emit`](super::Mdt::emit).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Records logged.
    pub count: u64,
    /// Records left out by the mask.
    pub masked: u64,
    /// The newest index now.
    pub last_index: u64,
}

/// Figures of one MDT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Stats {
    pub mdt: String,
    pub up: bool,
    pub life: u32,
    pub last_index: u64,
    pub committed_index: u64,
    /// The oldest index that can still be read (if any was logged).
    pub first_index: u64,
    /// Lowest index that every user has cleared; absent without users.
    pub cleared: Option<u64>,
    pub mask: String,
    pub emitted: u64,
    pub masked: u64,
    pub opens: u64,
    pub reads: u64,
    pub records_read: u64,
    pub clears_ok: u64,
    pub clears_refused: u64,
    pub resident_bytes: u64,
    pub commit_interval_ms: u64,
}
