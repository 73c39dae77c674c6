//! One MDT on RabbitMQ as its tests see it: its publisher, a client of the test's own, and what an operator does.

use std::process::Command;
use std::time::{Duration, Instant};

use clbridge_schemas::ids::{Digest, MdtName, RecordId};
use clbridge_sinks::amqp::{AmqpConfig, AmqpSink};
use clbridge_sinks::{
    Broker as _, Consumer, GroupObserver as _, Mark, MdtSelection, Message, Position, Publisher, Refused, Retraction,
    Sink as _, SinkError, StartAt, State, Stored, Subscription, Topic,
};
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::ground::{HANG, Seen, id, id_in, message, new_mdt, payload, recovered, retry, spec, variable, wait_for};

/// A published MDT and the sink that publishes it.
pub struct Own {
    pub sink: AmqpSink,
    pub config: AmqpConfig,
    pub mdt: MdtName,
    pub topic: Topic,
    pub publisher: Box<dyn Publisher>,
    pub state: State,
    /// What the start found last in the topic, as State told it.
    pub tail: Option<Stored>,
}

/// A new MDT with these groups.
pub async fn own(config: AmqpConfig, groups: &[&str]) -> Own {
    start(config, new_mdt(), groups).await
}

/// A start of an MDT, by a process that shares nothing with an earlier one.
pub async fn start(config: AmqpConfig, mdt: MdtName, groups: &[&str]) -> Own {
    let sink = AmqpSink::new(config.clone()).unwrap();
    let topic = sink.prepare(&[spec(&mdt, None)], None).await.unwrap().remove(0);
    for group in groups {
        sink.register(group, &topic, StartAt::Newest).await.unwrap();
    }
    let recovered = recovered(&sink, &mdt, std::slice::from_ref(&topic)).await;
    let state = recovered.state.unwrap_or_else(|| State::first(mdt.clone(), "own".to_owned()));
    Own { sink, config, mdt, topic, publisher: recovered.publisher, state, tail: recovered.tails[0][0] }
}

impl Own {
    pub fn publish(&mut self, ids: impl IntoIterator<Item = RecordId>, seen: &mut Seen) {
        for id in ids {
            let payload = payload(&self.mdt, id);
            let key = format!("[0x200000402:0x{:x}:0x0]", id.index.get() % 97);
            let m = Message { key: Some(key.as_bytes()), ..message(&self.topic, id, &payload) };
            retry(&mut *self.publisher, seen, |p| p.publish(&m));
        }
    }

    /// Retracts what incarnation `incarnation - 1` had from `from` to `to`.
    pub fn retract(&mut self, incarnation: u32, from: u64, to: u64, seen: &mut Seen) {
        let at = id_in(incarnation, from);
        let mark = payload(&self.mdt, at);
        let retracts = Some(Retraction { incarnation, from, to });
        let m = Message { retracts, ..message(&self.topic, at, &mark) };
        retry(&mut *self.publisher, seen, |p| p.publish(&m));
    }

    /// As after kill -9: it ends where it stands, and another process starts.
    pub async fn again(self) -> Self {
        let (config, mdt) = (self.config.clone(), self.mdt.clone());
        drop(self);
        start(config, mdt, &[]).await
    }

    pub fn seal(&mut self, at: RecordId, seen: &mut Seen) {
        retry(&mut *self.publisher, seen, |p| p.seal(Some(at), None));
        wait_for(&mut *self.publisher, seen, |s| s.frontier == Some(at));
        self.state.number += 1;
        self.state.frontier = Some(Mark { id: at, digest: Digest(1) });
        retry(&mut *self.publisher, seen, |p| p.store(&self.state));
        wait_for(&mut *self.publisher, seen, |s| s.state == Some(self.state.number));
    }

    pub fn write(&mut self, range: std::ops::RangeInclusive<u64>) {
        let (mut seen, end) = (Seen::default(), *range.end());
        self.publish(range.map(id), &mut seen);
        self.seal(id(end), &mut seen);
    }

    pub async fn floor(&self, group: &str) -> u64 {
        let of = |p: clbridge_sinks::Progress| p.topics[&self.topic.name].groups[group][0].unwrap();
        of(self.sink.progress(&[group.to_owned()], std::slice::from_ref(&self.topic)).await.unwrap())
    }

    /// Waits until a group has everything before this record.
    pub async fn reaches(&self, group: &str, next: RecordId, retraction: bool) {
        let wanted = Position::of_identity(0, next, retraction).unwrap().offset;
        let began = Instant::now();
        // (behind record N is the place of a retraction before record N + 1)
        while self.floor(group).await | 1 < wanted | 1 {
            assert!(began.elapsed() < HANG, "{} of {wanted}", self.floor(group).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn member(&self, group: &str) -> Box<dyn Consumer> {
        let what = Subscription { mdts: MdtSelection::List(vec![self.mdt.clone()]), feed: None };
        self.sink.consumer(group, &what).unwrap()
    }

    pub fn queue(&self, group: &str) -> String {
        format!("{}:{group}", self.topic.name)
    }
}

/// A client of the test's own.
pub struct Client {
    pub connection: Connection,
    pub channel: Channel,
    pub answers: String,
}

impl Client {
    pub async fn new(config: &AmqpConfig) -> Self {
        let connection = Connection::connect(&config.uri, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { connection, channel, answers: format!("{}.answers", config.own_prefix) }
    }

    pub async fn consume(&self, queue: &str) -> lapin::Consumer {
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        self.channel.basic_consume(queue.into(), "".into(), options, none).await.unwrap()
    }

    /// What is published to an exchange with this key from now on.
    pub async fn hear(&self, exchange: &str, key: &str) -> lapin::Consumer {
        let (own, none) = (QueueDeclareOptions { exclusive: true, ..Default::default() }, FieldTable::default);
        let queue = self.channel.queue_declare("".into(), own, none()).await.unwrap();
        let bind = self.channel.queue_bind(
            queue.name().clone(),
            exchange.into(),
            key.into(),
            QueueBindOptions::default(),
            none(),
        );
        bind.await.unwrap();
        self.consume(queue.name().as_str()).await
    }

    /// How many messages of a queue nobody has, and how many read it.
    pub async fn look(&self, queue: &str) -> (u32, u32) {
        let passive = QueueDeclareOptions::durable().passive();
        let queue = self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
        (queue.message_count(), queue.consumer_count())
    }

    /// Answers as a member does that was sent this.
    pub async fn answer(&self, of: &Delivery, group: &str, name: &str, body: &str) {
        self.answer_to(of.properties.reply_to().as_ref().unwrap().as_str(), group, name, body).await;
    }

    pub async fn answer_to(&self, key: &str, group: &str, name: &str, body: &str) {
        let mut headers = FieldTable::default();
        headers.insert("clb-group".into(), AMQPValue::LongString(group.into()));
        let properties = BasicProperties::default().with_correlation_id(name.into()).with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let to = self.answers.as_str().into();
        let sent = self.channel.basic_publish(to, key.into(), options, body.as_bytes(), properties);
        assert!(matches!(sent.await.unwrap().await.unwrap(), lapin::Confirmation::Ack(None)));
    }
}

/// `rabbitmqctl`.
pub fn ctl(words: &[&str]) {
    let up = Command::new(variable("CLB_UP")).args(["amqp", "ctl", &variable("AMQP_DIR")]).args(words).status();
    assert!(up.unwrap().success(), "rabbitmqctl {words:?}");
}

/// Asks the management API; what it says.
fn management(verb: &str, path: &str) -> String {
    let url = format!("{}/api/{path}", variable("AMQP_MANAGEMENT"));
    let said = Command::new("curl").args(["-sS", "-f", "-X", verb, &url]).output().unwrap();
    assert!(said.status.success(), "{verb} {path}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

/// Closes the connection that calls itself so, as an operator does.
pub async fn close_connection(called: &str) {
    let began = Instant::now();
    loop {
        let all: Vec<serde_json::Value> = serde_json::from_str(&management("GET", "connections")).unwrap();
        if let Some(found) = all.iter().find(|c| c["client_properties"]["connection_name"] == called) {
            let name = found["name"].as_str().unwrap().replace(' ', "%20").replace('>', "%3E");
            management("DELETE", &format!("connections/{name}"));
            return;
        }
        assert!(began.elapsed() < HANG, "no connection calls itself {called}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Suspends or resumes the process that is a queue: meanwhile it takes what it is sent and says nothing.
pub fn queue_process(verb: &str, queue: &str) {
    let find = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), \
         {{Name, _}} = amqqueue:get_pid(Q), sys:{verb}(Name)."
    );
    ctl(&["eval", &find]);
}

/// Waits until the publisher says that it is dead: what it says.
pub fn ends(own: &mut Own) -> SinkError {
    let began = Instant::now();
    loop {
        match own.publisher.poll(Duration::from_millis(10), &mut |_| {}) {
            Ok(()) => assert!(began.elapsed() < HANG, "it lives"),
            Err(e) => return e,
        }
    }
}

/// Publishes from `next` on until the publisher says that it is dead: what it says, what it has reported, and the first
/// record that it did not take.
pub fn dies(own: &mut Own, mut next: u64) -> (SinkError, Seen, u64) {
    let (mut seen, began) = (Seen::default(), Instant::now());
    loop {
        let payload = payload(&own.mdt, id(next));
        match own.publisher.publish(&message(&own.topic, id(next), &payload)) {
            Ok(()) => next += 1,
            Err(Refused::Full) => {}
            Err(Refused::Dead(e)) => return (e, seen, next),
        }
        if let Err(e) = own.publisher.poll(Duration::from_millis(1), &mut |d| seen.note(d)) {
            return (e, seen, next);
        }
        assert!(began.elapsed() < HANG, "it lives");
    }
}

/// Publishes from `next` on until the publisher takes no more although nothing is on its way; the first record refused.
pub fn fill(own: &mut Own, mut next: u64, seen: &mut Seen) -> u64 {
    let began = Instant::now();
    loop {
        let payload = payload(&own.mdt, id(next));
        match own.publisher.publish(&message(&own.topic, id(next), &payload)) {
            Ok(()) => next += 1,
            Err(Refused::Full) if own.publisher.in_flight().0 == 0 => return next,
            Err(Refused::Full) => own.publisher.poll(Duration::from_millis(10), &mut |d| seen.note(d)).unwrap(),
            Err(Refused::Dead(e)) => panic!("{e}"),
        }
        assert!(began.elapsed() < HANG, "full with {:?} on their way", own.publisher.in_flight());
    }
}
