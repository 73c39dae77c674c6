//! NATS JetStream.
//!
//! An MDT's feed is one stream, a totally ordered log: each message names the sequence and the message that it expects
//! to be the last, which is the fence and keeps the pipeline whole in one. State is a value in a bucket that is written
//! by revision. A group is a durable pull consumer; its ack floor is believed only while nothing can have moved it but
//! acknowledgements. What the servers were seen to do, and why things are done as they are, is in
//! `docs/brokers/nats.md`. This module never knows another broker.

mod advisories;
mod ask;
mod config;
mod consume;
mod erase;
mod floor;
mod groups;
mod link;
mod names;
mod progress;
mod publish;
mod read;
mod recover;
mod registry;
mod topology;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use clbridge_schemas::ids::{MdtName, RecordId};

pub use config::NatsConfig;

use crate::error::SinkError;
use crate::state::State;
use crate::topic::{Position, Stored, Topic, TopicSpec};
use crate::traits::{Broker, Capabilities, Consumer, Positions, Recovered, Sink, Subscription};
use link::Link;

/// NATS servers: sink, observer of groups, and maker of consumers. Cheap to clone. It connects at the first use.
#[derive(Clone)]
pub struct NatsSink {
    shared: Arc<Shared>,
}

/// What all uses of the servers share.
struct Shared {
    config: NatsConfig,
    link: tokio::sync::Mutex<Option<Link>>,
    /// What was seen of streams and groups so far.
    seen: Mutex<progress::Memory>,
}

impl Shared {
    /// The connection for everything but records.
    async fn link(&self) -> Result<Link, SinkError> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref() {
            return Ok(link.clone());
        }
        let made = Link::open(&self.config, "control").await?;
        *link = Some(made.clone());
        Ok(made)
    }
}

impl NatsSink {
    /// A sink for the servers that `config` names. Nothing is asked of them yet.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] for a setting that is not possible, named.
    pub fn new(config: NatsConfig) -> Result<Self, SinkError> {
        config.check()?;
        let (link, seen) = (tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { config, link, seen }) })
    }

    /// The settings that it was made with.
    #[must_use]
    pub fn config(&self) -> &NatsConfig {
        &self.shared.config
    }
}

impl Broker for NatsSink {
    fn consumer(&self, group: &str, what: &Subscription) -> Result<Box<dyn Consumer>, SinkError> {
        Ok(Box::new(consume::Member::new(&self.shared.config, group, what)?))
    }

    /// JetStream takes nothing back, so there is nothing uncommitted.
    fn ephemeral(&self, what: &Subscription, _uncommitted: bool) -> Result<Box<dyn Consumer>, SinkError> {
        Ok(Box::new(consume::Ephemeral::new(&self.shared.config, what)))
    }
}

#[async_trait]
impl Sink for NatsSink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_state: false,
            read_back: true,
            exactly_once: true,
            partitioned: true,
            positions: Positions::Sequence,
        }
    }

    async fn prepare(&self, want: &[TopicSpec], pinned: Option<&State>) -> Result<Vec<Topic>, SinkError> {
        self.shared.prepare(want, pinned).await
    }

    async fn peek_state(&self, mdt: &MdtName) -> Result<Option<State>, SinkError> {
        self.shared.peek_state(mdt).await
    }

    async fn recover(&self, mdt: &MdtName, topics: &[Topic]) -> Result<Recovered, SinkError> {
        self.shared.recover(mdt, topics).await
    }

    async fn read_at(&self, topic: &Topic, at: &[Position]) -> Result<Vec<Option<Stored>>, SinkError> {
        self.shared.read_at(topic, at).await
    }

    async fn read_back(
        &self,
        topic: &Topic,
        incarnation: u32,
        above: u64,
        each: &mut (dyn FnMut(Stored) + Send),
    ) -> Result<(), SinkError> {
        self.shared.read_back(topic, incarnation, above, each).await
    }

    async fn trim(&self, topic: &Topic, below: &[u64], keep: Duration) -> Result<Vec<u64>, SinkError> {
        self.shared.trim(topic, below, keep).await
    }

    async fn publish_schema(&self, fingerprint: [u8; 8], json: &str) -> Result<(), SinkError> {
        let link = self.shared.link().await?;
        let bucket = self.shared.config.schema_bucket();
        self.shared.make_bucket(&link, &bucket).await?;
        let key: String = fingerprint.iter().map(|b| format!("{b:02x}")).collect();
        if link.value(&bucket, &key).await?.0.is_some_and(|there| there == json.as_bytes()) {
            return Ok(());
        }
        link.put(&bucket, &key, json.as_bytes().to_vec(), None).await.map(|_| ())
    }

    async fn repair(
        &self,
        topic: &Topic,
        group: &str,
        records: &[(RecordId, Vec<u8>, Vec<u8>)],
    ) -> Result<(Topic, Vec<u64>), SinkError> {
        self.shared.repair(topic, group, records).await
    }
}
