//! Topics: folders, made as they must be, or checked and refused; and what is removed of them.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clbridge_schemas::ids::RecordId;
use serde::{Deserialize, Serialize};

use super::config::check_group;
use super::publish::container_of;
use super::read::Limit;
use super::{Shared, disk, parts};
use crate::error::SinkError;
use crate::registry::StartAt;
use crate::state::State;
use crate::topic::{Topic, TopicIx, TopicSpec};

/// The file in a topic's folder that says whose it is.
const LABEL: &str = "topic.json";

#[derive(Serialize, Deserialize)]
struct Label {
    /// The identity of the folder's life.
    id: String,
}

impl Shared {
    pub(super) fn prepare(&self, want: &[TopicSpec], pinned: Option<&State>) -> Result<Vec<Topic>, SinkError> {
        let mut topics = Vec::with_capacity(want.len());
        for (i, spec) in want.iter().enumerate() {
            let name = self.config.topic_name(&spec.mdt, spec.feed.as_deref());
            let pin = pinned.and_then(|s| s.topics.get(spec.feed.as_deref().unwrap_or_default()));
            let mdt = &spec.mdt;
            let mismatch = |why: String, hint: String| {
                Err(SinkError::Mismatch { what: format!("topic {name} in {}", self.config.dir.display()), why, hint })
            };
            if let Some(pin) = pin.filter(|pin| pin.name != name) {
                let hint = format!("set files.prefix back, or `clbridge reset {mdt}`");
                return mismatch(format!("its name was {} and is {name}", pin.name), hint);
            }
            let (id, created) = match (self.topic_id(&name)?, pin) {
                (Some(id), _) => (id, false),
                (None, Some(_)) => {
                    let hint = format!("`clbridge reset {mdt}` publishes what the MDT still has into a new one");
                    return mismatch("was deleted".to_owned(), hint);
                }
                (None, None) => (self.make_topic(&name)?, true),
            };
            if let Some(pin) = pin.filter(|pin| pin.id != id) {
                let hint = format!("it was deleted and created again: `clbridge reset {mdt}`");
                return mismatch(format!("its id was {} and is {id}", pin.id), hint);
            }
            topics.push(Topic {
                ix: TopicIx(i as u16),
                name,
                feed: spec.feed.clone(),
                mdt: mdt.clone(),
                id,
                partitions: 1,
                created,
                replicas: 1,
            });
        }
        for spec in want {
            self.make_state_file(&spec.mdt)?;
        }
        disk::make_dir(&self.config.groups_dir())?;
        Ok(topics)
    }

    /// The identity of a topic's life; `None` if there is no such topic.
    pub(super) fn topic_id(&self, name: &str) -> Result<Option<String>, SinkError> {
        let path = self.config.topic_dir(name).join(LABEL);
        let Some(bytes) = disk::read(&path)? else { return Ok(None) };
        let label: Label = serde_json::from_slice(&bytes).map_err(|e| SinkError::Mismatch {
            what: path.display().to_string(),
            why: format!("cannot be understood: {e}"),
            hint: "restore it, or remove the whole folder and `clbridge reset` its MDT".to_owned(),
        })?;
        Ok(Some(label.id))
    }

    /// Makes a topic's folder; its label is its last part, so that a folder without one is none.
    fn make_topic(&self, name: &str) -> Result<String, SinkError> {
        let dir = self.config.topic_dir(name);
        disk::make_dir(&dir)?;
        let path = dir.join(LABEL);
        let mut random = [0; 8];
        let drawn = fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut random));
        drawn.map_err(|e| disk::sort("reading", Path::new("/dev/urandom"), &e))?;
        let id = format!("{:016x}", u64::from_le_bytes(random));
        let label = serde_json::to_vec(&Label { id: id.clone() });
        let label = label.map_err(|e| disk::sort("writing", &path, &e.into()))?;
        disk::replace(&path, &label)?;
        Ok(id)
    }

    /// Every topic that there is, by name.
    pub(super) fn topics(&self) -> Result<Vec<Topic>, SinkError> {
        let mut topics = Vec::new();
        for name in disk::names(&self.config.dir)? {
            let Some((mdt, feed, _)) = self.config.parse_topic(&name) else { continue };
            let Some(id) = self.topic_id(&name)? else { continue };
            topics.push(Topic { ix: TopicIx(0), name, feed, mdt, id, partitions: 1, created: false, replicas: 1 });
        }
        Ok(topics)
    }

    /// Removes whole files below a position that were last written longer than `keep` ago, never the last one.
    pub(super) fn trim(&self, topic: &Topic, below: u64, keep: Duration) -> Result<u64, SinkError> {
        let end = self.end_of(topic)?;
        let dir = self.config.topic_dir(&topic.name);
        let parts = parts::durable(&dir, end.as_ref().map(|end| end.file))?;
        let mut removed = 0;
        for pair in parts.windows(2) {
            let [part, next] = pair else { break };
            if next.first > below || part.open || !is_older(&part.path, keep)? {
                break;
            }
            match fs::remove_file(&part.path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(disk::sort("removing", &part.path, &e));
                }
                _ => removed += 1,
            }
        }
        if removed > 0 {
            disk::sync_dir(&dir).map_err(|e| disk::sort("trimming", &dir, &e))?;
            tracing::debug!(topic = topic.name, removed, "trimmed");
        }
        Ok(parts.get(removed).map_or(end.map_or(0, |end| end.end), |part| part.first))
    }

    /// The group's own topic of repairs: each is one closed file, there as a whole or not at all.
    pub(super) fn repair(
        &self,
        topic: &Topic,
        group: &str,
        records: &[(RecordId, Vec<u8>, Vec<u8>)],
    ) -> Result<(Topic, Vec<u64>), SinkError> {
        check_group(group)?;
        let name = format!("{}.repair.{group}", topic.name);
        let dir = self.config.topic_dir(&name);
        disk::make_dir(&dir)?;
        let _lock = disk::lock(&dir.join(".lock"))?;
        let (id, created) = match self.topic_id(&name)? {
            Some(id) => (id, false),
            None => (self.make_topic(&name)?, true),
        };
        let repair = Topic { name, id, created, partitions: 1, ..topic.clone() };
        self.register(group, &repair, StartAt::Oldest)?;
        let mut end = self.end(&repair, None)?;
        for part in container_of(&self.config, records)? {
            let path = parts::closed_path(&parts::open_path(&dir, end, part.first));
            disk::replace(&path, &part.bytes)?;
            end += part.count;
        }
        Ok((repair, vec![end]))
    }

    /// Whether anything of a topic can be read.
    pub(super) fn is_used(&self, topic: &Topic, end: Option<&super::stand::End>) -> Result<bool, SinkError> {
        Ok(self.end(topic, end)? > 0 || self.low(topic, end)? > 0)
    }

    /// How far a topic may be read now.
    pub(super) fn limit(&self, topic: &Topic) -> Result<Limit, SinkError> {
        Ok(Limit::of(self.end_of(topic)?.as_ref()))
    }
}

fn is_older(path: &Path, keep: Duration) -> Result<bool, SinkError> {
    if keep.is_zero() {
        return Ok(true);
    }
    let written = fs::metadata(path).and_then(|m| m.modified());
    let written = written.map_err(|e| disk::sort("looking at", path, &e))?;
    Ok(SystemTime::now().duration_since(written).is_ok_and(|age| age > keep))
}
