//! AMQP 0.9.1 (RabbitMQ).
//!
//! Each group has a durable quorum queue for each MDT, bound to a topic exchange; its members answer each record, and
//! what they have answered is folded into State, which lies in a queue of one message that is the lease too. What the
//! broker was seen to do, and why things are done as they are, is in `docs/brokers/amqp.md`.
//! This module never knows another broker, and builds nothing on depths and counters of queues, which prove nothing.

mod answers;
mod cell;
mod config;
mod consume;
mod erase;
mod label;
mod lease;
mod life;
mod link;
mod progress;
mod publish;
mod recover;
mod registry;
mod standing;
mod topology;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use clbridge_schemas::ids::{MdtName, RecordId};
use lapin::{BasicProperties, Connection};

pub use config::AmqpConfig;

use crate::error::SinkError;
use crate::state::State;
use crate::topic::{Position, Stored, Topic, TopicSpec};
use crate::traits::{Broker, Capabilities, Consumer, Positions, Recovered, Sink, Subscription};
use life::Life;

/// A RabbitMQ server or cluster: sink, observer of groups, and maker of consumers. Cheap to clone.
#[derive(Clone)]
pub struct AmqpSink {
    shared: Arc<Shared>,
}

/// What all uses of the broker share.
struct Shared {
    config: AmqpConfig,
    /// The connection of short requests.
    desk: tokio::sync::Mutex<Option<Connection>>,
    /// Two of this process do not put a first message into a cell at the same time.
    making: tokio::sync::Mutex<()>,
    /// The MDTs that this process publishes.
    lives: std::sync::Mutex<BTreeMap<MdtName, Weak<Life>>>,
    /// Groups that stand still.
    standing: std::sync::Mutex<standing::Standing>,
}

impl AmqpSink {
    /// A sink for the broker that `config` names. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] for a setting that is not possible, named.
    pub fn new(config: AmqpConfig) -> Result<Self, SinkError> {
        config.check()?;
        let shared = Shared {
            config,
            desk: Default::default(),
            making: Default::default(),
            lives: Default::default(),
            standing: Default::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The settings that it was made with.
    #[must_use]
    pub fn config(&self) -> &AmqpConfig {
        &self.shared.config
    }

    /// How many answers did not count so far, of an MDT that this process publishes: those of groups without a queue,
    /// those of records that were never published, those of records that an MDT crash took back.
    #[must_use]
    pub fn ignored_answers(&self, mdt: &MdtName) -> [u64; 3] {
        let life = life::lock(&self.shared.lives).get(mdt).and_then(Weak::upgrade);
        life.map_or([0; 3], |life| life.ignored())
    }
}

impl Broker for AmqpSink {
    fn consumer(&self, group: &str, what: &Subscription) -> Result<Box<dyn Consumer>, SinkError> {
        Ok(Box::new(consume::Member::new(&self.shared.config, group, what)?))
    }

    fn ephemeral(&self, what: &Subscription, _uncommitted: bool) -> Result<Box<dyn Consumer>, SinkError> {
        Ok(Box::new(consume::Ephemeral::new(&self.shared.config, what)?))
    }
}

#[async_trait]
impl Sink for AmqpSink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_state: false,
            read_back: false,
            exactly_once: false,
            partitioned: false,
            positions: Positions::Identity,
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

    async fn read_at(&self, _topic: &Topic, at: &[Position]) -> Result<Vec<Option<Stored>>, SinkError> {
        Ok(at.iter().map(|at| Stored::by_identity(*at)).collect())
    }

    async fn read_back(
        &self,
        _topic: &Topic,
        _incarnation: u32,
        _above: u64,
        _each: &mut (dyn FnMut(Stored) + Send),
    ) -> Result<(), SinkError> {
        // Nothing can be read back: queues give what they hold to their groups only.
        Ok(())
    }

    async fn trim(&self, topic: &Topic, _below: &[u64], _keep: Duration) -> Result<Vec<u64>, SinkError> {
        // A queue forgets by itself what its group has acknowledged.
        Ok(vec![0; topic.partitions as usize])
    }

    async fn publish_schema(&self, fingerprint: [u8; 8], json: &str) -> Result<(), SinkError> {
        self.shared.publish_schema(fingerprint, json).await
    }

    async fn repair(
        &self,
        topic: &Topic,
        group: &str,
        _records: &[(RecordId, Vec<u8>, Vec<u8>)],
    ) -> Result<(Topic, Vec<u64>), SinkError> {
        Err(SinkError::Mismatch {
            what: format!("repair of group {group} in {}", topic.name),
            why: "nothing is ever evicted from a queue".to_owned(),
            hint: format!("`clbridge groups accept {group}` goes on without what its queue no longer has"),
        })
    }
}

impl Shared {
    async fn publish_schema(&self, fingerprint: [u8; 8], json: &str) -> Result<(), SinkError> {
        let queue = self.config.schema_queue(fingerprint);
        let mut arguments = self.quorum_arguments();
        arguments
            .insert("x-max-length".into(), lapin::types::AMQPValue::LongInt(1))
            .insert("x-overflow".into(), lapin::types::AMQPValue::LongString("drop-head".into()));
        self.make_queue(&queue, arguments).await?;
        let channel = self.confirming_channel().await?;
        let properties = BasicProperties::default()
            .with_delivery_mode(link::PERSISTENT)
            .with_content_type("application/json".into());
        let there = self.publish_one(&channel, ("", &queue), json.as_bytes(), properties).await?;
        link::close(&channel).await;
        if there {
            return Ok(());
        }
        Err(SinkError::Unavailable { what: format!("writing queue {queue}"), why: "it was deleted".to_owned() })
    }
}
