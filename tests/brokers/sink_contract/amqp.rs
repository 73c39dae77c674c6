//! RabbitMQ as a ground for the contract. What happens behind the sink's back is done with lapin directly, and what a
//! client that is not ours sees with the management API.
//!
//! Nothing can be read back from RabbitMQ, so what is there is seen through a group that takes every topic from the
//! beginning and never acknowledges: its queues hold all that was published.

use std::num::NonZeroU64;
use std::process::Command;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clbridge_schemas::avro;
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_sinks::amqp::{AmqpConfig, AmqpSink};
use clbridge_sinks::retraction::{RETRACTS_HEADER, read_header};
use clbridge_sinks::{
    Broker as _, Capabilities, Consumer, GroupObserver, Head, MdtSelection, Position, Recovered, Sink, SinkError,
    StartAt, State, Stored, Subscription, Topic, TopicSpec,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::ground::{Ground, HANG, new_group, variable};

/// Longer than a broker of this version needs to write down the name of a queue.
const QUEUE_IS_KNOWN: Duration = Duration::from_secs(10);
/// The group that sees everything.
const AUDIT: &str = "audit";

/// One server, given by AMQP_URL, and names on it that nobody else uses.
pub struct Amqp {
    uri: String,
    prefix: String,
}

impl Amqp {
    pub fn new() -> Self {
        Self { uri: variable("AMQP_URL"), prefix: new_group("lustre") }
    }

    pub fn config(&self) -> AmqpConfig {
        AmqpConfig {
            uri: self.uri.clone(),
            prefix: self.prefix.clone(),
            own_prefix: self.own(),
            memory_bytes: self.memory(),
            request_timeout_ms: 60_000,
            // A member that takes everything and answers nothing yet is sent no more than this: sentences about what was
            // taken and not done take up to 300 records.
            prefetch: 500,
            ..AmqpConfig::default()
        }
    }

    fn own(&self) -> String {
        format!("own-{}", self.prefix)
    }

    fn make(&self) -> AmqpSink {
        AmqpSink::new(self.config()).unwrap()
    }

    async fn channel(&self) -> (Connection, Channel) {
        let connection = Connection::connect(&self.uri, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    fn up(verb: &str) {
        let status = Command::new(variable("CLB_UP")).args(["amqp", verb, &variable("AMQP_DIR")]).status().unwrap();
        assert!(status.success(), "tests/up amqp {verb}");
    }
}

fn audit_queue(topic: &Topic) -> String {
    format!("{}:{AUDIT}", topic.name)
}

/// The sink, with eyes: everything is the sink's own but for reading back, which it has not.
struct Audited {
    sink: AmqpSink,
    uri: String,
}

impl Audited {
    /// All messages of the audit group's queue, which get back their places.
    async fn look(&self, topic: &Topic, each: &mut (dyn FnMut(Stored) + Send)) {
        let began = Instant::now();
        // A broker that was just started knows its queues some time before it can read them.
        let messages = loop {
            match self.try_look(topic).await {
                Ok(messages) => break messages,
                Err(e) => assert!(began.elapsed() < HANG, "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        for message in messages {
            let at = position(message.properties.message_id().as_ref().unwrap().as_str());
            let mut head = avro::Head::decode(&message.data).unwrap();
            if let Some(AMQPValue::LongString(text)) =
                message.properties.headers().as_ref().and_then(|h| h.inner().get(RETRACTS_HEADER))
            {
                head.retracts = read_header(text.as_bytes());
            }
            each(Stored { at, head: Head::of(&head).unwrap() });
        }
    }

    async fn try_look(&self, topic: &Topic) -> lapin::Result<Vec<Delivery>> {
        let connection = Connection::connect(&self.uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let queue = audit_queue(topic);
        let ready = ready(&channel, &queue).await?;
        channel.basic_qos(u16::MAX, BasicQosOptions::default()).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let messages = channel.basic_consume(queue.as_str().into(), "".into(), options, none).await?;
        let messages: Vec<_> = messages.take(ready as usize).try_collect().await?;
        channel.close(200, "".into()).await?;
        // They are there again for the next one only some time after the channel is closed.
        let (channel, began) = (connection.create_channel().await?, Instant::now());
        while self::ready(&channel, &queue).await? < ready {
            assert!(began.elapsed() < HANG, "{queue} does not get back what was looked at");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        connection.close(200, "".into()).await?;
        Ok(messages)
    }
}

/// How many messages of a queue nobody has.
async fn ready(channel: &Channel, queue: &str) -> lapin::Result<u32> {
    let passive = QueueDeclareOptions::durable().passive();
    Ok(channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count())
}

/// The position that a message's id tells: `MDT/FEED:INCARNATION:INDEX[:r0]`.
fn position(id: &str) -> Position {
    let mut words = id.split(':').skip(1);
    let incarnation = words.next().unwrap().parse().unwrap();
    let index: NonZeroU64 = words.next().unwrap().parse().unwrap();
    Position::of_identity(0, RecordId { incarnation, index }, words.next().is_some()).unwrap()
}

#[async_trait]
impl Sink for Audited {
    fn capabilities(&self) -> Capabilities {
        self.sink.capabilities()
    }

    async fn prepare(&self, want: &[TopicSpec], pinned: Option<&State>) -> Result<Vec<Topic>, SinkError> {
        let topics = self.sink.prepare(want, pinned).await?;
        for topic in topics.iter().filter(|t| t.created) {
            self.sink.register(AUDIT, topic, StartAt::Oldest).await?;
        }
        Ok(topics)
    }

    async fn peek_state(&self, mdt: &MdtName) -> Result<Option<State>, SinkError> {
        self.sink.peek_state(mdt).await
    }

    async fn recover(&self, mdt: &MdtName, topics: &[Topic]) -> Result<Recovered, SinkError> {
        self.sink.recover(mdt, topics).await
    }

    async fn read_at(&self, topic: &Topic, at: &[Position]) -> Result<Vec<Option<Stored>>, SinkError> {
        self.sink.read_at(topic, at).await
    }

    async fn read_back(
        &self,
        topic: &Topic,
        _incarnation: u32,
        _above: u64,
        each: &mut (dyn FnMut(Stored) + Send),
    ) -> Result<(), SinkError> {
        self.look(topic, each).await;
        Ok(())
    }

    async fn trim(&self, topic: &Topic, below: &[u64], keep: Duration) -> Result<Vec<u64>, SinkError> {
        self.sink.trim(topic, below, keep).await
    }

    async fn publish_schema(&self, fingerprint: [u8; 8], json: &str) -> Result<(), SinkError> {
        self.sink.publish_schema(fingerprint, json).await
    }

    async fn repair(
        &self,
        topic: &Topic,
        group: &str,
        records: &[(RecordId, Vec<u8>, Vec<u8>)],
    ) -> Result<(Topic, Vec<u64>), SinkError> {
        self.sink.repair(topic, group, records).await
    }
}

#[async_trait]
impl Ground for Amqp {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(Audited { sink: self.make(), uri: self.uri.clone() })
    }

    fn observer(&self) -> Box<dyn GroupObserver> {
        Box::new(self.make())
    }

    fn member(&self, group: &str, mdts: MdtSelection) -> Box<dyn Consumer> {
        self.make().consumer(group, &Subscription { mdts, feed: None }).unwrap()
    }

    fn ephemeral(&self, mdts: MdtSelection) -> Box<dyn Consumer> {
        self.make().ephemeral(&Subscription { mdts, feed: None }, true).unwrap()
    }

    fn memory(&self) -> usize {
        32 << 20
    }

    async fn delete(&self, topic: &Topic, recreate: bool) {
        let (connection, channel) = self.channel().await;
        channel.queue_delete(audit_queue(topic).as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        // The list of topics, without this one.
        let queue = format!("{}.topics", self.own());
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut messages = channel.basic_consume(queue.as_str().into(), "".into(), options, none).await.unwrap();
        let held = messages.next().await.unwrap().unwrap();
        let mut list: serde_json::Value = serde_json::from_slice(&held.data).unwrap();
        list["topics"].as_object_mut().unwrap().remove(&topic.name).unwrap();
        channel.confirm_select(Default::default()).await.unwrap();
        let (body, plain) = (serde_json::to_vec(&list).unwrap(), BasicProperties::default().with_delivery_mode(2));
        let written = channel.basic_publish("".into(), queue.as_str().into(), Default::default(), &body, plain);
        written.await.unwrap().await.unwrap();
        held.acker.ack(Default::default()).await.unwrap();
        connection.close(200, "".into()).await.unwrap();
        if recreate {
            let spec = crate::ground::spec(&topic.mdt, topic.feed.as_deref());
            self.make().prepare(&[spec], None).await.unwrap();
        }
    }

    async fn widen(&self, _topic: &Topic) {
        unreachable!("a topic has one partition");
    }

    async fn set_retention(&self, topic: &Topic) -> Option<&'static str> {
        let (_connection, channel) = self.channel().await;
        let queue = audit_queue(topic);
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
        let durable = QueueDeclareOptions::durable();
        channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();
        Some("x-max-length")
    }

    async fn evict(&self, _topic: &Topic, _partition: u32, _below: u64) {
        unreachable!("nothing is kept that could be evicted");
    }

    async fn schema(&self, fingerprint: [u8; 8]) -> Option<String> {
        let key: String = fingerprint.iter().map(|b| format!("{b:02x}")).collect();
        let (_connection, channel) = self.channel().await;
        let queue = format!("{}.schema.{key}", self.own());
        let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.ok()??;
        let text = String::from_utf8(got.data.clone()).unwrap();
        got.acker.nack(BasicNackOptions { multiple: false, requeue: true }).await.unwrap();
        Some(text)
    }

    async fn retraction_headers(&self, topic: &Topic) -> Vec<(Position, String)> {
        let body = r#"{"count":10000,"ackmode":"ack_requeue_true","encoding":"base64"}"#;
        let queue = audit_queue(topic).replace(':', "%3A");
        let url = format!("{}/api/queues/%2f/{queue}/get", variable("AMQP_MANAGEMENT"));
        let said = Command::new("curl").args(["-sS", "-f", "-X", "POST", "-d", body, &url]).output().unwrap();
        assert!(said.status.success(), "curl: {}", String::from_utf8_lossy(&said.stderr));
        let messages: Vec<serde_json::Value> = serde_json::from_slice(&said.stdout).unwrap();
        let headed = messages.iter().filter_map(|m| {
            let header = m["properties"]["headers"][RETRACTS_HEADER].as_str()?;
            Some((position(m["properties"]["message_id"].as_str().unwrap()), header.to_owned()))
        });
        headed.collect()
    }

    fn stall(&self) {
        Self::up("stop");
    }

    fn go_on(&self) {
        Self::up("cont");
    }

    fn kill_and_restart(&self) {
        // RabbitMQ writes the name of a new quorum queue down some seconds later (docs/brokers/amqp.md, "Limits"): one
        // that is younger when the broker dies is lost with all that it held, and never answers again.
        std::thread::sleep(QUEUE_IS_KNOWN);
        Self::up("kill9");
        Self::up("restart");
    }
}
