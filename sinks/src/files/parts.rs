//! The files of a topic: `POSITION.INCARNATION-INDEX.avro`, named by the first record; `.inprogress` is behind it while
//! a file is written.

use std::path::{Path, PathBuf};

use clbridge_schemas::ids::RecordId;

use super::disk;
use crate::error::SinkError;

const CLOSED: &str = ".avro";
const OPEN: &str = ".avro.inprogress";

/// A file of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// The position of its first record.
    pub(super) first: u64,
    /// The identity of its first record: incarnation and index.
    pub(super) begins: (u32, u64),
    pub(super) path: PathBuf,
    /// Whether it has the name of a file that is written.
    pub(super) open: bool,
}

impl Part {
    fn of(dir: &Path, name: &str) -> Option<Self> {
        let open = name.ends_with(OPEN);
        let stem = name.strip_suffix(if open { OPEN } else { CLOSED })?;
        let (first, identity) = stem.split_once('.')?;
        let (incarnation, index) = identity.split_once('-')?;
        if first.len() != 20 {
            return None;
        }
        let begins = (incarnation.parse().ok()?, index.parse().ok()?);
        Some(Self { first: first.parse().ok()?, begins, path: dir.join(name), open })
    }

    /// Its path once it is closed.
    pub(super) fn closed(&self) -> PathBuf {
        closed_path(&self.path)
    }
}

/// The path of the file that begins with this record and is written.
pub(super) fn open_path(dir: &Path, first: u64, id: RecordId) -> PathBuf {
    dir.join(format!("{first:020}.{}-{}{OPEN}", id.incarnation, id.index))
}

/// The path that a file has once it is closed.
pub(super) fn closed_path(open: &Path) -> PathBuf {
    let name = open.file_name().unwrap_or_default().to_string_lossy();
    open.with_file_name(name.strip_suffix(".inprogress").unwrap_or(&name))
}

/// All files of a topic with whatever name, in the order of positions.
pub(super) fn all(dir: &Path) -> Result<Vec<Part>, SinkError> {
    Ok(disk::names(dir)?.iter().filter_map(|name| Part::of(dir, name)).collect())
}

/// The files of a topic that hold what is durable: those before `written`, and that one. Where a file is there under
/// both names it is being closed.
pub(super) fn durable(dir: &Path, written: Option<u64>) -> Result<Vec<Part>, SinkError> {
    let mut parts: Vec<Part> = Vec::new();
    for part in all(dir)? {
        let counts = written.map_or(!part.open, |written| part.first <= written);
        if counts && parts.last().is_none_or(|last| last.first < part.first) {
            parts.push(part);
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_tells_position_and_identity_and_whether_it_is_written() {
        let dir = Path::new("/d");
        let id = RecordId { incarnation: 2, index: 7.try_into().unwrap() };
        let path = open_path(dir, 40, id);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(name, "00000000000000000040.2-7.avro.inprogress");
        let part = Part::of(dir, name).unwrap();
        assert_eq!((part.first, part.begins, part.open), (40, (2, 7), true));
        assert_eq!(part.closed(), dir.join("00000000000000000040.2-7.avro"));
        for other in ["topic.json", "4.1-1.avro", "00000000000000000040.avro", ".x.avro"] {
            assert_eq!(Part::of(dir, other), None, "{other}");
        }
    }
}
