//! What only RabbitMQ has: answers, groups that cannot answer, packed records, shards, and logins.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use clbridge_sinks::amqp::{AmqpConfig, AmqpSink};
use clbridge_sinks::{Batch, GroupObserver as _, Position, Refused, SinkError, StartAt};
use futures_util::StreamExt as _;
use lapin::options::BasicAckOptions;

use crate::amqp::Amqp;
use crate::amqp_scene::{Client, Own, own};
use crate::ground::{
    HANG, On, Seen, counts, heads, id, id_in, index_of, message, new_group, payload, retry, take, variable,
};

async fn until_ignored(own: &Own, wanted: [u64; 3]) {
    let began = Instant::now();
    while own.sink.ignored_answers(&own.mdt) != wanted {
        assert!(began.elapsed() < HANG, "{:?}", own.sink.ignored_answers(&own.mdt));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_answers_for_one_for_a_range_and_for_a_list_count_and_others_do_not() {
    let _turn = On::Amqp.shared().await;
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
    let mut seen = Seen::default();
    own.retract(2, 15, 20, &mut seen);
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
    let _turn = On::Amqp.shared().await;
    let group = new_group("kept");
    let mut first = own(Amqp::new().config(), &[&group]).await;
    first.write(1..=50);
    // given a member that was sent all of them and has done the first thirty
    let mut member = first.member(&group);
    let (mut done, began) = (0, Instant::now());
    while done < 30 {
        let batch = member.next(30 - done, Duration::from_millis(500)).await.unwrap();
        member.done(&batch).await.unwrap();
        done += batch.records.len();
        assert!(began.elapsed() < HANG, "only {done} records came");
    }
    first.reaches(&group, id(31), false).await;
    // when another process starts, then it knows, and what was answered meanwhile comes to it
    let second = first.again().await;
    second.reaches(&group, id(31), false).await;
    take(&mut *member, true, |all| counts(all).len() >= 20).await;
    second.reaches(&group, id(51), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_record_that_is_acknowledged_without_an_answer_holds_its_group() {
    let _turn = On::Amqp.shared().await;
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
    let _turn = On::Amqp.shared().await;
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
    let _turn = On::Amqp.shared().await;
    let group = new_group("packed");
    let config = AmqpConfig { records_per_message: 100, ..Amqp::new().config() };
    let mut own = own(config, &[&group]).await;
    own.write(1..=1030);
    let mut member = own.member(&group);
    // a message of which a part is done is not answered
    let mut part = Batch::default();
    while part.records.len() < 150 {
        let more = member.next(150 - part.records.len(), Duration::from_secs(10)).await.unwrap();
        assert!(!more.records.is_empty(), "{} records came", part.records.len());
        part.records.extend(more.records);
    }
    assert_eq!(heads(&part).iter().map(|(_, s)| index_of(s)).collect::<Vec<_>>(), (1..=150).collect::<Vec<_>>());
    member.done(&part).await.unwrap();
    own.reaches(&group, id(101), false).await;
    assert_eq!(own.floor(&group).await | 1, Position::of_identity(0, id(101), false).unwrap().offset);
    let rest = take(&mut *member, true, |all| counts(all).len() >= 880).await;
    assert_eq!(counts(&rest).into_keys().collect::<Vec<_>>(), (151..=1030).collect::<Vec<_>>());
    own.reaches(&group, id(1031), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_shards_keep_the_order_of_a_key_when_a_member_dies() {
    let _turn = On::Amqp.shared().await;
    let group = new_group("sharded");
    let config = AmqpConfig { shards: [(group.clone(), 4)].into(), ..Amqp::new().config() };
    let mut own = own(config, &[&group]).await;
    own.write(1..=2000);
    let (mut first, mut second) = (own.member(&group), own.member(&group));
    let mut last: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut note = |batch: &Batch| {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_places_rise_also_when_a_batch_is_sealed_with_nothing_on_its_way_and_others_follow_at_once() {
    let _turn = On::Amqp.shared().await;
    let mut own = own(Amqp::new().config(), &["any"]).await;
    let mut seen = Seen::default();
    for batch in 0..20 {
        // given a batch that was durable when it was sealed, and records behind it that are durable before it is looked
        own.publish((10 * batch + 1..=10 * batch + 5).map(id), &mut seen);
        while own.publisher.in_flight().0 > 0 {
            own.publisher.poll(Duration::from_millis(10), &mut |d| seen.note(d)).unwrap();
        }
        retry(&mut *own.publisher, &mut seen, |p| p.seal(Some(id(10 * batch + 5)), None));
        own.publish((10 * batch + 6..=10 * batch + 10).map(id), &mut seen);
        tokio::time::sleep(Duration::from_millis(50)).await;
        own.publisher.poll(Duration::ZERO, &mut |d| seen.note(d)).unwrap();
    }
    own.seal(id(200), &mut seen);
    let places: Vec<_> = seen.places.iter().map(|(_, at, _)| at.offset).collect();
    assert!(places.len() >= 40 && places.windows(2).all(|w| w[0] < w[1]), "{places:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_without_a_group_nothing_is_published_and_the_first_one_misses_nothing() {
    let _turn = On::Amqp.shared().await;
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
    let _turn = On::Amqp.alone().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_request_that_is_given_up_in_the_middle_keeps_nobody_else_waiting() {
    let _turn = On::Amqp.shared().await;
    let (a, b) = (AmqpSink::new(Amqp::new().config()).unwrap(), Amqp::new().config());
    let b = AmqpSink::new(AmqpConfig { own_prefix: a.config().own_prefix.clone(), ..b }).unwrap();
    a.change_registry(&mut |_| ()).await.unwrap();
    for n in 0..60 {
        // given readers on one connection that lives on, each given up a little later than the one before
        let _ = tokio::time::timeout(Duration::from_micros(n * 250), a.registry()).await;
        // then another process reads, since nobody has the message any more
        b.registry().await.unwrap();
    }
}
