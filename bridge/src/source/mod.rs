//! Where records come from: the character device of a Lustre client, a simulated MDT, or a replayed capture.
//!
//! A [`Source`] is read by its MDT's own thread. A [`Clearer`] lives on another thread, since a probe or a clear can
//! block for a minute while an MDT restarts. Neither decides anything about reused indexes: they report what was
//! seen and how long it took, the core judges.

mod breaks;
mod clearer;
mod clock;
mod device;
mod factory;
mod lustre;
mod pace;
mod reader;
mod replay;
mod sim;
mod syscalls;

use std::num::NonZeroU64;
use std::time::Duration;

use clbridge_schemas::ids::{Digest, MdtName};
use thiserror::Error;

use crate::core::Clearable;

pub use breaks::{Break, Breaks, Why};
pub use clearer::DeviceClearer;
pub use clock::{BootClock, Clock};
pub use device::{Answer, Descriptor, Device, LEAST_ROOM, Mode, UserId, UserIdError};
pub use factory::LustreFactory;
pub use lustre::{DEVICE_DIR, DEVICE_PREFIX, LustreDescriptor, LustreDevice, discover};
pub use pace::PaceSettings;
pub use reader::DeviceSource;
pub use replay::{Replay, ReplayFactory};
pub use sim::{SimDescriptor, SimDevice, SimFactory};
pub use syscalls::{Kernel, Syscalls};

/// How much an MDT's thread reads at once, in bytes: one read then holds all that the kernel prefetches.
pub const READ_LIMIT: usize = 1 << 20;
/// A [`Read::paused`] beyond this may hide an MDT crash.
pub const PAUSE: Duration = Duration::from_secs(2);

/// What one read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Read {
    /// Whole records were appended to the buffer.
    pub bytes: usize,
    /// How long ago records were last brought, or the last one brought was seen unchanged on a fresh descriptor: this
    /// call's own waiting and the caller's time between the calls. The core compares it with what an MDT restart
    /// needs at least.
    pub paused: Duration,
    /// The descriptor was opened again since the last call that brought records, and the last record brought was not
    /// found there as it was: it was cleared, or taken back. (Where it was found, the reader has made the check that
    /// a reopening asks for.) Also true for the first records after [`Source::seek`]. With `bytes == 0` it only says
    /// that the record is not there now.
    pub reopened: bool,
}

impl Read {
    /// Has the record before these to be verified elsewhere? To be given to [`Breaks::before`] for the first of them.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.reopened || self.paused > PAUSE
    }
}

/// Reads one MDT's records in order.
pub trait Source: Send {
    /// Appends whole records in the kernel's layout to `buf` (cleared by the caller), at most about `limit` bytes,
    /// waiting at most `wait` for the first. `bytes == 0`: nothing new yet. The end of the stream, re-opening and
    /// following are this side's matter.
    ///
    /// # Errors
    /// An error that re-opening did not cure; the caller drops the pipeline and starts again.
    fn read(&mut self, buf: &mut Vec<u8>, limit: usize, wait: Duration) -> Result<Read, SourceError>;

    /// The next read begins at `index` or the first record behind it. Backwards re-opens.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn seek(&mut self, index: NonZeroU64) -> Result<(), SourceError>;
}

/// What a fresh descriptor finds at an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// The record with this index is there.
    Found(Digest),
    /// It is not; the first record behind it has this index.
    Gone {
        /// Index of the first readable record behind the one asked for.
        next: u64,
    },
    /// Nothing is readable at or behind it.
    Nothing,
}

/// Looks at single records and clears.
pub trait Clearer: Send {
    /// Looks for the record `index`, always on a fresh descriptor opened for this call.
    ///
    /// # Errors
    /// The device cannot be read.
    fn probe(&mut self, index: NonZeroU64) -> Result<Probe, SourceError>;

    /// Index of the oldest record that can be read, on a fresh descriptor.
    ///
    /// # Errors
    /// The device cannot be read.
    fn oldest(&mut self) -> Result<Option<u64>, SourceError>;

    /// Calls `each` with index and digest of every record from `from` to `to`, read on a fresh descriptor.
    ///
    /// # Errors
    /// The device cannot be read, or a record is malformed.
    fn scan(&mut self, from: NonZeroU64, to: u64, each: &mut dyn FnMut(u64, Digest)) -> Result<(), SourceError>;

    /// Tells the MDT that it may forget everything up to `upto`.
    ///
    /// # Errors
    /// See [`ClearError`].
    fn clear(&mut self, upto: Clearable) -> Result<(), ClearError>;
}

/// A reader of an MDT, and what probes and clears it.
pub type Opened = (Box<dyn Source>, Box<dyn Clearer>);

/// Opens sources.
pub trait SourceFactory: Send + Sync {
    /// MDTs that can be read now.
    ///
    /// # Errors
    /// The place where MDTs are looked for cannot be read.
    fn discover(&self) -> Result<Vec<MdtName>, SourceError>;

    /// A reader and a clearer for one MDT; `user` is the changelog user id, for example `cl1`.
    ///
    /// # Errors
    /// The device cannot be opened.
    fn open(&self, mdt: &MdtName, user: &str) -> Result<Opened, SourceError>;
}

/// Why a source cannot be read.
#[derive(Debug, Error)]
pub enum SourceError {
    /// An operation on the device failed.
    #[error("{mdt}: {what} failed: {source}")]
    Io {
        /// The MDT.
        mdt: MdtName,
        /// The operation and the device.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The place where MDTs are looked for cannot be read.
    #[error("looking for MDTs in {place} failed: {source}")]
    Discovery {
        /// A folder or an address.
        place: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The device gave bytes that are not a record.
    #[error(
        "{mdt}: {source}; the MDT's changelog is damaged there or of an unknown version: see docs/what-happens-when.md"
    )]
    Malformed {
        /// The MDT.
        mdt: MdtName,
        /// Index and byte offset.
        source: clbridge_schemas::lustre::RecordError,
    },
    /// One descriptor gave an index that is not above the one before, or not above where it was opened.
    #[error(
        "{mdt}: record {got} came behind record {last} on the same descriptor; indexes of one changelog only rise: was it reset, or the file system formatted? See docs/what-happens-when.md"
    )]
    OutOfOrder {
        /// The MDT.
        mdt: MdtName,
        /// The index before, or the one that the descriptor was opened behind.
        last: u64,
        /// The index that came.
        got: u64,
    },
    /// The changelog user that was configured cannot be one.
    #[error("{mdt}: {source}")]
    User {
        /// The MDT.
        mdt: MdtName,
        /// What is wrong.
        source: UserIdError,
    },
}

impl SourceError {
    /// The MDT is not on this client (any more): `ENOENT`, `ENODEV` or `ENXIO`.
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO))
    }
}

/// Why a clear did not succeed.
#[derive(Debug, Error)]
pub enum ClearError {
    /// `ENOENT`: the user is unknown, or the value was cleared before. To be told apart by what is still readable.
    #[error("unknown user, or already cleared (ENOENT)")]
    NotFound,
    /// `EINVAL`: beyond the MDT's newest index (an MDT crash may have lowered it), or backwards on Lustre 2.15.
    #[error("refused as invalid (EINVAL)")]
    Invalid,
    /// `EINPROGRESS`, `EAGAIN`, `EINTR`: to be repeated.
    #[error("not now ({0})")]
    Busy(std::io::Error),
    /// Anything else.
    #[error(transparent)]
    Source(#[from] SourceError),
}
