//! The oracle log: what really happened on a simulated MDT, for judges that share no code with what they judge.
//! It must never lose an entry whose record a reader can already see: entries reach the system before the records do.
//!
//! PROTOCOL.md documents the file: one per MDT, a row of entries, little-endian. `E` and 48 bytes for a record
//! emitted; `J`, a u32 length and a JSON object ([`Event`]) for everything else.

mod export;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use export::{Select, export};

const EMITTED: u8 = b'E';
const EVENT: u8 = b'J';
/// Bytes of an emitted record's entry, its letter included.
pub const EMITTED_LEN: usize = 49;

/// A record as it was emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Which life of the MDT's log; rises with every crash, unclean start and reset.
    pub life: u32,
    /// The record's index.
    pub index: u64,
    /// The record type's number.
    pub kind: u32,
    /// The record's own time, nanoseconds since 1970.
    pub time_ns: u64,
    /// The target FID.
    pub tfid: (u64, u32, u32),
    /// When it became readable, by the wall clock, nanoseconds since 1970.
    pub wall_ns: u64,
}

/// Everything but records. `at_ns` is the wall clock (`CLOCK_REALTIME`), nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The server took up this MDT.
    #[allow(missing_docs)]
    Started { at_ns: u64, life: u32, last_index: u64 },
    /// The server stopped cleanly.
    #[allow(missing_docs)]
    Stopped { at_ns: u64, last_index: u64 },
    /// Everything up to `upto` is on the MDT's disk.
    #[allow(missing_docs)]
    Committed { at_ns: u64, upto: u64 },
    /// Records `from` to `to` of the lives before `life` never happened; clears after the commit neither.
    /// `clears` lists the users whose index fell back.
    #[allow(missing_docs)]
    TakenBack { at_ns: u64, life: u32, from: u64, to: u64, reason: String, clears: Vec<ClearTakenBack> },
    /// A clear arrived (`id` is its number on this MDT and life of the server).
    #[allow(missing_docs)]
    ClearReceived { at_ns: u64, id: u64, text: String },
    /// A clear was executed (`errno` 0) or refused. `before` and `after` are the user's index.
    #[allow(missing_docs)]
    Clear {
        received_ns: u64,
        at_ns: u64,
        id: u64,
        text: String,
        user: Option<u32>,
        index: Option<u64>,
        before: Option<u64>,
        after: Option<u64>,
        errno: i32,
        life: u32,
    },
    /// Records `from` to `to` were given up: cleared by all, or for the reason given.
    #[allow(missing_docs)]
    Purged { at_ns: u64, life: u32, from: u64, to: u64, reason: String },
    /// A user was registered.
    #[allow(missing_docs)]
    Registered { at_ns: u64, user: u32, name: Option<String>, index: u64 },
    /// A user was removed, by the administrator or by force.
    #[allow(missing_docs)]
    Deregistered { at_ns: u64, user: u32, index: u64, forced: bool },
    /// The MDT went away; `crash` if without a commit.
    #[allow(missing_docs)]
    Down { at_ns: u64, crash: bool, evict: bool },
    /// The MDT is back. `replayed` records of the lost ones came back, `fresh` others followed.
    #[allow(missing_docs)]
    Up { at_ns: u64, life: u32, replayed: u64, fresh: u64 },
    /// The log was made anew: indexes start from 1.
    #[allow(missing_docs)]
    Reset { at_ns: u64, life: u32, last_index: u64 },
    /// A fault was set or fired.
    #[allow(missing_docs)]
    Fault { at_ns: u64, what: String },
}

/// A clear that a crash took back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearTakenBack {
    /// The user's number.
    pub user: u32,
    /// Its index before the crash.
    pub from: u64,
    /// Its index after the crash.
    pub to: u64,
}

/// One entry of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record.
    Emitted(Emitted),
    /// Anything else.
    Event(Event),
}

/// The writing end.
#[derive(Debug)]
pub struct Oracle {
    file: File,
    buffer: Vec<u8>,
}

impl Oracle {
    /// Opens the file for appending, cutting off a torn last entry. Also returns the newest index emitted in it since
    /// its last reset, 0 if none.
    ///
    /// # Errors
    /// Those of the disk, and a file that is not an oracle log.
    pub fn open(path: &Path) -> io::Result<(Self, u64)> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut newest = 0;
        let mut entries = Entries::open(path)?;
        while let Some(entry) = entries.next()? {
            match entry {
                Entry::Emitted(e) => newest = e.index,
                Entry::Event(Event::Reset { .. }) => newest = 0,
                Entry::Event(_) => {}
            }
        }
        file.set_len(entries.whole)?;
        Ok((Self { file, buffer: Vec::with_capacity(64 << 10) }, newest))
    }

    /// Notes a record. Nobody may read it before the next [`Oracle::flush`].
    pub fn emitted(&mut self, e: &Emitted) {
        let out = &mut self.buffer;
        out.push(EMITTED);
        out.extend_from_slice(&e.life.to_le_bytes());
        out.extend_from_slice(&e.index.to_le_bytes());
        out.extend_from_slice(&e.kind.to_le_bytes());
        out.extend_from_slice(&e.time_ns.to_le_bytes());
        out.extend_from_slice(&e.tfid.0.to_le_bytes());
        out.extend_from_slice(&e.tfid.1.to_le_bytes());
        out.extend_from_slice(&e.tfid.2.to_le_bytes());
        out.extend_from_slice(&e.wall_ns.to_le_bytes());
    }

    /// Notes an event and hands everything to the system.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let text = serde_json::to_vec(event).map_err(io::Error::other)?;
        self.buffer.push(EVENT);
        self.buffer.extend_from_slice(&(text.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&text);
        self.flush()
    }

    /// Hands everything to the system, where it outlives this process.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// Reads an oracle file from its beginning.
#[derive(Debug)]
pub struct Entries {
    input: BufReader<File>,
    /// Bytes of whole entries read so far.
    whole: u64,
}

impl Entries {
    /// Opens the file.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { input: BufReader::with_capacity(1 << 20, File::open(path)?), whole: 0 })
    }

    /// The next entry; `None` at the end or at an entry that is still being written.
    ///
    /// # Errors
    /// Those of the disk, and an entry that is none.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut letter = [0u8; 1];
        if !fill(&mut self.input, &mut letter)? {
            return Ok(None);
        }
        match letter[0] {
            EMITTED => {
                let mut b = [0u8; EMITTED_LEN - 1];
                if !fill(&mut self.input, &mut b)? {
                    return Ok(None);
                }
                self.whole += EMITTED_LEN as u64;
                let number =
                    |at: usize, len: usize| b[at..at + len].iter().rev().fold(0u64, |n, x| (n << 8) | u64::from(*x));
                Ok(Some(Entry::Emitted(Emitted {
                    life: number(0, 4) as u32,
                    index: number(4, 8),
                    kind: number(12, 4) as u32,
                    time_ns: number(16, 8),
                    tfid: (number(24, 8), number(32, 4) as u32, number(36, 4) as u32),
                    wall_ns: number(40, 8),
                })))
            }
            EVENT => {
                let mut len = [0u8; 4];
                if !fill(&mut self.input, &mut len)? {
                    return Ok(None);
                }
                let mut text = vec![0u8; u32::from_le_bytes(len) as usize];
                if !fill(&mut self.input, &mut text)? {
                    return Ok(None);
                }
                self.whole += 5 + text.len() as u64;
                let event = serde_json::from_slice(&text).map_err(|e| self.damaged(&e.to_string()))?;
                Ok(Some(Entry::Event(event)))
            }
            other => Err(self.damaged(&format!("an entry begins with {other:#x}"))),
        }
    }

    fn damaged(&self, why: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("oracle log damaged at byte {}: {why}", self.whole))
    }
}

/// Fills `buf`; false if the file ends before.
fn fill(input: &mut impl Read, buf: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buf) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}
