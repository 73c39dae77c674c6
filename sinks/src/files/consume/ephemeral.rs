//! A reader that belongs to no group: it sees what comes from its first `next` on, and writes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::super::read::Cursor;
use super::super::{Shared, blocking};
use super::{POLL, consumed, due, topics};
use crate::error::SinkError;
use crate::topic::Topic;
use crate::traits::{Batch, Consumer, Subscription};

/// A reader that belongs to no group.
pub(in crate::files) struct Ephemeral {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    shared: Arc<Shared>,
    what: Subscription,
    looked: Option<Instant>,
    /// Whether it has looked before: topics that come later are read from their beginning.
    stands: bool,
    reading: BTreeMap<String, (Topic, Cursor)>,
}

impl Ephemeral {
    pub(in crate::files) fn new(shared: Arc<Shared>, what: &Subscription) -> Self {
        let inner = Inner { shared, what: what.clone(), looked: None, stands: false, reading: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }
}

impl Inner {
    fn look(&mut self) -> Result<(), SinkError> {
        if !due(&mut self.looked) {
            return Ok(());
        }
        for topic in topics(&self.shared, &self.what, None)? {
            if self.reading.get(&topic.name).is_some_and(|(known, _)| known.id == topic.id) {
                continue;
            }
            let from = match self.stands {
                true => 0,
                false => self.shared.end(&topic, self.shared.end_of(&topic)?.as_ref())?,
            };
            let cursor = Cursor::new(&self.shared.config.topic_dir(&topic.name), from);
            self.reading.insert(topic.name.clone(), (topic, cursor));
        }
        self.stands = true;
        Ok(())
    }

    fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let (mut batch, until) = (Batch::default(), Instant::now() + wait);
        loop {
            self.look()?;
            for (topic, cursor) in self.reading.values_mut() {
                let limit = self.shared.limit(topic)?;
                while batch.records.len() < max
                    && let Some(record) = cursor.next(&limit)?
                {
                    batch.records.push(consumed(&topic.name, record));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if !batch.records.is_empty() || left.is_zero() || max == 0 {
                return Ok(batch);
            }
            std::thread::sleep(left.min(POLL));
        }
    }
}

#[async_trait]
impl Consumer for Ephemeral {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.lock().unwrap_or_else(PoisonError::into_inner).next(max, wait)).await
    }

    async fn done(&mut self, _: &Batch) -> Result<(), SinkError> {
        Ok(())
    }
}
