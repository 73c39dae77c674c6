//! A member of a group. It never makes a consumer and acknowledges only what `done` was called for.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{self, AckKind};
use async_trait::async_trait;
use futures_util::stream::{SelectAll, Stream};
use futures_util::{FutureExt, StreamExt};

use super::super::config::NatsConfig;
use super::super::groups::{PINNED, observe};
use super::super::link::Link;
use super::super::names::check_group;
use super::super::{NatsSink, Shared};
use super::order::Order;
use super::{consumed, due, streams};
use crate::error::SinkError;
use crate::topic::{Topic, TopicIx};
use crate::traits::{Batch, Consumed, Consumer, Subscription};

/// How long a member waits for a consumer that nobody has made yet: a new MDT's stream is there a moment before it.
const FIRST_POSITION_GRACE: Duration = Duration::from_secs(15);
/// Messages asked for at once from each consumer.
const PULL: usize = 200;

/// Tells in every message of an ordered consumer which member is served (nats-server 2.11, ADR-42).
const PIN: &str = "Nats-Pin-Id";

/// What comes of one consumer, named by stream and consumer.
type Delivery = (Arc<Pulled>, Option<Result<jetstream::Message, String>>);

/// A consumer that is pulled from.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pulled {
    stream: String,
    consumer: String,
}

/// A member of a group.
pub(in crate::nats) struct Member {
    shared: Arc<Shared>,
    group: String,
    what: Subscription,
    link: Option<Link>,
    looked: Option<Instant>,
    /// What it pulls from.
    attached: BTreeSet<Arc<Pulled>>,
    deliveries: SelectAll<Pin<Box<dyn Stream<Item = Delivery> + Send>>>,
    /// Streams without a consumer of this group, and since when.
    missing: BTreeMap<String, Instant>,
    /// Handed out and not done, by stream and sequence.
    handed: HashMap<(String, u64), Acker>,
    /// By ordered consumer, what came of it.
    orders: BTreeMap<Arc<Pulled>, Order>,
    /// To be handed out next.
    ready: VecDeque<Consumed>,
}

impl Member {
    pub(in crate::nats) fn new(config: &NatsConfig, group: &str, what: &Subscription) -> Result<Self, SinkError> {
        check_group(group)?;
        Ok(Self {
            shared: NatsSink::new(config.clone())?.shared,
            group: group.to_owned(),
            what: what.clone(),
            link: None,
            looked: None,
            attached: BTreeSet::new(),
            deliveries: SelectAll::new(),
            missing: BTreeMap::new(),
            handed: HashMap::new(),
            orders: BTreeMap::new(),
            ready: VecDeque::new(),
        })
    }

    fn what(&self) -> String {
        format!("group {}", self.group)
    }

    /// Looks for streams and consumers that are new.
    async fn look(&mut self) -> Result<(), SinkError> {
        if !due(&mut self.looked) {
            return Ok(());
        }
        let link = match &self.link {
            Some(link) => link.clone(),
            None => self.shared.link().await?,
        };
        self.link = Some(link.clone());
        for name in streams(&self.shared, &link, &self.what, Some(&self.group)).await? {
            let Some(info) = link.stream(&name).await? else { continue };
            let Some((mdt, feed, _)) = self.shared.config.parse_stream(&name) else { continue };
            let mut topic = Topic {
                ix: TopicIx(0),
                name,
                feed,
                mdt,
                id: String::new(),
                partitions: 0,
                created: false,
                replicas: info.config.num_replicas as u32,
            };
            topic.partitions = self.shared.partitions_of(&topic, &info)?;
            for wanted in self.shared.consumers_of(&self.group, topic.partitions) {
                let pulled = Pulled { stream: topic.name.clone(), consumer: wanted.name.clone() };
                if !self.attached.contains(&pulled) {
                    self.attach(&link, pulled, wanted.partition.is_some()).await?;
                }
            }
        }
        let late: Vec<&str> = self
            .missing
            .iter()
            .filter(|(_, since)| since.elapsed() > FIRST_POSITION_GRACE)
            .map(|(stream, _)| stream.as_str())
            .collect();
        if late.is_empty() {
            return Ok(());
        }
        Err(SinkError::Mismatch {
            what: self.what(),
            why: format!("has no consumer on {}", late.join(", ")),
            hint: format!(
                "register it by `clbridge groups add {0}`; if it was registered, its consumer was deleted: `clbridge groups repair {0}` or `clbridge groups accept {0}`",
                self.group
            ),
        })
    }

    /// Begins to pull from one consumer, unless messages that it had not read were deleted.
    async fn attach(&mut self, link: &Link, pulled: Pulled, ordered: bool) -> Result<(), SinkError> {
        let Pulled { stream, consumer } = &pulled;
        let Some(info) = link.consumer(stream, consumer).await? else {
            self.missing.entry(stream.clone()).or_insert_with(Instant::now);
            return Ok(());
        };
        let now = link.stream(stream).await?;
        let (was, _) = self.shared.baseline(link, stream, consumer).await?;
        if let (Some(now), Some(was)) = (now, was)
            && observe(link, &info, &now, (was.advisories.clone(), was.advisory)).evicted(&was)
        {
            return Err(SinkError::Mismatch {
                what: self.what(),
                why: format!("messages of {stream} that it had not read were deleted"),
                hint: format!(
                    "`clbridge groups repair {0}` brings back what the MDT still has, `clbridge groups accept {0}` goes on without",
                    self.group
                ),
            });
        }
        self.missing.remove(stream);
        let unavailable = |why: String| SinkError::Unavailable { what: format!("group {}: {stream}", self.group), why };
        let consumer: jetstream::consumer::Consumer<pull::Config> = link
            .js
            .get_consumer_from_stream(consumer.as_str(), stream.as_str())
            .await
            .map_err(|e| unavailable(e.to_string()))?;
        let mut pulling = consumer.stream().max_messages_per_batch(PULL).expires(Duration::from_secs(30));
        pulling = pulling.heartbeat(Duration::from_secs(5));
        if ordered {
            pulling = pulling.group(PINNED);
        }
        let messages = pulling.messages().await.map_err(|e| unavailable(e.to_string()))?;
        let (pulled, last) = (Arc::new(pulled), futures_util::stream::iter([None]));
        self.attached.insert(Arc::clone(&pulled));
        if ordered {
            self.orders.insert(Arc::clone(&pulled), Order::default());
        }
        let all = messages.map(|m| Some(m.map_err(|e| e.to_string()))).chain(last);
        self.deliveries.push(Box::pin(all.map(move |m| (Arc::clone(&pulled), m))));
        Ok(())
    }

    /// Takes one delivery; a consumer that breaks is attached again at the next look.
    fn take(&mut self, (pulled, message): Delivery) -> Result<(), SinkError> {
        let stream = &pulled.stream;
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(why)) => {
                tracing::debug!(group = self.group, stream, why, "a pull broke off");
                return Ok(());
            }
            None => {
                self.attached.remove(&pulled);
                self.orders.remove(&pulled);
                return Ok(());
            }
        };
        let sequence = message.info().map(|info| info.stream_sequence).map_err(|e| SinkError::Unavailable {
            what: format!("group {}: {stream}", self.group),
            why: format!("a message without its place: {e}"),
        })?;
        let record = consumed(stream, sequence, &message.subject, &message.payload, message.headers.as_ref())?;
        // Only its pin and its acknowledgement are still needed.
        let (message, acker) = message.split();
        self.handed.insert((stream.clone(), sequence), acker);
        match self.orders.get_mut(&pulled) {
            Some(order) => {
                let pin = message.headers.as_ref().and_then(|h| h.get(PIN)).map_or("", |pin| pin.as_str());
                self.ready.extend(order.arrived(pin, sequence, record));
            }
            None => self.ready.push_back(record),
        }
        Ok(())
    }

    /// Asks what is unacknowledged where that decides what may be handed out.
    async fn put_in_order(&mut self) -> Result<(), SinkError> {
        let Some(link) = self.link.clone() else { return Ok(()) };
        let now = Instant::now();
        for (pulled, order) in &mut self.orders {
            if order.asks(now)
                && let Some(info) = link.consumer(&pulled.stream, &pulled.consumer).await?
            {
                self.ready.extend(order.told(info.delivered.stream_sequence, info.num_ack_pending));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let mut batch = Batch::default();
        let until = Instant::now() + wait;
        loop {
            self.look().await?;
            while self.ready.len() < max
                && let Some(Some(delivery)) = self.deliveries.next().now_or_never()
            {
                self.take(delivery)?;
            }
            self.put_in_order().await?;
            batch.records.extend(self.ready.drain(..max.min(self.ready.len())));
            let left = until.saturating_duration_since(Instant::now());
            if !batch.records.is_empty() || left.is_zero() || max == 0 {
                return Ok(batch);
            }
            let left = left.min(super::LOOK);
            if self.deliveries.is_empty() {
                tokio::time::sleep(left.min(Duration::from_millis(100))).await;
            } else if let Ok(Some(delivery)) = tokio::time::timeout(left, self.deliveries.next()).await {
                self.take(delivery)?;
            }
        }
    }

    async fn done(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let mut last: BTreeMap<&str, Acker> = BTreeMap::new();
        let what = || format!("group {}: acknowledging", self.group);
        for record in &batch.records {
            let Some(message) = self.handed.remove(&(record.topic.clone(), record.at.offset)) else { continue };
            if let Some(before) = last.insert(&record.topic, message) {
                before.ack().await.map_err(|e| SinkError::Unavailable { what: what(), why: e.to_string() })?;
            }
        }
        // The server answers the last one of each stream; it takes those before it first.
        for message in last.into_values() {
            let answered = message.double_ack_with(AckKind::Ack);
            match tokio::time::timeout(self.shared.config.request_timeout(), answered).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return Err(SinkError::Unavailable { what: what(), why: e.to_string() }),
                Err(_) => return Err(SinkError::Unavailable { what: what(), why: "no answer".to_owned() }),
            }
        }
        Ok(())
    }
}
