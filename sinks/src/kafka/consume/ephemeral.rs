//! A reader that belongs to no group: it sees what comes from now on and leaves nothing behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::super::config::KafkaConfig;
use super::super::context::Quiet;
use super::super::native::positions;
use super::super::{blocking, client_error, sort, sort_kafka};
use super::{consumed, passing, takes};
use crate::error::SinkError;
use crate::traits::{Batch, Consumer, Subscription};

/// A reader that belongs to no group.
pub(in crate::kafka) struct Ephemeral {
    inner: Arc<Mutex<EphemeralInner>>,
}

struct EphemeralInner {
    config: KafkaConfig,
    what: Subscription,
    consumer: BaseConsumer<Quiet>,
    assigned: BTreeMap<String, usize>,
    looked: Option<Instant>,
}

impl Ephemeral {
    pub(in crate::kafka) fn new(
        config: &KafkaConfig,
        what: &Subscription,
        uncommitted: bool,
    ) -> Result<Self, SinkError> {
        let mut c = config.reader(!uncommitted)?;
        // What lies before a partition's start is not for this reader, so it may begin wherever there is something.
        c.set("enable.partition.eof", "false").set("auto.offset.reset", "earliest");
        let mut inner = EphemeralInner {
            config: config.clone(),
            what: what.clone(),
            consumer: c.create_with_context(Quiet).map_err(|e| client_error(config, &e))?,
            assigned: BTreeMap::new(),
            looked: None,
        };
        inner.look()?;
        Ok(Self { inner: Arc::new(Mutex::new(inner)) })
    }
}

impl EphemeralInner {
    /// Takes what is there from its end on, and what has come since from its beginning.
    fn look(&mut self) -> Result<(), SinkError> {
        let what = "ephemeral reader";
        if self.looked.is_some_and(|l| l.elapsed() < Duration::from_secs(2)) {
            return Ok(());
        }
        let first = self.looked.replace(Instant::now()).is_none();
        let metadata = match self.consumer.fetch_metadata(None, self.config.request_timeout()) {
            Ok(m) => m,
            Err(e) if first => return Err(sort_kafka(what, e)),
            // The client goes on trying by itself; new topics are noticed afterwards.
            Err(_) => return Ok(()),
        };
        let mut places = Vec::new();
        for topic in metadata.topics().iter().filter(|t| takes(&self.what, &self.config, t.name())) {
            let known = self.assigned.entry(topic.name().to_owned()).or_default();
            for p in *known..topic.partitions().len() {
                let from = if first {
                    let end = self
                        .consumer
                        .fetch_watermarks(topic.name(), p as i32, self.config.request_timeout())
                        .map_err(|e| sort_kafka(what, e))?
                        .1;
                    u64::try_from(end).unwrap_or(0)
                } else {
                    0
                };
                places.push(((topic.name().to_owned(), p as u32), from));
            }
            *known = topic.partitions().len().max(*known);
        }
        if !places.is_empty() {
            let list = positions(&places).map_err(|e| sort(what, &e))?;
            self.consumer.incremental_assign(&list).map_err(|e| sort_kafka(what, e))?;
        }
        Ok(())
    }

    fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let mut batch = Batch::default();
        let until = Instant::now() + wait;
        while batch.records.len() < max {
            self.look()?;
            let left =
                if batch.records.is_empty() { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match self.consumer.poll(left.min(Duration::from_millis(500))) {
                Some(Ok(m)) => batch.records.push(consumed(&m)?),
                Some(Err(e)) => passing("ephemeral reader", e)?,
                None if !batch.records.is_empty() || left.is_zero() => break,
                None => {}
            }
        }
        Ok(batch)
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
