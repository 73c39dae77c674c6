//! A reader that belongs to no group: it sees what comes from now on and leaves nothing behind.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection};

use super::super::AmqpSink;
use super::super::config::AmqpConfig;
use super::super::label::split;
use super::records;
use crate::error::SinkError;
use crate::registry::MdtSelection;
use crate::traits::{Batch, Consumer, Subscription};

/// Messages that wait for a slow reader; the oldest go first.
const MOST: i32 = 100_000;
const PREFETCH: u16 = 1000;

/// A reader that belongs to no group.
pub(in crate::amqp) struct Ephemeral {
    what: Subscription,
    sink: AmqpSink,
    open: Option<Open>,
}

struct Open {
    /// The queue goes with it.
    connection: Connection,
    channel: Channel,
    deliveries: lapin::Consumer,
}

impl Ephemeral {
    pub(in crate::amqp) fn new(config: &AmqpConfig, what: &Subscription) -> Result<Self, SinkError> {
        Ok(Self { what: what.clone(), sink: AmqpSink::new(config.clone())?, open: None })
    }

    async fn open(&mut self) -> Result<&mut Open, SinkError> {
        let shared = &self.sink.shared;
        let what = || "ephemeral reader".to_owned();
        if self.open.as_ref().is_none_or(|open| !open.connection.status().connected()) {
            let connection = shared.connect("ephemeral reader").await?;
            let channel = shared.within(what, connection.create_channel()).await?;
            let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
            let mut arguments = FieldTable::default();
            arguments.insert("x-max-length".into(), AMQPValue::LongInt(MOST));
            let queue = shared.within(what, channel.queue_declare("".into(), options, arguments)).await?;
            let exchange = shared.config.exchange(self.what.feed.as_deref());
            let keys = match &self.what.mdts {
                MdtSelection::All => vec!["#".to_owned()],
                MdtSelection::List(mdts) => mdts.iter().map(|mdt| format!("{mdt}.*")).collect(),
            };
            for key in keys {
                shared.bind_on(&channel, queue.name().as_str(), &exchange, &key).await?;
            }
            shared.within(what, channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
            let deliveries = shared.consume(&channel, queue.name().as_str(), false).await?;
            self.open = Some(Open { connection, channel, deliveries });
        }
        self.open.as_mut().ok_or_else(|| SinkError::Unavailable { what: what(), why: "it is not open".to_owned() })
    }
}

#[async_trait]
impl Consumer for Ephemeral {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let until = Instant::now() + wait;
        let (config, feed) = (self.sink.shared.config.clone(), self.what.feed.clone());
        let open = self.open().await?;
        let mut batch = Batch::default();
        let mut last = None;
        while batch.records.len() < max {
            let left =
                if batch.records.is_empty() { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            let Ok(next) = tokio::time::timeout(left, open.deliveries.next()).await else { break };
            let Some(Ok(delivery)) = next else {
                // What came is handed out; the next call opens another queue.
                self.open = None;
                if !batch.records.is_empty() {
                    return Ok(batch);
                }
                let why = next.and_then(Result::err).map_or("the connection was lost".to_owned(), |e| e.to_string());
                return Err(SinkError::Unavailable { what: "ephemeral reader".to_owned(), why });
            };
            let id = delivery.properties.message_id().as_ref().map(|id| id.as_str()).unwrap_or_default();
            let mdt = split(id).and_then(|(stem, _)| stem.split_once('/')?.0.parse().ok());
            let topic = mdt.map_or_else(|| config.prefix.clone(), |mdt| config.topic_name(&mdt, feed.as_deref()));
            batch.records.extend(records(&topic, &delivery)?);
            last = Some(delivery.delivery_tag);
        }
        if let Some(tag) = last {
            // (where that fails the queue is lost, and the next call notices)
            let _ = open.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await;
        }
        Ok(batch)
    }

    async fn done(&mut self, _batch: &Batch) -> Result<(), SinkError> {
        Ok(())
    }
}
