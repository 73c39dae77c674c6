//! A member of a group. It takes a topic by locking the group's position there, and lets go of what is more than its
//! share as soon as another member lives. It writes only positions that `done` was called for, and never moves one back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::super::progress::Place;
use super::super::read::Cursor;
use super::super::slots::Slots;
use super::super::{Shared, blocking, disk};
use super::{MEMBER, POLL, consumed, due, members, topics};
use crate::error::SinkError;
use crate::topic::Topic;
use crate::traits::{Batch, Consumer, Subscription};

/// How long a member waits for a first position that nobody has written yet: a new MDT's topic is there a moment before.
const FIRST_POSITION_GRACE: Duration = Duration::from_secs(15);

/// A member of a group.
pub(in crate::files) struct Member {
    inner: Arc<Mutex<Inner>>,
}

/// A topic that this member has.
struct Held {
    topic: Topic,
    slots: Slots,
    cursor: Cursor,
    committed: u64,
}

struct Inner {
    shared: Arc<Shared>,
    group: String,
    what: Subscription,
    /// Its own file, locked.
    own: Option<(PathBuf, File)>,
    looked: Option<Instant>,
    held: BTreeMap<String, Held>,
    /// Topics in which the group has no position, and since when.
    missing: BTreeMap<String, Instant>,
}

impl Member {
    pub(in crate::files) fn new(shared: Arc<Shared>, group: &str, what: &Subscription) -> Self {
        let inner = Inner {
            shared,
            group: group.to_owned(),
            what: what.clone(),
            own: None,
            looked: None,
            held: BTreeMap::new(),
            missing: BTreeMap::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.own {
            drop(std::fs::remove_file(path));
        }
    }
}

impl Inner {
    /// What a member takes, so that those of the same share it.
    fn label(&self) -> Vec<u8> {
        format!("{:?}\n", self.what).into_bytes()
    }

    /// Makes this member known to the others.
    fn announce(&mut self) -> Result<(), SinkError> {
        if self.own.is_some() {
            return Ok(());
        }
        let dir = self.shared.group_dir(&self.group);
        disk::make_dir(&dir)?;
        let new = disk::beside(&dir.join("x"));
        let name = new.file_name().unwrap_or_default().to_string_lossy();
        let path = dir.join(format!("{}{MEMBER}", name.trim_matches('.').trim_end_matches(".new")));
        let made = || -> io::Result<File> {
            let mut file = File::create(&new)?;
            file.try_lock().map_err(io::Error::other)?;
            file.write_all(&self.label())?;
            std::fs::rename(&new, &path)?;
            Ok(file)
        };
        let file = made().map_err(|e| disk::sort("making", &path, &e))?;
        self.own = Some((path, file));
        Ok(())
    }

    fn look(&mut self) -> Result<(), SinkError> {
        if !due(&mut self.looked) {
            return Ok(());
        }
        self.announce()?;
        let topics = topics(&self.shared, &self.what, Some(&self.group))?;
        self.held.retain(|_, held| topics.iter().any(|t| t.name == held.topic.name && t.id == held.topic.id));
        let live = members(&self.shared.group_dir(&self.group), Some(&self.label()))?.max(1);
        let share = topics.len().div_ceil(live);
        while self.held.len() > share {
            // What was taken and not done of it comes again, to whoever takes it.
            self.held.pop_last();
        }
        for topic in topics {
            if self.held.contains_key(&topic.name) {
                continue;
            }
            let Some(at) = self.shared.position(&self.group, &topic)? else {
                self.missing.entry(topic.name).or_insert_with(Instant::now);
                continue;
            };
            self.missing.remove(&topic.name);
            self.check(&topic, at)?;
            if self.held.len() < share {
                self.hold(topic)?;
            }
        }
        let late: Vec<&str> = self
            .missing
            .iter()
            .filter(|(_, since)| since.elapsed() > FIRST_POSITION_GRACE)
            .map(|(topic, _)| topic.as_str())
            .collect();
        if late.is_empty() {
            return Ok(());
        }
        Err(SinkError::Mismatch {
            what: format!("group {}", self.group),
            why: format!("has no position in {}", late.join(", ")),
            hint: format!(
                "register it by `clbridge groups add {0}`; if it was registered, its position was lost: `clbridge groups repair {0}` or `clbridge groups accept {0}`",
                self.group
            ),
        })
    }

    /// Refuses to go on where records are missing.
    fn check(&self, topic: &Topic, at: u64) -> Result<(), SinkError> {
        let end = self.shared.end_of(topic)?;
        let (low, end) = (self.shared.low(topic, end.as_ref())?, self.shared.end(topic, end.as_ref())?);
        if (low..=end).contains(&at) {
            return Ok(());
        }
        Err(SinkError::Mismatch {
            what: format!("group {}", self.group),
            why: format!("its position {at} in {} is outside of {low}..{end}", topic.name),
            hint: format!(
                "`clbridge groups repair {0}` brings back what the MDT still has, `clbridge groups accept {0}` goes on without",
                self.group
            ),
        })
    }

    /// Takes a topic unless another member has it.
    fn hold(&mut self, topic: Topic) -> Result<(), SinkError> {
        let path = self.shared.position_file(&self.group, &topic.name);
        let Some((slots, content)) = Slots::open(&path)? else { return Ok(()) };
        let Some(place) = Place::read(&content).filter(|place| place.topic_id == topic.id) else { return Ok(()) };
        let cursor = Cursor::new(&self.shared.config.topic_dir(&topic.name), place.position);
        self.held.insert(topic.name.clone(), Held { topic, slots, cursor, committed: place.position });
        Ok(())
    }

    fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let (mut batch, until) = (Batch::default(), Instant::now() + wait);
        loop {
            self.look()?;
            for held in self.held.values_mut() {
                let limit = self.shared.limit(&held.topic)?;
                while batch.records.len() < max {
                    let expected = held.cursor.position();
                    let Some(record) = held.cursor.next(&limit)? else { break };
                    if record.position != expected {
                        return Err(SinkError::Mismatch {
                            what: format!("group {}", self.group),
                            why: format!(
                                "records of {} from {expected} to {} were deleted before it had them",
                                held.topic.name, record.position
                            ),
                            hint: format!(
                                "`clbridge groups repair {0}` brings back what the MDT still has, `clbridge groups accept {0}` goes on without",
                                self.group
                            ),
                        });
                    }
                    batch.records.push(consumed(&held.topic.name, record));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if !batch.records.is_empty() || left.is_zero() || max == 0 {
                return Ok(batch);
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    fn done(&mut self, ends: &BTreeMap<String, u64>) -> Result<(), SinkError> {
        for (topic, end) in ends {
            let Some(held) = self.held.get_mut(topic) else {
                tracing::info!(
                    group = self.group,
                    topic,
                    "not acknowledged, since another member has the topic now: these records come again"
                );
                continue;
            };
            // Behind what was handed out since the topic is held, a position is none of this member's.
            if *end <= held.committed || *end > held.cursor.position() {
                continue;
            }
            let place = Place { topic_id: held.topic.id.clone(), position: *end };
            let path = self.shared.position_file(&self.group, topic);
            held.slots.write(&place.write()).map_err(|e| disk::sort("committing", &path, &e))?;
            held.committed = *end;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.lock().unwrap_or_else(PoisonError::into_inner).next(max, wait)).await
    }

    async fn done(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for record in &batch.records {
            let end = ends.entry(record.topic.clone()).or_default();
            *end = (*end).max(record.at.offset + 1);
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.lock().unwrap_or_else(PoisonError::into_inner).done(&ends)).await
    }
}
