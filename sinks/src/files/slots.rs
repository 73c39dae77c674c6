//! A small file whose content is replaced again and again, each time durably and at the price of one sync.
//!
//! A sector with the number of the newest durable content, then two slots of equal size; the older one is overwritten.
//! Readers need no lock: a slot counts when its checksum fits and its number is not above the durable one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xxhash_rust::xxh64::xxh64;

use super::disk::{beside, sort, sync_dir};
use crate::error::SinkError;

const MAGIC: &[u8; 8] = b"clbslot1";
const SECTOR: usize = 512;
/// Magic, number, length, XXH64 of the content with the number as its seed.
const HEAD: usize = 32;
/// How often a reader looks while the content is replaced under its hands.
const LOOKS: u32 = 100;

/// One content, with its number.
pub(super) type Content = (u64, Vec<u8>);

/// The newest content of a file of two slots; with `unsynced` also one whose writer did not come to say that it is
/// durable. `None` if there is none.
pub(super) fn newest(data: &[u8], unsynced: bool) -> Option<Content> {
    let word = |at: usize| data.get(at..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    let durable = word(0)?;
    let stride = data.len().checked_sub(SECTOR)? / 2;
    let slot = |at: usize| -> Option<Content> {
        let (number, length, sum) = (word(at + 8)?, usize::try_from(word(at + 16)?).ok()?, word(at + 24)?);
        let body = data.get(at + HEAD..at.checked_add(HEAD)?.checked_add(length)?)?;
        let whole = data.get(at..at + 8)? == MAGIC && xxh64(body, number) == sum;
        (whole && (unsynced || number <= durable)).then(|| (number, body.to_vec()))
    };
    [slot(SECTOR), slot(SECTOR + stride)].into_iter().flatten().max_by_key(|(number, _)| *number)
}

/// What stands at `path`; `None` if there is no file. While it is replaced it is read again.
pub(super) fn read(path: &Path) -> Result<Option<Content>, SinkError> {
    for _ in 0..LOOKS {
        let Some(data) = super::disk::read(path)? else { return Ok(None) };
        if let Some(found) = newest(&data, false) {
            return Ok(Some(found));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(SinkError::Mismatch {
        what: path.display().to_string(),
        why: "holds nothing that was written by clbridge".to_owned(),
        hint: "restore it, or remove it and see docs/brokers/files.md".to_owned(),
    })
}

/// A file of two slots, open for writing by one writer.
pub(super) struct Slots {
    path: PathBuf,
    file: File,
    stride: usize,
    number: u64,
}

impl Slots {
    /// Makes a file without content beside `path`, each content of at most `room` bytes; it is to be renamed.
    fn blank(path: &Path, room: usize) -> io::Result<(PathBuf, Self)> {
        let (new, stride) = (beside(path), (HEAD + room).next_multiple_of(SECTOR));
        let file = File::options().read(true).write(true).create_new(true).open(&new)?;
        // Written, not left sparse: when the disk is full later there must still be room for what may be cleared.
        file.write_all_at(&vec![0; SECTOR + 2 * stride], 0)?;
        file.sync_all()?;
        Ok((new, Self { path: path.to_owned(), file, stride, number: 0 }))
    }

    /// Makes a file with this content, unless there is one.
    pub(super) fn create(path: &Path, room: usize, content: &[u8]) -> Result<(), SinkError> {
        let made = || -> io::Result<()> {
            let (new, mut slots) = Self::blank(path, room)?;
            let put = slots.write(content).and_then(|()| match fs::hard_link(&new, path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
                _ => Ok(()),
            });
            fs::remove_file(&new)?;
            put?;
            path.parent().map_or(Ok(()), sync_dir)
        };
        made().map_err(|e| sort("making", path, &e))
    }

    /// Puts an empty file in the place of the one at `path`, whose writer, if it lives, then finds itself replaced.
    pub(super) fn supplant(path: &Path, room: usize) -> Result<Self, SinkError> {
        let made = || -> io::Result<Self> {
            let (new, slots) = Self::blank(path, room)?;
            slots.file.try_lock().map_err(io::Error::other)?;
            fs::rename(&new, path)?;
            path.parent().map_or(Ok(()), sync_dir)?;
            Ok(slots)
        };
        made().map_err(|e| sort("replacing", path, &e))
    }

    /// Opens the file at `path` and takes its lock, as long as it is open; `None` while another one has it, or if it is
    /// not there. What an earlier writer could not say to be durable is made so.
    pub(super) fn open(path: &Path) -> Result<Option<(Self, Vec<u8>)>, SinkError> {
        let file = match File::options().read(true).write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| sort("opening", path, &e))?,
        };
        if !super::disk::lock_now(&file, path)? {
            return Ok(None);
        }
        let stride = |len: u64| (len as usize).saturating_sub(SECTOR) / 2;
        let settled = || -> io::Result<Option<(Self, Vec<u8>)>> {
            let mut slots = Self { path: path.to_owned(), stride: stride(file.metadata()?.len()), file, number: 0 };
            let mut data = vec![0; SECTOR + 2 * slots.stride];
            slots.file.read_exact_at(&mut data, 0)?;
            let Some((number, content)) = newest(&data, true) else { return Ok(None) };
            slots.number = number;
            slots.file.sync_all()?;
            slots.announce()?;
            Ok(slots.is_in_place()?.then_some((slots, content)))
        };
        settled().map_err(|e| sort("opening", path, &e))
    }

    /// The number of the newest content.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The most bytes that a content may have.
    pub(super) fn room(&self) -> usize {
        self.stride - HEAD
    }

    /// Whether this is still the file at its path.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        super::disk::is_file_at(&self.file, &self.path)
    }

    /// Writes the next content, durable when this returns, without saying so to readers.
    pub(super) fn put(&mut self, content: &[u8]) -> io::Result<()> {
        if content.len() > self.room() {
            return Err(io::Error::other(format!("{} bytes, at most {} have room", content.len(), self.room())));
        }
        let number = self.number + 1;
        let mut image = Vec::with_capacity(HEAD + content.len());
        image.extend_from_slice(MAGIC);
        for word in [number, content.len() as u64, xxh64(content, number)] {
            image.extend_from_slice(&word.to_le_bytes());
        }
        image.extend_from_slice(content);
        self.file.write_all_at(&image, (SECTOR + (number % 2) as usize * self.stride) as u64)?;
        self.file.sync_data()?;
        self.number = number;
        Ok(())
    }

    /// Lets readers see what was put. It needs no sync: a start takes the newest whole slot.
    pub(super) fn announce(&self) -> io::Result<()> {
        self.file.write_all_at(&self.number.to_le_bytes(), 0)
    }

    /// Puts and announces.
    pub(super) fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.put(content)?;
        self.announce()
    }

    /// The numbers go on behind those of the file that was supplanted.
    pub(super) fn follow(&mut self, number: u64) {
        self.number = number;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_slot_that_was_torn_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        Slots::create(&path, 100, b"one").unwrap();
        let (mut slots, content) = Slots::open(&path).unwrap().unwrap();
        assert_eq!(content, b"one");
        slots.write(b"two").unwrap();
        assert_eq!(read(&path).unwrap(), Some((2, b"two".to_vec())));
        // given a third one of which a part only was written
        slots.put(b"three").unwrap();
        let at = SECTOR + slots.stride + HEAD;
        slots.file.write_all_at(b"x", at as u64).unwrap();
        slots.announce().unwrap();
        // then the second one is read
        assert_eq!(read(&path).unwrap(), Some((2, b"two".to_vec())));
    }

    #[test]
    fn what_is_not_announced_is_for_the_next_writer_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        Slots::create(&path, 100, b"one").unwrap();
        let (mut slots, _) = Slots::open(&path).unwrap().unwrap();
        slots.put(b"two").unwrap();
        assert_eq!(read(&path).unwrap(), Some((1, b"one".to_vec())));
        assert!(Slots::open(&path).unwrap().is_none(), "two writers");
        drop(slots);
        assert_eq!(Slots::open(&path).unwrap().unwrap().1, b"two");
        assert_eq!(read(&path).unwrap(), Some((2, b"two".to_vec())));
    }

    #[test]
    fn a_writer_that_was_supplanted_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        Slots::create(&path, 100, b"one").unwrap();
        let (old, _) = Slots::open(&path).unwrap().unwrap();
        let new = Slots::supplant(&path, 100).unwrap();
        assert!(!old.is_in_place().unwrap() && new.is_in_place().unwrap());
    }
}
