//! RabbitMQ: against a loop over the client that queues its messages and awaits their confirms behind, with one record
//! a message and with a hundred.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use clbridge_sinks::amqp::{AmqpConfig, AmqpSink};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};

use crate::child::{done, ready, say};
use crate::payloads::{Message, Payloads};
use crate::rate::Contest;
use crate::setup::MDT;

/// Messages that are on their way at most: the bridge's default.
const WINDOW: usize = 1000;
/// Records in one message, where they are packed.
pub const PACKED: usize = 100;
/// What the names of records begin with.
const STEM: &str = "lustre-MDT0000/all:1:";
/// The one group of the bridge; the bare client's queue ends with it too.
const GROUP: &str = "bench";

/// A RabbitMQ.
pub struct Amqp {
    /// `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
    pub uri: String,
    /// Records in one message.
    pub per_message: usize,
}

impl Contest for Amqp {
    fn name(&self) -> &'static str {
        if self.per_message == 1 { "amqp" } else { "amqp.packed" }
    }

    fn records(&self, asked: u64) -> u64 {
        // The broker takes some ten thousand messages a second.
        if self.per_message == 1 { asked / 15 } else { asked }
    }

    fn repeated(&self) -> usize {
        2
    }

    fn table(&self, name: &str) -> String {
        format!(
            "[sink.amqp]\nuri = \"{}\"\nprefix = \"{name}\"\nown_prefix = \"own-{name}\"\nrecords_per_message = {}\n",
            self.uri, self.per_message
        )
    }

    fn prepare(&self, _rival: &str, name: &str) -> Result<Vec<String>> {
        runtime()?.block_on(async {
            let channel = connect(&self.uri).await?.create_channel().await?;
            let (exchange, queue) = names(name);
            let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
            let none = FieldTable::default;
            channel.exchange_declare(exchange.clone(), ExchangeKind::Topic, durable, none()).await?;
            let mut arguments = none();
            arguments
                .insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()))
                .insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000_000_000));
            channel.queue_declare(queue.clone(), QueueDeclareOptions::durable(), arguments).await?;
            let key = format!("{MDT}.*").into();
            channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), none()).await?;
            Ok(vec![self.uri.clone(), name.to_owned(), self.per_message.to_string()])
        })
    }

    fn clean(&self, name: &str) -> Result<()> {
        runtime()?.block_on(async {
            let config = AmqpConfig {
                uri: self.uri.clone(),
                prefix: name.to_owned(),
                own_prefix: format!("own-{name}"),
                ..AmqpConfig::default()
            };
            AmqpSink::new(config)?.erase(&[MDT.parse()?], &[GROUP.to_owned()]).await?;
            let channel = connect(&self.uri).await?.create_channel().await?;
            let (exchange, queue) = names(name);
            channel.queue_delete(queue, QueueDeleteOptions::default()).await?;
            channel.exchange_delete(exchange, ExchangeDeleteOptions::default()).await?;
            Ok(())
        })
    }
}

/// The exchange that the bare client publishes to, and the queue bound to it.
fn names(name: &str) -> (ShortString, ShortString) {
    (format!("{name}-bare").into(), format!("{name}-bare:{GROUP}").into())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn connect(uri: &str) -> Result<Connection> {
    Ok(Connection::connect(uri, ConnectionProperties::default()).await?)
}

/// Publishes `records` payloads, so many in each message.
pub fn rate(sim: &str, records: usize, uri: &str, name: &str, per_message: usize) -> Result<()> {
    let payloads = Payloads::read(sim, records)?;
    runtime()?.block_on(async {
        // Closes when it is dropped.
        let connection = connect(uri).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let reply_to = format!("own-{name}.answers.{MDT}").into();
        let mut line = Line { channel, exchange: names(name).0, reply_to, confirms: VecDeque::new() };
        ready()?;
        let messages: Vec<Message<'_>> = payloads.iter().collect();
        for (n, records) in (0..).zip(messages.chunks(per_message)) {
            if per_message == 1 {
                line.one(&records[0]).await?;
            } else {
                line.many(records).await?;
            }
            if (n * per_message).is_multiple_of(1000) {
                say(&format!("at {}", n * per_message))?;
            }
        }
        line.drain(0).await?;
        done()
    })
}

/// Messages on their way, in order.
struct Line {
    channel: Channel,
    exchange: ShortString,
    reply_to: ShortString,
    confirms: VecDeque<BoxFuture<'static, lapin::Result<Confirmation>>>,
}

impl Line {
    async fn one(&mut self, m: &Message<'_>) -> Result<()> {
        let mut headers = FieldTable::default();
        headers.insert("clb-key".into(), AMQPValue::LongString(m.key.into()));
        let properties = self.properties(&m.kind.to_string(), &m.index.to_string(), "avro/binary", m.time_ns, headers);
        self.publish(m.kind.to_string(), m.payload.into(), properties).await
    }

    async fn many(&mut self, records: &[Message<'_>]) -> Result<()> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let mut body = Vec::with_capacity(records.iter().map(|m| m.payload.len() + 4).sum());
        for m in records {
            body.extend_from_slice(&(m.payload.len() as u32).to_be_bytes());
            body.extend_from_slice(m.payload);
        }
        let (span, kind) = (format!("{}..{}", first.index, last.index), "PACKED");
        let content = "application/vnd.clbridge.packed";
        let properties = self.properties(kind, &span, content, last.time_ns, FieldTable::default());
        self.publish(kind.to_owned(), body, properties).await
    }

    /// What the bridge writes on its messages.
    fn properties(&self, kind: &str, span: &str, content: &str, time_ns: i64, headers: FieldTable) -> BasicProperties {
        BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type(content.into())
            .with_message_id(format!("{STEM}{span}").into())
            .with_correlation_id(format!("{STEM}{span}").into())
            .with_reply_to(self.reply_to.clone())
            .with_timestamp(time_ns.cast_unsigned() / 1_000_000_000)
            .with_type(kind.into())
            .with_headers(headers)
    }

    /// Queues one message; waits while the window is full.
    async fn publish(&mut self, kind: String, body: Vec<u8>, properties: BasicProperties) -> Result<()> {
        self.drain(WINDOW - 1).await?;
        let (channel, exchange) = (self.channel.clone(), self.exchange.clone());
        let key = format!("{MDT}.{kind}").into();
        let mut confirm: BoxFuture<'static, _> = Box::pin(async move {
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            channel.basic_publish(exchange, key, options, &body, properties).await?.await
        });
        // The first poll queues its frames. If it is confirmed at once, so is all before it.
        if let Some(outcome) = (&mut confirm).now_or_never() {
            self.confirms.push_back(Box::pin(std::future::ready(outcome)));
        } else {
            self.confirms.push_back(confirm);
        }
        Ok(())
    }

    /// Waits until no more than `most` messages are on their way, and takes all that are confirmed then.
    async fn drain(&mut self, most: usize) -> Result<()> {
        if self.confirms.len() <= most {
            return Ok(());
        }
        loop {
            let full = self.confirms.len() > most;
            let Some(front) = self.confirms.front_mut() else { break };
            let outcome = if full { Some(front.await) } else { front.now_or_never() };
            let Some(outcome) = outcome else { break };
            ensure!(matches!(outcome?, Confirmation::Ack(None)), "a message was refused or came back");
            self.confirms.pop_front();
        }
        Ok(())
    }
}
