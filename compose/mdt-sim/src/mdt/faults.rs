//! What an MDT does wrong on command. Nothing here is part of the log: a fault that is taken away leaves no trace in it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FaultOn {
    /// `open`.
    Open,
    /// `read`.
    Read,
    /// The write of a clear.
    Clear,
}

/// How a record is spoiled on its way to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// The name's length leads beyond the buffer.
    Length,
    /// A NUL in the middle of the name (only where it is not a rename).
    Nul,
    /// Only the first half of the record is there.
    Cut,
}

/// An error for the next calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) on: FaultOn,
    pub(crate) errno: i32,
    /// How many times still; `None` until reset.
    pub(crate) times: Option<u64>,
}

/// All faults of one MDT.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    list: Vec<Fault>,
    pub(crate) malformed: BTreeMap<u64, Malformed>,
    /// Added to every read.
    pub(crate) read_delay: Duration,
    /// A read returns at most this many records; 0 is no limit.
    pub(crate) read_records: u32,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.list.push(fault);
    }

    /// The error that this call gets, if any.
    pub(crate) fn take(&mut self, on: FaultOn) -> Option<i32> {
        let at = self.list.iter().position(|f| f.on == on)?;
        let fault = &mut self.list[at];
        let errno = fault.errno;
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.list.remove(at);
            }
        }
        Some(errno)
    }
}

/// Appends a spoiled copy of `record` to `out`.
pub(crate) fn spoil(record: &[u8], how: Malformed, out: &mut Vec<u8>) {
    let start = out.len();
    match how {
        Malformed::Length => {
            out.extend_from_slice(record);
            out[start..start + 2].copy_from_slice(&u16::MAX.to_le_bytes());
        }
        Malformed::Nul => {
            out.extend_from_slice(record);
            let name = usize::from(u16::from_le_bytes([record[0], record[1]]));
            if name > 0 {
                let at = out.len() - name + name / 2;
                out[at] = 0;
            }
        }
        Malformed::Cut => out.extend_from_slice(&record[..record.len() / 2]),
    }
}
