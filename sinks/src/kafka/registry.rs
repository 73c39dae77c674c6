//! The registry of groups in its compacted topic. A change takes a fence of its own, so two changes at once are made
//! one after the other and neither is lost.

use std::time::{Duration, Instant};

use super::native::{Arena, Producer, Where};
use super::{KafkaSink, Shared, sort, sort_kafka};
use crate::error::SinkError;
use crate::registry::Registry;

/// Key of the registry's only record.
const KEY: &[u8] = b"registry";
/// How often a change is tried while others change it too.
const ATTEMPTS: u32 = 40;

impl Shared {
    pub(super) fn registry(&self) -> Result<Registry, SinkError> {
        match self.describe(&self.config.registry_topic)? {
            Some(_) => self.read_registry(self.visible_end(&self.config.registry_topic)?),
            None => Ok(Registry::default()),
        }
    }

    fn read_registry(&self, end: u64) -> Result<Registry, SinkError> {
        let topic = &self.config.registry_topic;
        let lows = self.offsets(topic, 1, Where::Low)?;
        let found = self.last_records(topic, &lows, &[end], &mut |raw| {
            serde_json::from_slice::<Registry>(raw.payload).map_err(|e| SinkError::Mismatch {
                what: format!("registry of groups in {topic} at offset {}", raw.at.offset),
                why: format!("cannot be understood: {e}"),
                hint: "run the version of clbridge that wrote it".to_owned(),
            })
        })?;
        Ok(found.into_iter().next().flatten().unwrap_or_default())
    }

    /// Takes the fence and reads: what is written next with this producer follows on it.
    pub(super) fn open_registry(&self) -> Result<(Producer, Registry), SinkError> {
        let topic = &self.config.registry_topic;
        self.make_compacted(topic)?;
        let config = self.config.producer(Some(topic))?;
        let producer = Producer::new(&config, std::slice::from_ref(topic)).map_err(|e| sort(self.changing(), &e))?;
        producer.init_transactions(self.config.request_timeout_ms).map_err(|e| sort(self.changing(), &e))?;
        let end = self.settled(topic, 1)?[0];
        let registry = self.read_registry(end)?;
        Ok((producer, registry))
    }

    /// Writes the registry; false if another writer took the fence in between.
    pub(super) fn write_registry(&self, producer: &Producer, registry: &Registry) -> Result<bool, SinkError> {
        let bytes = serde_json::to_vec(registry).map_err(|e| SinkError::Mismatch {
            what: self.changing(),
            why: e.to_string(),
            hint: "correct the group's settings".to_owned(),
        })?;
        let mut arena = Arena::default();
        arena.push(0, Some(KEY), &bytes);
        let written = producer
            .begin()
            .and_then(|()| producer.produce(0, 0, &mut arena))
            .map_err(|e| sort(self.changing(), &e))
            .and_then(|()| producer.finish(self.config.request_timeout_ms, &|| self.changing()));
        match written {
            Ok(()) => Ok(true),
            Err(SinkError::Fenced { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn changing(&self) -> String {
        format!("changing the registry of groups in {}", self.config.registry_topic)
    }
}

impl KafkaSink {
    pub(super) async fn change_registry_until_written(
        &self,
        change: &mut (dyn for<'r> FnMut(&'r mut Registry) + Send),
    ) -> Result<Registry, SinkError> {
        let until = Instant::now() + Duration::from_millis(self.shared.config.request_timeout_ms.into());
        for attempt in 0..ATTEMPTS {
            let (producer, mut registry) = match self.blocking(Shared::open_registry).await {
                Ok(opened) => opened,
                // Another writer took the fence while it was being taken.
                Err(SinkError::Fenced { .. }) => continue,
                Err(e) => return Err(e),
            };
            change(&mut registry);
            registry.version += 1;
            let candidate = registry.clone();
            match self.blocking(move |s| s.write_registry(&producer, &candidate)).await {
                Ok(true) => return Ok(registry),
                Ok(false) => {}
                // Nobody knows whether it was written: a coordinator that is fencing this writer may answer its commit with
                // an unknown error. The next fence settles it, and a change that is made twice says the same.
                Err(SinkError::Unavailable { .. }) if Instant::now() < until => {}
                Err(e) => return Err(e),
            }
            // Two writers must not fence each other in step for ever.
            let spread = u64::from(std::process::id().wrapping_mul(attempt + 1) % 50);
            tokio::time::sleep(Duration::from_millis(5 + spread)).await;
        }
        Err(SinkError::Unavailable {
            what: self.shared.changing(),
            why: format!("other writers came first {ATTEMPTS} times"),
        })
    }
}

impl Producer {
    /// Waits for the one message of a transaction, then commits.
    pub(super) fn finish(&self, wait_ms: u32, what: &dyn Fn() -> String) -> Result<(), SinkError> {
        let mut left = 1;
        while left > 0 {
            let mut error = None;
            let served = self.serve(10, &mut |r| error = r.error);
            left -= served.map_err(|e| sort(what(), &e))?.min(left);
            if let Some(code) = error {
                return Err(match self.fatal() {
                    Some(e) => sort(what(), &e),
                    None => sort_kafka(what(), rdkafka::error::KafkaError::MessageProduction(code)),
                });
            }
            if left > 0 {
                self.hurry();
            }
        }
        self.commit(wait_ms).map_err(|e| sort(what(), &self.fatal().unwrap_or(e)))
    }
}
