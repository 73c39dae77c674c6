//! Records from files that were captured from a device: for trying things out without a Lustre, and for benchmarks.
//!
//! A capture is read into memory whole and stands for an MDT that nothing happens on; clears are remembered in memory
//! only. It never writes to the files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use clbridge_schemas::lustre::records;
use flate2::read::MultiGzDecoder;

use super::clearer::DeviceClearer;
use super::clock::BootClock;
use super::device::{Answer, Descriptor, Device, LEAST_ROOM, Mode, UserId};
use super::{Opened, Read, Source, SourceError, SourceFactory};

/// Where `cr_index` is in a record.
const INDEX_AT: std::ops::Range<usize> = 8..16;

/// A capture in memory, played once or again and again.
#[derive(Debug)]
pub struct Replay {
    bytes: Vec<u8>,
    /// Index and place of every record, in order.
    places: Vec<(u64, usize)>,
    looped: bool,
    cleared: AtomicU64,
}

impl Replay {
    /// Reads capture files, which follow each other; those named `*.gz` are unpacked. With `looped`, the capture begins
    /// again behind its end, with indexes that go on rising; else its indexes are as they are.
    ///
    /// # Errors
    /// A file cannot be read, holds what is not a record, or an index that is not above the one before.
    pub fn load(mdt: &MdtName, files: &[PathBuf], looped: bool) -> Result<Self, SourceError> {
        let mut bytes = Vec::new();
        for file in files {
            append(file, &mut bytes).map_err(|source| SourceError::Io {
                mdt: mdt.clone(),
                what: format!("reading the capture {}", file.display()),
                source,
            })?;
        }
        let mut places: Vec<(u64, usize)> = Vec::new();
        let mut at = 0;
        let mut each = records(&bytes, 0);
        for view in each.by_ref() {
            let view = view.map_err(|source| SourceError::Malformed { mdt: mdt.clone(), source })?;
            let (index, last) = (view.index(), places.last().map_or(0, |&(last, _)| last));
            if index <= last {
                return Err(SourceError::OutOfOrder { mdt: mdt.clone(), last, got: index });
            }
            places.push((index, at));
            at += view.bytes().len();
        }
        each.finish().map_err(|source| SourceError::Malformed { mdt: mdt.clone(), source })?;
        Ok(Self { bytes, places, looped, cleared: AtomicU64::new(0) })
    }

    /// By how much indexes rise from one pass to the next.
    fn span(&self) -> u64 {
        match (self.places.first(), self.places.last()) {
            (Some((first, _)), Some((last, _))) => last - first + 1,
            _ => 1,
        }
    }

    /// The pass and the number in it of the first record at or behind `index`.
    fn find(&self, index: u64) -> (u64, usize) {
        let first = self.places.first().map_or(0, |&(first, _)| first);
        let pass = if self.looped { index.saturating_sub(first) / self.span() } else { 0 };
        let wanted = index - pass * self.span();
        (pass, self.places.partition_point(|&(index, _)| index < wanted))
    }

    /// Appends what fits of the rest of `pass` from its record number `from`; where it goes on.
    fn copy(&self, (pass, from): (u64, usize), room: usize, buf: &mut Vec<u8>) -> (u64, usize) {
        let start = self.places[from].1;
        let fits = self.places.partition_point(|&(_, at)| at <= start + room);
        // The end of record n is the beginning of n + 1; that of the last one is the end of the bytes.
        let upto = if self.bytes.len() - start <= room { self.places.len() } else { fits - 1 };
        let end = self.places.get(upto).map_or(self.bytes.len(), |&(_, at)| at);
        let old = buf.len();
        buf.extend_from_slice(&self.bytes[start..end]);
        if pass > 0 {
            for &(index, at) in &self.places[from..upto] {
                let at = old + at - start;
                let index = index + pass * self.span();
                buf[at + INDEX_AT.start..at + INDEX_AT.end].copy_from_slice(&index.to_le_bytes());
            }
        }
        (pass, upto)
    }
}

fn append(file: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    let opened = File::open(file)?;
    if file.extension().is_some_and(|e| e == "gz") {
        MultiGzDecoder::new(opened).read_to_end(bytes)?;
    } else {
        io::BufReader::new(opened).read_to_end(bytes)?;
    }
    Ok(())
}

/// A replayed capture as a device, which the clearer looks at.
#[derive(Debug)]
struct ReplayDevice(Arc<Replay>);

/// An open look at a replayed capture.
#[derive(Debug)]
struct ReplayDescriptor {
    replay: Arc<Replay>,
    at: (u64, usize),
}

impl Device for ReplayDevice {
    type Descriptor = ReplayDescriptor;

    fn open(&mut self, from: Option<NonZeroU64>, _: Mode) -> io::Result<ReplayDescriptor> {
        let oldest = self.0.cleared.load(Ordering::Acquire) + 1;
        let at = self.0.find(from.map_or(oldest, |from| from.get().max(oldest)));
        Ok(ReplayDescriptor { replay: Arc::clone(&self.0), at })
    }

    fn clear(&mut self, _: &UserId, upto: NonZeroU64) -> io::Result<()> {
        let newest = self.0.places.last().map_or(0, |&(newest, _)| newest);
        if !self.0.looped && upto.get() > newest {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if self.0.cleared.fetch_max(upto.get(), Ordering::AcqRel) > upto.get() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        Ok(())
    }

    fn place(&self) -> String {
        "a replayed capture".to_owned()
    }
}

impl Descriptor for ReplayDescriptor {
    fn read(&mut self, buf: &mut Vec<u8>, room: usize, _: Duration) -> io::Result<Answer> {
        assert!(room >= LEAST_ROOM, "a read with room for {room} bytes can look like the end");
        if self.at.1 == self.replay.places.len() {
            if !self.replay.looped || self.replay.places.is_empty() {
                return Ok(Answer::End);
            }
            self.at = (self.at.0 + 1, 0);
        }
        self.at = self.replay.copy(self.at, room, buf);
        Ok(Answer::Records)
    }
}

/// Reads a replayed capture: no pauses, no reopening.
#[derive(Debug)]
struct ReplaySource {
    device: ReplayDevice,
    descriptor: Option<ReplayDescriptor>,
}

impl Source for ReplaySource {
    fn read(&mut self, buf: &mut Vec<u8>, limit: usize, wait: Duration) -> Result<Read, SourceError> {
        let old = buf.len();
        if let Some(descriptor) = &mut self.descriptor {
            let room = limit.max(LEAST_ROOM);
            if matches!(descriptor.read(buf, room, wait), Ok(Answer::End)) {
                std::thread::sleep(wait);
            }
        }
        Ok(Read { bytes: buf.len() - old, ..Read::default() })
    }

    fn seek(&mut self, index: NonZeroU64) -> Result<(), SourceError> {
        self.descriptor = self.device.open(Some(index), Mode::Plain).ok();
        Ok(())
    }
}

/// Captures that stand for MDTs.
#[derive(Debug, Default)]
pub struct ReplayFactory {
    replays: BTreeMap<MdtName, Arc<Replay>>,
}

impl ReplayFactory {
    /// Each MDT with the capture that stands for it.
    #[must_use]
    pub fn new(replays: impl IntoIterator<Item = (MdtName, Replay)>) -> Self {
        Self { replays: replays.into_iter().map(|(mdt, replay)| (mdt, Arc::new(replay))).collect() }
    }
}

impl SourceFactory for ReplayFactory {
    fn discover(&self) -> Result<Vec<MdtName>, SourceError> {
        Ok(self.replays.keys().cloned().collect())
    }

    fn open(&self, mdt: &MdtName, user: &str) -> Result<Opened, SourceError> {
        let replay = self.replays.get(mdt).ok_or_else(|| SourceError::Io {
            mdt: mdt.clone(),
            what: "looking for a capture that stands for it".to_owned(),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        })?;
        let user: UserId = user.parse().map_err(|source| SourceError::User { mdt: mdt.clone(), source })?;
        let mut device = ReplayDevice(Arc::clone(replay));
        let descriptor = device.open(None, Mode::Plain).ok();
        let clearer = DeviceClearer::new(mdt.clone(), ReplayDevice(Arc::clone(replay)), user, BootClock);
        Ok((Box::new(ReplaySource { device, descriptor }), Box::new(clearer)))
    }
}
