//! A member of a group.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clbridge_schemas::ids::MdtName;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, SelectAll};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection};

use super::super::config::AmqpConfig;
use super::super::label::{Span, split};
use super::super::lease::GROUP_HEADER;
use super::super::link::{PERSISTENT, short, sort, within};
use super::super::topology::{group_queue, group_queues};
use super::super::{AmqpSink, Shared};
use super::records;
use crate::error::SinkError;
use crate::traits::{Batch, Consumed, Consumer, Subscription};

/// How often it is looked for topics of new MDTs.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Largest list of names in one answer, bytes.
const ANSWER_BYTES: usize = 64 << 10;

/// A member of a group.
pub(in crate::amqp) struct Member {
    group: String,
    what: Subscription,
    sink: AmqpSink,
    open: Option<Open>,
    looked: Option<Instant>,
    /// Records of messages that were taken and not yet handed out.
    waiting: VecDeque<(u64, Consumed)>,
    /// Messages that were handed out, by number.
    taken: BTreeMap<u64, Taken>,
    next_number: u64,
}

/// What comes from one queue: its topic, the channel that it came by, and the message; `None` when no more will come.
type Deliveries = BoxStream<'static, (String, Arc<Channel>, Option<lapin::Result<Delivery>>)>;

/// Its connection.
struct Open {
    connection: Connection,
    /// For answers.
    answers: Channel,
    queues: BTreeMap<String, Arc<Channel>>,
    deliveries: SelectAll<Deliveries>,
}

/// A message that is not yet answered.
struct Taken {
    channel: Arc<Channel>,
    tag: u64,
    reply_to: ShortString,
    /// What the answer names: what it begins with, and the records.
    stem: String,
    span: Span,
    /// Its records that are not yet done, by topic and position.
    open: BTreeSet<(String, u64)>,
}

impl Member {
    pub(in crate::amqp) fn new(config: &AmqpConfig, group: &str, what: &Subscription) -> Result<Self, SinkError> {
        Ok(Self {
            group: group.to_owned(),
            what: what.clone(),
            sink: AmqpSink::new(config.clone())?,
            open: None,
            looked: None,
            waiting: VecDeque::new(),
            taken: BTreeMap::new(),
            next_number: 0,
        })
    }

    fn shared(&self) -> &Shared {
        &self.sink.shared
    }

    /// Gives up the connection, and with it all that came by it and is not answered: the broker gives that again, to this
    /// member or to another, and an answer by a channel that is gone would reach nobody.
    fn lose(&mut self) {
        (self.open, self.looked) = (None, None);
        self.waiting.clear();
        self.taken.clear();
    }

    /// Takes the queues that are there and not taken yet.
    async fn look(&mut self) -> Result<(), SinkError> {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let directory = self.shared().directory().await?;
        for (topic, entry) in &directory.topics {
            if entry.feed != self.what.feed || !self.what.mdts.takes(&entry.mdt) {
                continue;
            }
            match entry.groups.get(&self.group) {
                Some(member) => {
                    for queue in group_queues(topic, &self.group, member.shards) {
                        self.take_queue(topic, &queue).await?;
                    }
                }
                None => self.ensure_unused(topic, &entry.mdt).await?,
            }
        }
        Ok(())
    }

    /// A group that nobody registered must not be told that there is nothing.
    async fn ensure_unused(&mut self, topic: &str, mdt: &MdtName) -> Result<(), SinkError> {
        let envelope = self.shared().peek(mdt).await?;
        if envelope.and_then(|e| e.topics.get(topic).map(|t| t.fold.end)).is_none_or(|end| end == 0) {
            return Ok(());
        }
        Err(SinkError::Mismatch {
            what: format!("group {} in {topic}", self.group),
            why: "has no queue".to_owned(),
            hint: format!("`clbridge groups add {}` makes one", self.group),
        })
    }

    async fn take_queue(&mut self, topic: &str, queue: &str) -> Result<(), SinkError> {
        let shared = Arc::clone(&self.sink.shared);
        let what = || format!("reading queue {queue}");
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let connection = shared.connect(&format!("member of {}", self.group)).await?;
                let answers = shared.within(what, connection.create_channel()).await?;
                shared.within(what, answers.confirm_select(ConfirmSelectOptions::default())).await?;
                self.open.insert(Open { connection, answers, queues: BTreeMap::new(), deliveries: SelectAll::new() })
            }
        };
        if open.queues.contains_key(queue) {
            return Ok(());
        }
        let channel = Arc::new(shared.within(what, open.connection.create_channel()).await?);
        shared.within(what, channel.basic_qos(shared.config.prefetch, BasicQosOptions::default())).await?;
        let consumer = shared.consume(&channel, queue, false).await?;
        let (topic, of) = (topic.to_owned(), Arc::clone(&channel));
        let all = consumer.map(Some).chain(futures_util::stream::iter([None]));
        open.deliveries.push(all.map(move |d| (topic.clone(), Arc::clone(&of), d)).boxed());
        open.queues.insert(queue.to_owned(), channel);
        Ok(())
    }

    /// Waits for one message.
    async fn arrive(&mut self, wait: Duration) -> Result<bool, SinkError> {
        let Some(open) = self.open.as_mut().filter(|o| !o.deliveries.is_empty()) else {
            tokio::time::sleep(wait.min(LOOK_EVERY)).await;
            return Ok(false);
        };
        let Ok(Some((topic, channel, delivery))) = tokio::time::timeout(wait, open.deliveries.next()).await else {
            return Ok(false);
        };
        let what = || format!("reading queue {}", group_queue(&topic, &self.group));
        let delivery = match delivery {
            Some(Ok(delivery)) => delivery,
            Some(Err(e)) => return Err(sort(what(), &e)),
            None => {
                let why = "the queue was deleted, or the connection lost".to_owned();
                return Err(SinkError::Unavailable { what: what(), why });
            }
        };
        let all = records(&topic, &delivery)?;
        let name = delivery.properties.correlation_id().as_ref().map(|id| id.as_str()).unwrap_or_default();
        let Some((stem, span)) = split(name) else {
            return Err(SinkError::Mismatch {
                what: format!("a message in {}", group_queue(&topic, &self.group)),
                why: format!("its correlation_id \"{name}\" names no record"),
                hint: "another program publishes there: end it, and take its messages out of the queue".to_owned(),
            });
        };
        let number = self.next_number;
        self.next_number += 1;
        let taken = Taken {
            channel,
            tag: delivery.delivery_tag,
            reply_to: delivery.properties.reply_to().clone().unwrap_or_default(),
            stem: stem.to_owned(),
            span,
            open: all.iter().map(|r| (r.topic.clone(), r.at.offset)).collect(),
        };
        self.taken.insert(number, taken);
        self.waiting.extend(all.into_iter().map(|r| (number, r)));
        Ok(true)
    }

    /// Answers messages all of whose records are done, then acknowledges them.
    async fn answer(&mut self, done: Vec<Taken>) -> Result<(), SinkError> {
        let Some(open) = &self.open else { return Ok(()) };
        let what = || format!("answering for group {}", self.group);
        // By answer queue: the names, joined where nothing lies between them.
        let mut names: BTreeMap<ShortString, Vec<(&str, Span)>> = BTreeMap::new();
        for taken in &done {
            let of = names.entry(taken.reply_to.clone()).or_default();
            match of.last_mut().filter(|(stem, _)| *stem == taken.stem) {
                Some((_, last)) if let Some(both) = last.join(taken.span) => *last = both,
                _ => of.push((&taken.stem, taken.span)),
            }
        }
        let mut confirms: Vec<BoxFuture<'static, lapin::Result<Confirmation>>> = Vec::new();
        for (reply_to, names) in names {
            let mut body = String::new();
            let mut bodies = Vec::new();
            for (stem, span) in names {
                body.push_str(&format!("{stem}{span}\n"));
                if body.len() > ANSWER_BYTES {
                    bodies.push(std::mem::take(&mut body));
                }
            }
            bodies.push(body);
            for body in bodies.into_iter().filter(|b| !b.is_empty()) {
                let mut headers = FieldTable::default();
                headers.insert(GROUP_HEADER.into(), AMQPValue::LongString(self.group.as_str().into()));
                let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
                let (exchange, key) = (short(&self.shared().config.answer_exchange())?, reply_to.clone());
                let answers = open.answers.clone();
                confirms.push(Box::pin(async move {
                    let options = BasicPublishOptions { mandatory: true, immediate: false };
                    answers.basic_publish(exchange, key, options, body.as_bytes(), properties).await?.await
                }));
            }
        }
        let all = futures_util::future::try_join_all(confirms);
        let confirmed = within(self.shared().config.request_timeout(), what, all).await?;
        if let Some(c) = confirmed.into_iter().find(|c| !matches!(c, Confirmation::Ack(None))) {
            return Err(SinkError::Unavailable {
                what: what(),
                why: format!("the broker did not take an answer: {c:?}"),
            });
        }
        for taken in done {
            let acked = taken.channel.basic_ack(taken.tag, BasicAckOptions::default()).await;
            acked.map_err(|e| sort(what(), &e))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let until = Instant::now() + wait;
        if self.open.as_ref().is_some_and(|open| !open.connection.status().connected()) {
            self.lose();
        }
        let mut batch = Batch::default();
        while batch.records.len() < max {
            if let Some((_, record)) = self.waiting.pop_front() {
                batch.records.push(record);
                continue;
            }
            if batch.records.is_empty() {
                self.look().await?;
            }
            let left =
                if batch.records.is_empty() { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            // (whatever ends a queue's stream, the connection goes with it: a member that takes too few queues is not seen)
            let arrived = self.arrive(left.min(LOOK_EVERY)).await.inspect_err(|_| self.lose())?;
            if !arrived && (!batch.records.is_empty() || left.is_zero()) {
                break;
            }
        }
        Ok(batch)
    }

    async fn done(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let done: BTreeSet<(&str, u64)> = batch.records.iter().map(|r| (r.topic.as_str(), r.at.offset)).collect();
        for taken in self.taken.values_mut() {
            taken.open.retain(|(topic, offset)| !done.contains(&(topic.as_str(), *offset)));
        }
        let numbers: Vec<u64> = self.taken.iter().filter(|(_, t)| t.open.is_empty()).map(|(n, _)| *n).collect();
        let whole = numbers.iter().filter_map(|n| self.taken.remove(n)).collect();
        // What was not answered comes again, once its connection is gone.
        self.answer(whole).await.inspect_err(|_| self.lose())
    }
}
