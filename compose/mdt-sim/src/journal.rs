//! The disk of one MDT: blocks of records and commit points, in files of bounded size.
//! What stands before the last commit point survives `kill -9`; what stands behind it never does. It must never give
//! back bytes whose checksum is wrong.
//!
//! A file `NNNNNNNNNN.journal` is a row of frames: `kind u8, length u32, crc32 u32, payload`, little-endian, the
//! checksum over kind, length and payload. Kind `R`: `first u64, last u64, count u32`, then the records as the kernel
//! packs them. Kind `C`: the MDT's state as JSON ([`Meta`]): users, clears, newest index. A new file begins with a
//! copy of the last commit, so the files before it can be deleted once nobody needs their records.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::users::Users;

const RECORDS: u8 = b'R';
const COMMIT: u8 = b'C';
const FRAME_HEAD: usize = 9;
const BLOCK_HEAD: usize = 20;
/// A frame longer than this is damage, not data: blocks are some 64 KiB, states a few.
const MAX_FRAME: usize = 64 << 20;

/// The state that a commit makes durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The MDT's name, so that a folder cannot be taken for another's.
    pub mdt: String,
    /// Users, their clears, and masks.
    pub users: Users,
    /// The newest index.
    pub last_index: u64,
    /// The newest record's time, nanoseconds since 1970.
    pub last_time_ns: u64,
    /// Records up to here are purged.
    pub purged: u64,
    /// Rises with every crash, unclean start and reset, so that (life, index) is unique.
    pub life: u32,
    /// Written by a clean stop: nothing can have been lost behind it.
    pub clean: bool,
}

/// A block of records on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First index in the block.
    pub first: u64,
    /// Last index in the block.
    pub last: u64,
    /// Number of records.
    pub count: u32,
    /// Bytes of records.
    pub len: u32,
    file: u64,
    offset: u64,
}

/// The journal of one MDT.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    files: BTreeMap<u64, File>,
    current: u64,
    /// Length of the current file, and its length at the last commit.
    len: u64,
    committed_len: u64,
    max_file: u64,
    fsync: bool,
}

/// What a journal held when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// The last committed state.
    pub meta: Meta,
    /// Committed blocks, oldest first.
    pub places: Vec<Place>,
}

fn damaged(path: &Path, offset: u64, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("journal {} is damaged at byte {offset}: {why}; delete the MDT's folder to begin anew", path.display()),
    )
}

fn checksum(kind: u8, len: u32, parts: &[&[u8]]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&[kind]);
    hash.update(&len.to_le_bytes());
    for part in parts {
        hash.update(part);
    }
    hash.finalize()
}

impl Journal {
    /// Opens the journal in `dir`, dropping what stands behind the last commit point. `None` for a new one, which the
    /// first [`Journal::commit`] brings to life.
    ///
    /// # Errors
    /// Those of the disk, and damage before the last commit point.
    pub fn open(dir: &Path, max_file: u64, fsync: bool) -> io::Result<(Self, Option<Recovered>)> {
        std::fs::create_dir_all(dir)?;
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "journal")
                && let Some(number) = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<u64>().ok())
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        let mut journal =
            Self { dir: dir.to_owned(), files: BTreeMap::new(), current: 0, len: 0, committed_len: 0, max_file, fsync };
        let mut meta = None;
        let mut places = Vec::new();
        for (at, number) in numbers.iter().enumerate() {
            let newest = at + 1 == numbers.len();
            let file = journal.file(*number)?;
            let found = scan(&file, *number, &journal.path(*number), newest)?;
            if let Some(found_meta) = found.meta {
                meta = Some(found_meta);
                places.extend(found.places);
                journal.current = *number;
                journal.len = found.committed_len;
                journal.committed_len = found.committed_len;
                file.set_len(found.committed_len)?;
                journal.files.insert(*number, file);
            } else if newest {
                // Made by a roll that a kill interrupted before its first commit was written.
                std::fs::remove_file(journal.path(*number))?;
            } else {
                return Err(damaged(&journal.path(*number), 0, "it holds no commit"));
            }
        }
        let recovered = meta.map(|meta| Recovered { meta, places });
        if recovered.is_none() {
            journal.files.insert(0, journal.file(0)?);
        }
        Ok((journal, recovered))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:010}.journal"))
    }

    fn file(&self, number: u64) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path(number))
    }

    fn current(&self) -> io::Result<&File> {
        self.files.get(&self.current).ok_or_else(|| io::Error::other("the journal's current file is not open"))
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<u64> {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let len32 = u32::try_from(len).map_err(|_| io::Error::other("journal frame beyond 4 GiB"))?;
        let mut bytes = Vec::with_capacity(FRAME_HEAD + len);
        bytes.push(kind);
        bytes.extend_from_slice(&len32.to_le_bytes());
        bytes.extend_from_slice(&checksum(kind, len32, parts).to_le_bytes());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        let at = self.len;
        self.current()?.write_all_at(&bytes, at)?;
        self.len += bytes.len() as u64;
        Ok(at + FRAME_HEAD as u64)
    }

    /// Writes a block of records; it becomes durable with the next commit.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn append(&mut self, first: u64, last: u64, count: u32, records: &[u8]) -> io::Result<Place> {
        let mut head = [0u8; BLOCK_HEAD];
        head[..8].copy_from_slice(&first.to_le_bytes());
        head[8..16].copy_from_slice(&last.to_le_bytes());
        head[16..].copy_from_slice(&count.to_le_bytes());
        let payload = self.frame(RECORDS, &[&head, records])?;
        Ok(Place {
            first,
            last,
            count,
            len: records.len() as u32,
            file: self.current,
            offset: payload + BLOCK_HEAD as u64,
        })
    }

    /// Makes everything written so far durable, together with `meta`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn commit(&mut self, meta: &Meta) -> io::Result<()> {
        let text = serde_json::to_vec(meta).map_err(io::Error::other)?;
        self.frame(COMMIT, &[&text])?;
        if self.fsync {
            self.current()?.sync_data()?;
        }
        self.committed_len = self.len;
        if self.len >= self.max_file {
            let next = self.current + 1;
            self.files.insert(next, self.file(next)?);
            self.current = next;
            self.len = 0;
            self.frame(COMMIT, &[&text])?;
            if self.fsync {
                self.current()?.sync_data()?;
            }
            self.committed_len = self.len;
        }
        Ok(())
    }

    /// Forgets everything behind the last commit point, as a crash does.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn rollback(&mut self) -> io::Result<()> {
        self.current()?.set_len(self.committed_len)?;
        self.len = self.committed_len;
        Ok(())
    }

    /// The records of a block.
    ///
    /// # Errors
    /// Those of the disk, and a wrong checksum.
    pub fn read(&self, place: &Place) -> io::Result<Vec<u8>> {
        let file =
            self.files.get(&place.file).ok_or_else(|| io::Error::other("the journal's file of this block is gone"))?;
        let whole = FRAME_HEAD + BLOCK_HEAD + place.len as usize;
        let start = place.offset - (FRAME_HEAD + BLOCK_HEAD) as u64;
        let mut bytes = vec![0u8; whole];
        file.read_exact_at(&mut bytes, start)?;
        let len = (BLOCK_HEAD + place.len as usize) as u32;
        let stored = u32::from_le_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        if checksum(RECORDS, len, &[&bytes[FRAME_HEAD..]]) != stored {
            return Err(damaged(&self.path(place.file), start, "wrong checksum"));
        }
        bytes.drain(..FRAME_HEAD + BLOCK_HEAD);
        Ok(bytes)
    }

    /// Deletes the files before the one that holds `oldest`; all but the current one if no block is left.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn forget_before(&mut self, oldest: Option<&Place>) -> io::Result<()> {
        let keep = oldest.map_or(self.current, |p| p.file);
        while let Some(entry) = self.files.first_entry() {
            if *entry.key() >= keep {
                break;
            }
            let number = *entry.key();
            entry.remove();
            std::fs::remove_file(self.path(number))?;
        }
        Ok(())
    }
}

struct Scanned {
    meta: Option<Meta>,
    places: Vec<Place>,
    committed_len: u64,
}

/// Reads one file's frames up to its last commit. In the newest file a broken frame is the edge of what a kill left.
fn scan(file: &File, number: u64, path: &Path, newest: bool) -> io::Result<Scanned> {
    let size = file.metadata()?.len();
    let mut input = BufReader::with_capacity(1 << 20, file);
    let mut at = 0u64;
    let mut pending = Vec::new();
    let mut out = Scanned { meta: None, places: Vec::new(), committed_len: 0 };
    let mut payload = Vec::new();
    loop {
        let why = match read_frame(&mut input, size - at, &mut payload)? {
            Frame::End => break,
            Frame::Broken(why) => why,
            Frame::Whole(kind) => {
                let start = at + FRAME_HEAD as u64;
                at = start + payload.len() as u64;
                match kind {
                    RECORDS if payload.len() >= BLOCK_HEAD => {
                        let u64_at =
                            |i: usize| payload[i..i + 8].iter().rev().fold(0u64, |n, b| (n << 8) | u64::from(*b));
                        pending.push(Place {
                            first: u64_at(0),
                            last: u64_at(8),
                            count: u32::from_le_bytes([payload[16], payload[17], payload[18], payload[19]]),
                            len: (payload.len() - BLOCK_HEAD) as u32,
                            file: number,
                            offset: start + BLOCK_HEAD as u64,
                        });
                        continue;
                    }
                    COMMIT => {
                        let meta = serde_json::from_slice(&payload)
                            .map_err(|e| damaged(path, start, &format!("unreadable commit: {e}")))?;
                        out.meta = Some(meta);
                        out.places.append(&mut pending);
                        out.committed_len = at;
                        continue;
                    }
                    _ => "unknown frame",
                }
            }
        };
        if newest {
            break;
        }
        return Err(damaged(path, at, why));
    }
    Ok(out)
}

enum Frame {
    Whole(u8),
    End,
    Broken(&'static str),
}

fn read_frame(input: &mut impl Read, left: u64, payload: &mut Vec<u8>) -> io::Result<Frame> {
    if left == 0 {
        return Ok(Frame::End);
    }
    if left < FRAME_HEAD as u64 {
        return Ok(Frame::Broken("cut in a frame's head"));
    }
    let mut head = [0u8; FRAME_HEAD];
    input.read_exact(&mut head)?;
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let stored = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
    if len as usize > MAX_FRAME || u64::from(len) > left - FRAME_HEAD as u64 {
        return Ok(Frame::Broken("cut in a frame"));
    }
    payload.resize(len as usize, 0);
    input.read_exact(payload)?;
    if checksum(head[0], len, &[payload]) != stored {
        return Ok(Frame::Broken("wrong checksum"));
    }
    Ok(Frame::Whole(head[0]))
}
