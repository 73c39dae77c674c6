//! The start: older writers are fenced, then what they did not commit is cut off, then tails are read.
//!
//! A writer holds the lock of its file of State as long as it lives. Where the lock is free, the writer is dead, and its
//! files are taken over as they are. Where it is not, the writer lives, perhaps stopped, and cannot be waited for: an
//! empty file is put in the place of its file of State, by renaming. From then on whatever it still writes is for
//! nobody, and it looks whether its file is in place before it reports anything: all that it ever reported stood in the
//! old file before, and is read from there. The data file that it may still be writing to is copied for the same reason.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use clbridge_schemas::ids::MdtName;

use super::parts::{self, Part};
use super::publish::{Begin, FilesPublisher};
use super::read::whole;
use super::slots::{Slots, newest};
use super::stand::{End, ROOM, Stand};
use super::{Shared, disk};
use crate::error::SinkError;
use crate::topic::Topic;
use crate::traits::Recovered;

impl Shared {
    pub(super) fn recover(&self, mdt: &MdtName, topics: &[Topic]) -> Result<Recovered, SinkError> {
        // One start at a time; it is short, and a process that is killed lets go.
        let _starting = disk::lock(&self.config.state_dir().join(format!("{mdt}.start")))?;
        let lost = !self.state_file(mdt).exists() && !self.state_before(mdt).exists();
        self.make_state_file(mdt)?;
        let (mut slots, mut stand, alive) = self.fence(mdt)?;
        for topic in topics {
            let known = stand.end_of(&topic.name, &topic.id).cloned();
            let end = self.settle(topic, known, lost, alive)?;
            match end {
                Some(end) => stand.topics.insert(topic.name.clone(), end),
                None => stand.topics.remove(&topic.name),
            };
        }
        let path = self.state_file(mdt);
        slots.write(&stand.write()).map_err(|e| disk::sort("writing", &path, &e))?;
        let (mut tails, mut used) = (Vec::with_capacity(topics.len()), false);
        for topic in topics {
            let end = stand.end_of(&topic.name, &topic.id);
            used |= self.is_used(topic, end)?;
            tails.push(vec![self.tail(topic, end)?]);
        }
        let state = self.state_of(mdt, &stand)?;
        let begin = Begin { mdt: mdt.clone(), topics: topics.to_vec(), slots, stand };
        Ok(Recovered { publisher: Box::new(FilesPublisher::new(&self.config, begin)?), state, tails, used })
    }

    /// Takes the file of State from whoever has it; true if that one lives.
    fn fence(&self, mdt: &MdtName) -> Result<(Slots, Stand, bool), SinkError> {
        let (path, before) = (self.state_file(mdt), self.state_before(mdt));
        if let Some((slots, content)) = Slots::open(&path)? {
            // A start that was cut off behind its last step.
            remove(&before)?;
            let stand = self.understand(mdt, slots.number(), &content)?;
            return Ok((slots, stand, false));
        }
        let failed = |e: io::Error| disk::sort("fencing the writer of", &path, &e);
        let empty = |path: &Path| Ok(disk::read(path)?.and_then(|data| newest(&data, true)).is_none());
        // The file before is left by a start that was cut off, and counts as long as the one in place is empty.
        if !before.exists() || !empty(&path)? {
            remove(&before)?;
            fs::hard_link(&path, &before).map_err(failed)?;
            disk::sync_dir(&self.config.state_dir()).map_err(failed)?;
        }
        let mut slots = Slots::supplant(&path, ROOM)?;
        let found = disk::read(&before)?.and_then(|data| newest(&data, true));
        let (number, content) = found.ok_or_else(|| SinkError::Mismatch {
            what: before.display().to_string(),
            why: "holds nothing that was written by clbridge".to_owned(),
            hint: "see docs/brokers/files.md, \"When State is lost\"".to_owned(),
        })?;
        let stand = self.understand(mdt, number, &content)?;
        slots.follow(number);
        slots.write(&content).map_err(failed)?;
        remove(&before)?;
        disk::sync_dir(&self.config.state_dir()).map_err(failed)?;
        Ok((slots, stand, true))
    }

    /// Cuts off what was not committed, closes what was, and says where the topic ends.
    fn settle(&self, topic: &Topic, known: Option<End>, lost: bool, alive: bool) -> Result<Option<End>, SinkError> {
        let dir = self.config.topic_dir(&topic.name);
        let parts = parts::all(&dir)?;
        let mut found = known.clone();
        for part in &parts {
            let (counts, length) = match &known {
                Some(end) => (part.first <= end.file, if part.first == end.file { end.length } else { u64::MAX }),
                // Without State whole blocks are all that can be known.
                None => (lost || !part.open, u64::MAX),
            };
            if !counts && part.open {
                fs::remove_file(&part.path).map_err(|e| disk::sort("removing", &part.path, &e))?;
            } else if !counts {
                set_aside(part)?;
            } else {
                let (count, end) = close(part, length, alive)?;
                if known.as_ref().is_some_and(|known| known.file == part.first && end != known.length) {
                    return Err(SinkError::Mismatch {
                        what: part.path.display().to_string(),
                        why: format!("has {end} bytes in whole blocks, and {length} were durable"),
                        hint: format!("the disk lost them: `clbridge reset {}`", topic.mdt),
                    });
                }
                if known.is_none() && count > 0 {
                    found = Some(End { id: topic.id.clone(), file: part.first, length: end, end: part.first + count });
                }
            }
        }
        if let Some(known) = known.filter(|known| !parts.iter().any(|p| p.first == known.file)) {
            return Err(SinkError::Mismatch {
                what: format!("topic {}", topic.name),
                why: format!("its last file, which begins at position {}, was deleted", known.file),
                hint: format!("`clbridge reset {}` publishes what the MDT still has", topic.mdt),
            });
        }
        disk::sync_dir(&dir).map_err(|e| disk::sort("writing", &dir, &e))?;
        Ok(found)
    }
}

fn remove(path: &Path) -> Result<(), SinkError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(disk::sort("removing", path, &e)),
        _ => Ok(()),
    }
}

/// Cuts a file to whole blocks within `length` bytes and gives it its last name; records and bytes of what is left.
fn close(part: &Part, length: u64, alive: bool) -> Result<(u64, u64), SinkError> {
    let (count, end) = whole(part, length)?;
    if !part.open {
        return Ok((count, end));
    }
    let failed = |e: io::Error| disk::sort("closing", &part.path, &e);
    if !part.path.exists() && part.closed().exists() {
        // Its writer, which lives, has just done so.
        return Ok((count, end));
    }
    if count == 0 {
        fs::remove_file(&part.path).map_err(failed)?;
        return Ok((0, 0));
    }
    if alive {
        // Its writer may still append: what it writes from here on goes into a file without a name.
        let new = disk::beside(&part.path);
        let copy = || -> io::Result<()> {
            io::copy(&mut File::open(&part.path)?.take(end), &mut File::create_new(&new)?)?;
            File::open(&new)?.sync_all()?;
            fs::rename(&new, &part.path)
        };
        copy().inspect_err(|_| drop(fs::remove_file(&new))).map_err(failed)?;
    } else {
        let cut = || -> io::Result<()> {
            let file = File::options().write(true).open(&part.path)?;
            file.set_len(end)?;
            file.sync_all()
        };
        cut().map_err(failed)?;
    }
    match fs::rename(&part.path, part.closed()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && part.closed().exists() => Ok((count, end)),
        other => other.map(|()| (count, end)).map_err(failed),
    }
}

/// Takes a closed file that State knows nothing of out of the way, for somebody to look at.
fn set_aside(part: &Part) -> Result<(), SinkError> {
    let mut name = part.path.clone().into_os_string();
    name.push(".unknown");
    tracing::warn!(file = %part.path.display(), "a file that State does not know is set aside as *.unknown");
    fs::rename(&part.path, name).map_err(|e| disk::sort("setting aside", &part.path, &e))
}
