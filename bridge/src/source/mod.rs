//! Where records come from: the character device of a Lustre client, a simulated MDT, or a replayed capture.
//!
//! A [`Source`] is read by its MDT's own thread. A [`Clearer`] lives on another thread, since a probe or a clear can
//! block for a minute while an MDT restarts. Neither decides anything about reused indexes: they report what was
//! seen and how long it took, the core judges.

use std::num::NonZeroU64;
use std::time::Duration;

use clbridge_schemas::ids::{Digest, MdtName};
use thiserror::Error;

use crate::core::Clearable;

/// What one read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Read {
    /// Whole records were appended to the buffer.
    pub bytes: usize,
    /// The longest silence since the last call that brought records: this call's own waiting and the caller's time
    /// between the calls, whichever is longer. The core compares it with what an MDT restart needs at least.
    pub paused: Duration,
    /// The descriptor was opened again since the last call: what follows was seen by a fresh look at the log.
    pub reopened: bool,
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
    fn open(&self, mdt: &MdtName, user: &str) -> Result<(Box<dyn Source>, Box<dyn Clearer>), SourceError>;
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
    /// The device gave bytes that are not a record.
    #[error("{mdt}: {source}; the MDT's changelog is damaged there or of an unknown version: see docs/what-happens-when.md")]
    Malformed {
        /// The MDT.
        mdt: MdtName,
        /// Index and byte offset.
        source: clbridge_schemas::lustre::RecordError,
    },
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
