//! Exchanges and queues: made as they must be, or checked and refused.

use std::time::{SystemTime, UNIX_EPOCH};

use clbridge_schemas::ids::MdtName;
use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::Shared;
use super::config::AmqpConfig;
use super::link::{close, not_found, short, sort};
use super::registry::{Entry, Member};
use crate::error::SinkError;
use crate::state::State;
use crate::topic::{Topic, TopicIx, TopicSpec};

/// The second word of a retraction's routing key: its queues get it whatever they are bound for.
pub(super) const RETRACTION: &str = "RETRACTION";
/// The second word of the routing key of a message with several records.
pub(super) const PACKED: &str = "PACKED";
/// The header with a record's key, by which shards are chosen.
pub(super) const KEY_HEADER: &str = "clb-key";

impl AmqpConfig {
    /// The exchange of a feed's records.
    pub(super) fn exchange(&self, feed: Option<&str>) -> String {
        feed.map_or_else(|| self.prefix.clone(), |feed| format!("{}.{feed}", self.prefix))
    }

    /// The name of an MDT's topic in a feed.
    pub(super) fn topic_name(&self, mdt: &MdtName, feed: Option<&str>) -> String {
        feed.map_or_else(|| format!("{}.{mdt}", self.prefix), |feed| format!("{}.{mdt}.{feed}", self.prefix))
    }

    pub(super) fn registry_queue(&self) -> String {
        format!("{}.groups", self.own_prefix)
    }

    pub(super) fn directory_queue(&self) -> String {
        format!("{}.topics", self.own_prefix)
    }

    /// State as its holder has it: the lease.
    pub(super) fn state_queue(&self, mdt: &MdtName) -> String {
        format!("{}.state.{mdt}", self.own_prefix)
    }

    /// A copy of State for those that only look.
    pub(super) fn view_queue(&self, mdt: &MdtName) -> String {
        format!("{}.view.{mdt}", self.own_prefix)
    }

    pub(super) fn answer_queue(&self, mdt: &MdtName) -> String {
        format!("{}.answers.{mdt}", self.own_prefix)
    }

    /// The exchange that consumers publish their answers to.
    pub(super) fn answer_exchange(&self) -> String {
        format!("{}.answers", self.own_prefix)
    }

    /// Key of State in the bridge's own exchange.
    pub(super) fn state_key(mdt: &MdtName) -> String {
        format!("state.{mdt}")
    }

    /// Key of what is said to whoever publishes an MDT.
    pub(super) fn control_key(mdt: &MdtName) -> String {
        format!("control.{mdt}")
    }

    pub(super) fn schema_queue(&self, fingerprint: [u8; 8]) -> String {
        let text: String = fingerprint.iter().map(|b| format!("{b:02x}")).collect();
        format!("{}.schema.{text}", self.own_prefix)
    }
}

/// The queue of a group, or what the names of its shards begin with.
pub(super) fn group_queue(topic: &str, group: &str) -> String {
    format!("{topic}:{group}")
}

/// The queues of a group.
pub(super) fn group_queues(topic: &str, group: &str, shards: u32) -> Vec<String> {
    let queue = group_queue(topic, group);
    if shards == 0 { vec![queue] } else { (0..shards).map(|n| format!("{queue}#{n}")).collect() }
}

impl Shared {
    /// The arguments of every queue that must not lose anything.
    pub(super) fn quorum_arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        arguments
            .insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()))
            .insert("x-delivery-limit".into(), AMQPValue::LongLongInt(i64::from(self.config.delivery_limit)));
        if let Some(n) = self.config.replicas {
            arguments.insert("x-quorum-initial-group-size".into(), AMQPValue::LongLongInt(i64::from(n)));
        }
        arguments
    }

    /// Makes or checks the topics of one MDT, and what State, answers and its groups need.
    pub(super) async fn prepare(&self, want: &[TopicSpec], pinned: Option<&State>) -> Result<Vec<Topic>, SinkError> {
        let (held, mut directory) = self.open_directory().await?;
        let before = directory.clone();
        let mut topics = Vec::with_capacity(want.len());
        for (ix, spec) in (0u16..).zip(want) {
            let name = self.config.topic_name(&spec.mdt, spec.feed.as_deref());
            let pin = pinned.and_then(|s| s.topics.get(spec.feed.as_deref().unwrap_or_default()));
            let pin = pin.filter(|p| p.name == name);
            let exchange = self.config.exchange(spec.feed.as_deref());
            let known = directory.topics.contains_key(&name);
            if pin.is_some() && (!known || !self.exchange_exists(&exchange).await?) {
                return Err(SinkError::Mismatch {
                    what: format!("topic {name} (exchange {exchange})"),
                    why: "was deleted".to_owned(),
                    hint: format!("`clbridge reset {}` publishes what the MDT still has into a new one", spec.mdt),
                });
            }
            let entry = directory.topics.entry(name.clone()).or_insert_with(|| Entry {
                id: new_id(),
                mdt: spec.mdt.clone(),
                feed: spec.feed.clone(),
                used: false,
                groups: Default::default(),
            });
            if let Some(pin) = pin.filter(|p| p.id != entry.id) {
                return Err(SinkError::Mismatch {
                    what: format!("topic {name}"),
                    why: format!("was deleted and made again: its id was {} and is {}", pin.id, entry.id),
                    hint: format!("`clbridge reset {}` publishes what the MDT still has into it", spec.mdt),
                });
            }
            self.make_exchange(&exchange, ExchangeKind::Topic).await?;
            let mut forgotten = Vec::new();
            for (group, member) in &mut entry.groups {
                if member.removed {
                    if !self.has_queues(&name, group, member).await? {
                        forgotten.push(group.clone());
                    }
                    continue;
                }
                self.follow_settings(&name, group, member).await?;
                self.make_group_queues(&spec.mdt, spec.feed.as_deref(), &name, group, member).await?;
            }
            entry.groups.retain(|group, _| !forgotten.contains(group));
            topics.push(Topic {
                ix: TopicIx(ix),
                name,
                feed: spec.feed.clone(),
                mdt: spec.mdt.clone(),
                id: entry.id.clone(),
                partitions: 1,
                created: !known,
                replicas: self.config.replicas.unwrap_or(1),
            });
        }
        if let Some(spec) = want.first() {
            self.make_own(&spec.mdt).await?;
        }
        if directory == before {
            held.release().await;
        } else {
            self.close_directory(held, directory).await?;
        }
        Ok(topics)
    }

    /// The exchanges and queues of State and answers.
    async fn make_own(&self, mdt: &MdtName) -> Result<(), SinkError> {
        let (own, answers) = (self.config.own_prefix.clone(), self.config.answer_exchange());
        self.make_exchange(&own, ExchangeKind::Direct).await?;
        self.make_exchange(&answers, ExchangeKind::Direct).await?;
        for queue in [self.config.state_queue(mdt), self.config.view_queue(mdt)] {
            self.make_cell(&queue).await?;
            self.bind(&queue, &own, &AmqpConfig::state_key(mdt)).await?;
        }
        let queue = self.config.answer_queue(mdt);
        self.make_queue(&queue, self.quorum_arguments()).await?;
        self.bind(&queue, &answers, &queue).await
    }

    /// A group's queues, bound so that they get every record from the confirm on.
    pub(super) async fn make_group_queues(
        &self,
        mdt: &MdtName,
        feed: Option<&str>,
        topic: &str,
        group: &str,
        member: &Member,
    ) -> Result<(), SinkError> {
        let exchange = self.config.exchange(feed);
        let queues = group_queues(topic, group, member.shards);
        if member.shards == 0 {
            let queue = &queues[0];
            self.make_queue(queue, self.quorum_arguments()).await?;
            if member.confirm {
                return self.unbind(queue, &exchange, &format!("{mdt}.*")).await;
            }
            return self.bind(queue, &exchange, &format!("{mdt}.*")).await;
        }
        let spread = group_queue(topic, group);
        let what = || format!("making exchange {spread}");
        let mut arguments = FieldTable::default();
        arguments.insert("hash-header".into(), AMQPValue::LongString(KEY_HEADER.into()));
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let kind = ExchangeKind::Custom("x-consistent-hash".to_owned());
        let channel = self.channel().await?;
        self.within(what, channel.exchange_declare(short(&spread)?, kind, options, arguments)).await?;
        for queue in &queues {
            let mut arguments = self.quorum_arguments();
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
            self.make_queue(queue, arguments).await?;
            self.bind(queue, &spread, "1").await?;
            // Every shard gets a retraction, since each holds some of the records that it makes void.
            self.bind(queue, &exchange, &format!("{mdt}.{RETRACTION}")).await?;
        }
        let bind = channel.exchange_bind(
            short(&spread)?,
            short(&exchange)?,
            short(&format!("{mdt}.*"))?,
            ExchangeBindOptions::default(),
            FieldTable::default(),
        );
        self.within(what, bind).await?;
        close(&channel).await;
        Ok(())
    }

    /// What is configured for a group applies to its queue, where that can be changed.
    async fn follow_settings(&self, topic: &str, group: &str, member: &mut Member) -> Result<(), SinkError> {
        let (confirm, shards) = self.config.kind_of(group);
        if shards != member.shards {
            return Err(SinkError::Mismatch {
                what: format!("setting amqp.shards.{group}"),
                why: format!("is {shards}, but {topic} has {} shards for the group", member.shards),
                hint:
                    "let the group read everything and remove it; with the bridge stopped delete its queues; start the \
                       bridge and add the group again"
                        .to_owned(),
            });
        }
        member.confirm = confirm;
        Ok(())
    }

    pub(super) async fn exchange_exists(&self, exchange: &str) -> Result<bool, SinkError> {
        let channel = self.channel().await?;
        let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
        let declare = channel.exchange_declare(short(exchange)?, ExchangeKind::Topic, options, FieldTable::default());
        match declare.await {
            Ok(()) => {
                close(&channel).await;
                Ok(true)
            }
            Err(e) if not_found(&e) => Ok(false),
            Err(e) => Err(sort(format!("looking for exchange {exchange}"), &e)),
        }
    }

    async fn make_exchange(&self, exchange: &str, kind: ExchangeKind) -> Result<(), SinkError> {
        let channel = self.channel().await?;
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let declare = channel.exchange_declare(short(exchange)?, kind, options, FieldTable::default());
        self.within(|| format!("making exchange {exchange}"), declare).await?;
        close(&channel).await;
        Ok(())
    }

    pub(super) async fn make_queue(&self, queue: &str, arguments: FieldTable) -> Result<(), SinkError> {
        let channel = self.channel().await?;
        let declare = channel.queue_declare(short(queue)?, QueueDeclareOptions::durable(), arguments);
        self.within(|| format!("making queue {queue}"), declare).await?;
        close(&channel).await;
        Ok(())
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), SinkError> {
        let channel = self.channel().await?;
        self.bind_on(&channel, queue, exchange, key).await?;
        close(&channel).await;
        Ok(())
    }

    pub(super) async fn bind_on(
        &self,
        channel: &Channel,
        queue: &str,
        exchange: &str,
        key: &str,
    ) -> Result<(), SinkError> {
        let bind = channel.queue_bind(
            short(queue)?,
            short(exchange)?,
            short(key)?,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        self.within(|| format!("binding queue {queue} to exchange {exchange}"), bind).await
    }

    async fn unbind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), SinkError> {
        let channel = self.channel().await?;
        let unbind = channel.queue_unbind(short(queue)?, short(exchange)?, short(key)?, FieldTable::default());
        self.within(|| format!("unbinding queue {queue} from exchange {exchange}"), unbind).await?;
        close(&channel).await;
        Ok(())
    }

    /// Whether any of a group's queues is there.
    pub(super) async fn has_queues(&self, topic: &str, group: &str, member: &Member) -> Result<bool, SinkError> {
        for queue in group_queues(topic, group, member.shards) {
            if self.look(&queue).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Messages that are ready and consumers of a queue; `None` if it does not exist.
    pub(super) async fn look(&self, queue: &str) -> Result<Option<(u32, u32)>, SinkError> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions::durable().passive();
        match channel.queue_declare(short(queue)?, passive, FieldTable::default()).await {
            Ok(q) => {
                close(&channel).await;
                Ok(Some((q.message_count(), q.consumer_count())))
            }
            Err(e) if not_found(&e) => Ok(None),
            Err(e) => Err(sort(format!("looking at queue {queue}"), &e)),
        }
    }
}

/// An identity that no other life of a topic has.
fn new_id() -> String {
    format!("{:x}-{:x}", new_life(), std::process::id())
}

/// A number that no other life of a group has.
pub(super) fn new_life() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
