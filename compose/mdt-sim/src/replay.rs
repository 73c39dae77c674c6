//! Replay of captures: files of whole records as `read` returned them, gzipped or not.
//! A capture that is replayed as it was keeps every byte; a looped one gets new indexes and times.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::layout;
use crate::mdt::{Mdt, Stamp};
use crate::workload::Report;

/// Records are logged in batches of about this many, fewer at a low rate.
const BATCH: usize = 1024;

/// The bytes of a capture file (`.bin`, `.bin.gz`).
///
/// # Errors
/// Those of the disk; `InvalidData` with the byte where a record is not whole.
pub fn load(path: &Path) -> io::Result<Vec<u8>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("capture {}: {e}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(named)?;
    if path.extension().is_some_and(|e| e == "gz") {
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).map_err(named)?;
    } else {
        let mut file = file;
        file.read_to_end(&mut bytes).map_err(named)?;
    }
    let mut at = 0;
    while at < bytes.len() {
        at += layout::record_len(&bytes[at..]).ok_or_else(|| {
            named(io::Error::new(io::ErrorKind::InvalidData, format!("no whole record at byte {at}")))
        })?;
    }
    Ok(bytes)
}

pub(crate) fn run(file: &Path, mdt: &Mdt, keep: bool, loops: u64, rate: u64, ended: &AtomicBool) -> io::Result<Report> {
    let bytes = load(file)?;
    let (stamp, loops) = if keep { (Stamp::Keep, 1) } else { (Stamp::Now, loops) };
    let batch = if rate == 0 { BATCH } else { ((rate / 100) as usize).clamp(1, BATCH) };
    let mut report = Report::default();
    let start = Instant::now();
    for _ in 0..loops {
        let mut at = 0;
        while at < bytes.len() && !ended.load(Ordering::Relaxed) {
            let from = at;
            for _ in 0..batch {
                at += layout::record_len(&bytes[at..]).unwrap_or(0);
            }
            report.add(mdt.emit(&bytes[from..at], stamp)?);
            if rate > 0 {
                let due = Duration::from_secs_f64(report.count as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
    }
    Ok(report)
}
