//! What only RabbitMQ has: answers, groups that cannot answer, packed records, shards, alarms, and queues that others
//! meddle with.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use clbridge_schemas::ids::{Digest, MdtName};
use clbridge_sinks::amqp::{AmqpConfig, AmqpSink};
use clbridge_sinks::{
    Broker as _, Consumer, GroupObserver as _, Mark, MdtSelection, Message, Position, Publisher, Refused, Retraction,
    Sink as _, SinkError, StartAt, State, Subscription, Topic,
};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::amqp::Amqp;
use crate::ground::{
    HANG, Seen, alone, counts, heads, id, id_in, index_of, message, new_group, new_mdt, payload, retry, shared, spec,
    take, variable, wait_for,
};

/// A published MDT and the sink that publishes it.
struct Own {
    sink: AmqpSink,
    config: AmqpConfig,
    mdt: MdtName,
    topic: Topic,
    publisher: Box<dyn Publisher>,
    state: State,
}

async fn own(config: AmqpConfig, groups: &[&str]) -> Own {
    start(config, new_mdt(), groups).await
}

async fn start(config: AmqpConfig, mdt: MdtName, groups: &[&str]) -> Own {
    let sink = AmqpSink::new(config.clone()).unwrap();
    let topic = sink.prepare(&[spec(&mdt, None)], None).await.unwrap().remove(0);
    for group in groups {
        sink.register(group, &topic, StartAt::Newest).await.unwrap();
    }
    let recovered = sink.recover(&mdt, std::slice::from_ref(&topic)).await.unwrap();
    let state = recovered.state.unwrap_or_else(|| State::first(mdt.clone(), "own".to_owned()));
    Own { sink, config, mdt, topic, publisher: recovered.publisher, state }
}

impl Own {
    fn publish(&mut self, ids: impl IntoIterator<Item = clbridge_schemas::ids::RecordId>, seen: &mut Seen) {
        for id in ids {
            let payload = payload(&self.mdt, id);
            let key = format!("[0x200000402:0x{:x}:0x0]", id.index.get() % 97);
            let m = Message { key: Some(key.as_bytes()), ..message(&self.topic, id, &payload) };
            retry(&mut *self.publisher, seen, |p| p.publish(&m));
        }
    }

    fn seal(&mut self, at: clbridge_schemas::ids::RecordId, seen: &mut Seen) {
        retry(&mut *self.publisher, seen, |p| p.seal(Some(at), None));
        wait_for(&mut *self.publisher, seen, |s| s.frontier == Some(at));
        self.state.number += 1;
        self.state.frontier = Some(Mark { id: at, digest: Digest(1) });
        retry(&mut *self.publisher, seen, |p| p.store(&self.state));
        wait_for(&mut *self.publisher, seen, |s| s.state == Some(self.state.number));
    }

    fn write(&mut self, range: std::ops::RangeInclusive<u64>) {
        let (mut seen, end) = (Seen::default(), *range.end());
        self.publish(range.map(id), &mut seen);
        self.seal(id(end), &mut seen);
    }

    async fn floor(&self, group: &str) -> u64 {
        let of = |p: clbridge_sinks::Progress| p.topics[&self.topic.name].groups[group][0].unwrap();
        of(self.sink.progress(&[group.to_owned()], std::slice::from_ref(&self.topic)).await.unwrap())
    }

    /// Waits until a group has everything before this record.
    async fn reaches(&self, group: &str, next: clbridge_schemas::ids::RecordId, retraction: bool) {
        let wanted = Position::of_identity(0, next, retraction).unwrap().offset;
        let began = Instant::now();
        // (behind record N is the place of a retraction before record N + 1)
        while self.floor(group).await | 1 < wanted | 1 {
            assert!(began.elapsed() < HANG, "{} of {wanted}", self.floor(group).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn member(&self, group: &str) -> Box<dyn Consumer> {
        let what = Subscription { mdts: MdtSelection::List(vec![self.mdt.clone()]), feed: None };
        self.sink.consumer(group, &what).unwrap()
    }

    fn queue(&self, group: &str) -> String {
        format!("{}:{group}", self.topic.name)
    }
}

/// A client of the test's own.
struct Client {
    _connection: Connection,
    channel: Channel,
    answers: String,
}

impl Client {
    async fn new(config: &AmqpConfig) -> Self {
        let connection = Connection::connect(&config.uri, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { _connection: connection, channel, answers: format!("{}.answers", config.own_prefix) }
    }

    async fn consume(&self, queue: &str) -> lapin::Consumer {
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        self.channel.basic_consume(queue.into(), "".into(), options, none).await.unwrap()
    }

    async fn answer(&self, of: &Delivery, group: &str, name: &str, body: &str) {
        let mut headers = FieldTable::default();
        headers.insert("clb-group".into(), AMQPValue::LongString(group.into()));
        let properties = BasicProperties::default().with_correlation_id(name.into()).with_headers(headers);
        let key = of.properties.reply_to().clone().unwrap();
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let sent = self.channel.basic_publish(self.answers.as_str().into(), key, options, body.as_bytes(), properties);
        assert!(matches!(sent.await.unwrap().await.unwrap(), lapin::Confirmation::Ack(None)));
    }
}

async fn until_ignored(own: &Own, wanted: [u64; 3]) {
    let began = Instant::now();
    while own.sink.ignored_answers(&own.mdt) != wanted {
        assert!(began.elapsed() < HANG, "{:?}", own.sink.ignored_answers(&own.mdt));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ctl(words: &[&str]) {
    let up = Command::new(variable("CLB_UP")).args(["amqp", "ctl", &variable("AMQP_DIR")]).args(words).status();
    assert!(up.unwrap().success(), "rabbitmqctl {words:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_answers_for_one_for_a_range_and_for_a_list_count_and_others_do_not() {
    let _turn = shared().await;
    let group = new_group("answers");
    let mut own = own(Amqp::new().config(), &[&group]).await;
    own.write(1..=20);
    let client = Client::new(&own.config).await;
    let mut deliveries = client.consume(&own.queue(&group)).await;
    let first = deliveries.next().await.unwrap().unwrap();
    let mdt = own.mdt.clone();
    let name = |rest: &str| format!("{mdt}/all:{rest}");
    // given the first record's own name as it came
    let came = first.properties.correlation_id().clone().unwrap();
    assert_eq!(came.as_str(), name("1:1"));
    // when what does not count is answered: an unknown group, another MDT, nonsense, what was never published
    client.answer(&first, "stranger", &name("1:1"), "").await;
    for wrong in ["other-MDT0000/all:1:1", "x", &name("1:20..21"), &name("7:3")] {
        client.answer(&first, &group, wrong, "").await;
    }
    until_ignored(&own, [1, 4, 0]).await;
    assert_eq!(own.floor(&group).await, 0);
    // and then one record, a range, and a list in a body
    client.answer(&first, &group, came.as_str(), "").await;
    own.reaches(&group, id(2), false).await;
    client.answer(&first, &group, &name("1:2..9"), "").await;
    own.reaches(&group, id(10), false).await;
    client.answer(&first, &group, "", &format!("{}, {}\n{}", name("1:12"), name("1:11"), name("1:10"))).await;
    own.reaches(&group, id(13), false).await;
    // when an MDT crash takes back what was published from 15 on
    let (mut seen, retracts) = (Seen::default(), Some(Retraction { incarnation: 2, from: 15, to: 20 }));
    let mark = payload(&own.mdt, id_in(2, 15));
    let m = Message { retracts, ..message(&own.topic, id_in(2, 15), &mark) };
    retry(&mut *own.publisher, &mut seen, |p| p.publish(&m));
    own.publish((15..=18).map(|i| id_in(2, i)), &mut seen);
    own.seal(id_in(2, 18), &mut seen);
    // then what stands still counts, what was taken back no longer, and the retraction wants an answer of its own
    client.answer(&first, &group, "", &format!("{} {}", name("1:13..20"), name("2:15..18"))).await;
    own.reaches(&group, id_in(2, 15), true).await;
    client.answer(&first, &group, &name("1:16"), "").await;
    until_ignored(&own, [1, 4, 1]).await;
    assert_eq!(own.floor(&group).await, Position::of_identity(0, id_in(2, 15), true).unwrap().offset);
    client.answer(&first, &group, &name("2:15:r0"), "").await;
    own.reaches(&group, id_in(2, 19), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_what_a_start_finds_of_answers_is_what_the_last_state_told() {
    let _turn = shared().await;
    let group = new_group("kept");
    let mut first = own(Amqp::new().config(), &[&group]).await;
    first.write(1..=50);
    let mut member = first.member(&group);
    take(&mut *member, true, |all| counts(all).len() >= 30).await;
    first.reaches(&group, id(31), false).await;
    let (config, mdt) = (first.config.clone(), first.mdt.clone());
    drop(first);
    // when another process starts, then it knows, and what was answered meanwhile comes to it
    let second = start(config, mdt, &[]).await;
    second.reaches(&group, id(31), false).await;
    take(&mut *member, true, |all| counts(all).contains_key(&50)).await;
    second.reaches(&group, id(51), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_record_that_is_acknowledged_without_an_answer_holds_its_group() {
    let _turn = shared().await;
    let group = new_group("silent");
    let mut own = own(Amqp::new().config(), &[&group]).await;
    own.write(1..=10);
    let client = Client::new(&own.config).await;
    let mut deliveries = client.consume(&own.queue(&group)).await;
    for n in 1..=10 {
        let d = deliveries.next().await.unwrap().unwrap();
        if n != 4 {
            client.answer(&d, &group, d.properties.correlation_id().as_ref().unwrap().as_str(), "").await;
        }
        d.acker.ack(BasicAckOptions::default()).await.unwrap();
    }
    // the queue is empty, and the group stands before the record that nobody answered
    own.reaches(&group, id(4), false).await;
    own.write(11..=12);
    assert_eq!(own.floor(&group).await | 1, Position::of_identity(0, id(4), false).unwrap().offset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_group_that_cannot_answer_acknowledges_by_the_confirm_of_its_queue() {
    let _turn = shared().await;
    let (group, other) = (new_group("dumb"), new_group("speaks"));
    let config = AmqpConfig { confirm_groups: vec![group.clone()], ..Amqp::new().config() };
    // alone, and beside one that answers
    for groups in [&[group.as_str()][..], &[&group, &other]] {
        let mut own = own(config.clone(), groups).await;
        own.write(1..=100);
        own.reaches(&group, id(101), false).await;
        let client = Client::new(&own.config).await;
        let mut deliveries = client.consume(&own.queue(&group)).await;
        for n in 1..=100 {
            let d = deliveries.next().await.unwrap().unwrap();
            let name = format!("{}/all:1:{n}", own.mdt);
            assert_eq!(d.properties.message_id().as_ref().unwrap().as_str(), name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_packed_records_come_one_by_one_and_are_answered_together() {
    let _turn = shared().await;
    let group = new_group("packed");
    let config = AmqpConfig { records_per_message: 100, ..Amqp::new().config() };
    let mut own = own(config, &[&group]).await;
    own.write(1..=1030);
    let mut member = own.member(&group);
    // a message of which a part is done is not answered
    let part = member.next(150, Duration::from_secs(10)).await.unwrap();
    assert_eq!(heads(&part).iter().map(|(_, s)| index_of(s)).collect::<Vec<_>>(), (1..=150).collect::<Vec<_>>());
    member.done(&part).await.unwrap();
    own.reaches(&group, id(101), false).await;
    assert_eq!(own.floor(&group).await | 1, Position::of_identity(0, id(101), false).unwrap().offset);
    let rest = take(&mut *member, true, |all| counts(all).contains_key(&1030)).await;
    assert_eq!(counts(&rest).into_keys().collect::<Vec<_>>(), (151..=1030).collect::<Vec<_>>());
    own.reaches(&group, id(1031), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_shards_keep_the_order_of_a_key_when_a_member_dies() {
    let _turn = shared().await;
    let group = new_group("sharded");
    let config = AmqpConfig { shards: [(group.clone(), 4)].into(), ..Amqp::new().config() };
    let mut own = own(config, &[&group]).await;
    own.write(1..=2000);
    let (mut first, mut second) = (own.member(&group), own.member(&group));
    let mut last: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut note = |batch: &clbridge_sinks::Batch| {
        for (r, (_, s)) in batch.records.iter().zip(heads(batch)) {
            // what was not answered comes again, in order
            if seen.insert(index_of(&s)) {
                let before = last.insert(r.key.clone().unwrap(), index_of(&s));
                assert!(before.is_none_or(|b| b < index_of(&s)), "{before:?} before {}", index_of(&s));
            }
        }
        seen.len()
    };
    // given two members of which the first dies with records that it has not answered
    let mut count = 0;
    while count < 600 {
        let batch = first.next(50, Duration::from_millis(500)).await.unwrap();
        count = note(&batch);
        first.done(&batch).await.unwrap();
        let batch = second.next(50, Duration::from_millis(50)).await.unwrap();
        count = note(&batch).max(count);
        second.done(&batch).await.unwrap();
    }
    note(&first.next(50, Duration::from_millis(500)).await.unwrap());
    drop(first);
    // then the other one takes over, and each key's records are seen in order
    let began = Instant::now();
    while count < 2000 {
        let batch = second.next(100, Duration::from_millis(500)).await.unwrap();
        count = note(&batch);
        second.done(&batch).await.unwrap();
        assert!(began.elapsed() < HANG, "{count} records came");
    }
    own.reaches(&group, id(2001), false).await;
}

/// Publishes until the publisher says that it is dead; nothing behind `durable` may have been reported.
fn dies(own: &mut Own, mut next: u64) -> (SinkError, Seen) {
    let (mut seen, began) = (Seen::default(), Instant::now());
    loop {
        let payload = payload(&own.mdt, id(next));
        match own.publisher.publish(&message(&own.topic, id(next), &payload)) {
            Ok(()) => next += 1,
            Err(Refused::Full) => {}
            Err(Refused::Dead(e)) => return (e, seen),
        }
        if let Err(e) = own.publisher.poll(Duration::from_millis(1), &mut |d| seen.note(d)) {
            return (e, seen);
        }
        assert!(began.elapsed() < HANG, "it lives");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_record_that_no_queue_takes_ends_the_publisher_and_the_next_start_mends_the_binding() {
    let _turn = shared().await;
    let group = new_group("unbound");
    let mut own = own(Amqp::new().config(), &[&group]).await;
    own.write(1..=10);
    let client = Client::new(&own.config).await;
    let unbind = client.channel.queue_unbind(
        own.queue(&group).into(),
        own.config.prefix.as_str().into(),
        format!("{}.*", own.mdt).into(),
        FieldTable::default(),
    );
    unbind.await.unwrap();
    let (told, seen) = dies(&mut own, 11);
    assert!(told.to_string().contains("NO_ROUTE") && told.to_string().contains(own.mdt.as_str()), "{told}");
    assert!(seen.places.is_empty(), "{:?}", seen.places);
    let (config, mdt) = (own.config.clone(), own.mdt.clone());
    drop(own);
    let mut again = start(config, mdt, &[]).await;
    again.write(11..=20);
    let mut member = again.member(&group);
    let all = take(&mut *member, true, |all| counts(all).len() >= 20).await;
    assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_an_exchange_that_was_deleted_ends_the_publisher_and_is_told_at_the_next_start() {
    let _turn = shared().await;
    let mut own = own(Amqp::new().config(), &["any"]).await;
    own.write(1..=10);
    let client = Client::new(&own.config).await;
    client.channel.exchange_delete(own.config.prefix.as_str().into(), Default::default()).await.unwrap();
    let (told, seen) = dies(&mut own, 11);
    assert!(matches!(told, SinkError::Unavailable { .. }), "{told}");
    assert!(seen.places.is_empty());
    let pin = clbridge_sinks::TopicState { name: own.topic.name.clone(), id: own.topic.id.clone(), partitions: 1 };
    own.state.topics = [(String::new(), pin)].into();
    let told = own.sink.prepare(&[spec(&own.mdt, None)], Some(&own.state)).await.unwrap_err().to_string();
    assert!(told.contains(&own.topic.name) && told.contains("deleted"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_queue_that_refuses_ends_the_publisher() {
    let _turn = shared().await;
    let group = new_group("full");
    let mut own = own(Amqp::new().config(), &[&group]).await;
    own.write(1..=10);
    let (name, pattern) = (own.config.prefix.clone(), format!("^{}$", own.queue(&group)));
    let limits = r#"{"max-length":12,"overflow":"reject-publish"}"#;
    ctl(&["set_policy", &name, &pattern, limits, "--apply-to", "queues"]);
    let (told, seen) = dies(&mut own, 11);
    ctl(&["clear_policy", &name]);
    assert!(told.to_string().contains("nack"), "{told}");
    assert!(seen.places.len() < 10, "{:?}", seen.places);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_while_the_broker_blocks_nothing_is_lost_and_all_goes_on_by_itself() {
    let _turn = alone().await;
    let group = new_group("blocked");
    let mut own = own(Amqp::new().config(), &[&group]).await;
    own.write(1..=10);
    ctl(&["set_vm_memory_high_watermark", "0.000001"]);
    // given a window that is full
    let (mut seen, mut next, mut refusals) = (Seen::default(), 11, 0);
    while refusals < 20 {
        let record = payload(&own.mdt, id(next));
        match own.publisher.publish(&message(&own.topic, id(next), &record)) {
            Ok(()) => next += 1,
            Err(Refused::Full) => {
                refusals += 1;
                own.publisher.poll(Duration::from_millis(10), &mut |d| seen.note(d)).unwrap();
            }
            Err(Refused::Dead(e)) => panic!("{e}"),
        }
    }
    // when the alarm ends, then everything arrives
    ctl(&["set_vm_memory_high_watermark", "0.8"]);
    own.seal(id(next - 1), &mut seen);
    let mut member = own.member(&group);
    let all = take(&mut *member, true, |all| counts(all).len() as u64 >= next - 1).await;
    assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (1..next).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_without_a_group_nothing_is_published_and_the_first_one_misses_nothing() {
    let _turn = shared().await;
    let group = new_group("first");
    let mut own = own(Amqp::new().config(), &[]).await;
    let record = payload(&own.mdt, id(1));
    assert!(matches!(own.publisher.publish(&message(&own.topic, id(1), &record)), Err(Refused::Full)));
    // another process registers it
    let other = AmqpSink::new(own.config.clone()).unwrap();
    assert_eq!(other.register(&group, &own.topic, StartAt::Newest).await.unwrap(), [Some(0)]);
    own.write(1..=10);
    let mut member = own.member(&group);
    take(&mut *member, true, |all| counts(all).len() >= 10).await;
    own.reaches(&group, id(11), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_tls_virtual_hosts_and_a_login_by_certificate_work_and_wrong_ones_are_told() {
    let _turn = alone().await;
    let folder = std::path::PathBuf::from(variable("CLB_RUN_DIR")).join(new_group("amqp-tls"));
    let up = |words: &[&str]| {
        let told = Command::new(variable("CLB_UP")).arg("amqp").args(words).output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8(told.stdout).unwrap()
    };
    let at = folder.to_str().unwrap();
    let told = up(&["start", at, "--tls"]);
    let known: BTreeMap<&str, &str> = told.lines().filter_map(|l| l.split_once('=')).collect();
    up(&["ctl", at, "add_vhost", "site"]);
    up(&["ctl", at, "set_permissions", "-p", "site", known["AMQP_USER"], ".*", ".*", ".*"]);
    let place = known["AMQP_TLS_URL"].split('@').nth(1).unwrap().replace("%2f", "site");
    let base = Amqp::new().config();
    let tls = |uri: String| AmqpConfig { uri, ca_file: Some(known["AMQP_CA"].to_owned()), ..base.clone() };
    let password = folder.join("password");
    std::fs::write(&password, format!("{}\n", known["AMQP_PASSWORD"])).unwrap();
    let by_password = AmqpConfig {
        password_file: Some(password.to_str().unwrap().to_owned()),
        ..tls(format!("amqps://{}@{place}", known["AMQP_USER"]))
    };
    let by_certificate = AmqpConfig {
        cert_file: Some(known["AMQP_CERTIFICATE"].to_owned()),
        key_file: Some(known["AMQP_KEY"].to_owned()),
        external: true,
        ..tls(format!("amqps://{place}"))
    };
    for (n, config) in [by_password.clone(), by_certificate].into_iter().enumerate() {
        let mut own = own(AmqpConfig { prefix: format!("{}-{n}", config.prefix), ..config }, &["g"]).await;
        own.write(1..=10);
        take(&mut *own.member("g"), true, |all| counts(all).len() >= 10).await;
    }
    // a wrong authority, a wrong password, and a virtual host without rights
    let other = AmqpConfig { ca_file: Some(known["AMQP_WRONG_CA"].to_owned()), ..by_password.clone() };
    let told = AmqpSink::new(other).unwrap().registry().await.unwrap_err();
    assert!(matches!(told, SinkError::Unavailable { .. }), "{told}");
    std::fs::write(&password, "wrong").unwrap();
    let told = AmqpSink::new(by_password).unwrap().registry().await.unwrap_err();
    assert!(matches!(told, SinkError::Unauthorised { .. }), "{told}");
    up(&["down", at]);
}
