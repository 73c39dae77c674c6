//! The oracle log as JSON lines: every entry, only events, or the records that are finally part of the history.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Emitted, Entries, Entry, Event};
use crate::mask;

/// What to export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// Every entry in the order of writing.
    #[default]
    All,
    /// Everything but records.
    Events,
    /// Only what was done about clears.
    Clears,
    /// Records emitted and never taken back, purged since or not, in the order of (life of the log, index).
    Surviving,
}

/// Calls `line` with each selected entry of the oracle log at `path` as one JSON object; `mdt` goes into each.
/// Returns how many there were.
///
/// # Errors
/// Those of the disk and of `line`.
pub fn export(path: &Path, mdt: &str, select: Select, mut line: impl FnMut(&str) -> io::Result<()>) -> io::Result<u64> {
    let mut entries = Entries::open(path)?;
    let mut written = 0;
    let mut surviving: Vec<Emitted> = Vec::new();
    // Where the present numbering begins in `surviving`: a reset starts again from 1 and takes nothing back.
    let mut numbering = 0;
    while let Some(entry) = entries.next()? {
        let text = match (&entry, select) {
            (Entry::Emitted(e), Select::Surviving) => {
                surviving.push(*e);
                continue;
            }
            (Entry::Event(Event::TakenBack { from, .. }), Select::Surviving) => {
                let keep = surviving[numbering..].partition_point(|e| e.index < *from);
                surviving.truncate(numbering + keep);
                continue;
            }
            (Entry::Event(Event::Reset { .. }), Select::Surviving) => {
                numbering = surviving.len();
                continue;
            }
            (_, Select::Surviving) | (Entry::Emitted(_), Select::Events | Select::Clears) => {
                continue;
            }
            (Entry::Event(e), Select::Clears) if !matches!(e, Event::Clear { .. } | Event::ClearReceived { .. }) => {
                continue;
            }
            (Entry::Emitted(e), Select::All) => record(mdt, e),
            (Entry::Event(e), _) => {
                let mut value = serde_json::to_value(e).map_err(io::Error::other)?;
                value["mdt"] = json!(mdt);
                value.to_string()
            }
        };
        line(&text)?;
        written += 1;
    }
    for e in &surviving {
        line(&record(mdt, e))?;
    }
    Ok(written + surviving.len() as u64)
}

fn record(mdt: &str, e: &Emitted) -> String {
    // Millions of lines: written directly, not through a tree of values.
    let name = mask::NAMES.get(e.kind as usize).copied().unwrap_or("UNKNOWN");
    let (seq, oid, ver) = e.tfid;
    let seq = if seq == 0 { "0".to_owned() } else { format!("{seq:#x}") };
    format!(
        r#"{{"event":"record","mdt":"{mdt}","life":{},"index":{},"type":"{name}","type_code":{},"time_ns":{},"tfid":"[{seq}:{oid:#x}:{ver:#x}]","wall_ns":{}}}"#,
        e.life, e.index, e.kind, e.time_ns, e.wall_ns
    )
}
