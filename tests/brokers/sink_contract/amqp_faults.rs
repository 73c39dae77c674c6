//! What happens to the publisher, the members and the broker of RabbitMQ, and what a start finds afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clbridge_schemas::ids::Digest;
use clbridge_schemas::lustre::RecordType;
use clbridge_sinks::amqp::AmqpConfig;
use clbridge_sinks::{Mark, Message, Position, Refused, Sink as _, SinkError, Stored};
use futures_util::StreamExt as _;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};

use crate::amqp::Amqp;
use crate::amqp_scene::{Client, close_connection, ctl, dies, ends, fill, own, queue_process, start};
use crate::ground::{
    HANG, On, Seen, counts, heads, id, id_in, index_of, message, new_group, payload, retry, spec, take,
    unless_unavailable, wait_for,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_record_that_no_queue_takes_ends_the_publisher_and_the_next_start_mends_the_binding() {
    let _turn = On::Amqp.shared().await;
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
    let (told, seen, _) = dies(&mut own, 11);
    assert!(told.to_string().contains("NO_ROUTE") && told.to_string().contains(own.mdt.as_str()), "{told}");
    assert!(seen.places.is_empty(), "{:?}", seen.places);
    let mut again = own.again().await;
    again.write(11..=20);
    let mut member = again.member(&group);
    let all = take(&mut *member, true, |all| counts(all).len() >= 20).await;
    assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_an_exchange_that_was_deleted_ends_the_publisher_and_is_told_at_the_next_start() {
    let _turn = On::Amqp.shared().await;
    let mut own = own(Amqp::new().config(), &["any"]).await;
    own.write(1..=10);
    let client = Client::new(&own.config).await;
    client.channel.exchange_delete(own.config.prefix.as_str().into(), Default::default()).await.unwrap();
    let (told, seen, _) = dies(&mut own, 11);
    assert!(matches!(told, SinkError::Unavailable { .. }), "{told}");
    assert!(seen.places.is_empty());
    let pin = clbridge_sinks::TopicState { name: own.topic.name.clone(), id: own.topic.id.clone(), partitions: 1 };
    own.state.topics = [(String::new(), pin)].into();
    let told = own.sink.prepare(&[spec(&own.mdt, None)], Some(&own.state)).await.unwrap_err().to_string();
    assert!(told.contains(&own.topic.name) && told.contains("deleted"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_queue_that_refuses_ends_the_publisher() {
    let _turn = On::Amqp.shared().await;
    let group = new_group("full");
    let mut own = own(Amqp::new().config(), &[&group]).await;
    own.write(1..=10);
    let (name, pattern) = (own.config.prefix.clone(), format!("^{}$", own.queue(&group)));
    let limits = r#"{"max-length":12,"overflow":"reject-publish"}"#;
    ctl(&["set_policy", &name, &pattern, limits, "--apply-to", "queues"]);
    let (told, seen, _) = dies(&mut own, 11);
    ctl(&["clear_policy", &name]);
    assert!(told.to_string().contains("nack"), "{told}");
    assert!(seen.places.len() < 10, "{:?}", seen.places);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_broker_that_confirms_nothing_is_given_up_and_what_it_was_sent_is_published_again() {
    let _turn = On::Amqp.shared().await;
    let config = AmqpConfig { confirm_timeout_ms: 6_000, ..Amqp::new().config() };
    for of_state in [false, true] {
        // given a queue of records, or that of State, that takes what it is sent and says nothing
        let group = new_group("silent");
        let mut own = own(config.clone(), &[&group]).await;
        own.write(1..=10);
        let silent = if of_state { format!("{}.state.{}", own.config.own_prefix, own.mdt) } else { own.queue(&group) };
        queue_process("suspend", &silent);
        // then its publisher ends within the time that is configured for that, and says why
        let (told, next) = if of_state {
            own.state.number += 1;
            retry(&mut *own.publisher, &mut Seen::default(), |p| p.store(&own.state));
            (ends(&mut own), 11)
        } else {
            let (told, seen, next) = dies(&mut own, 11);
            assert!(seen.places.is_empty(), "{:?}", seen.places);
            (told, next)
        };
        queue_process("resume", &silent);
        assert!(
            matches!(&told, SinkError::Unavailable { why, .. } if why.contains("confirmed nothing for 6 s")),
            "{told}"
        );
        // and the next start publishes it again
        let mut again = own.again().await;
        again.write(11..=next + 10);
        let mut member = again.member(&group);
        let all = take(&mut *member, true, |all| counts(all).len() as u64 >= next + 10).await;
        assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (1..=next + 10).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_one_record_that_no_queue_takes_ends_its_publisher_by_its_name_and_no_other() {
    let _turn = On::Amqp.shared().await;
    let (config, group) = (Amqp::new().config(), new_group("odd"));
    let mut beside = own(config.clone(), &[&group]).await;
    // the first, one in the middle, the last
    for (n, odd) in [11, 267, 610].into_iter().enumerate() {
        // given a queue that takes one type of records only
        let mut own = own(config.clone(), &[&group]).await;
        own.write(1..=10);
        let client = Client::new(&own.config).await;
        let key = |kind: &str| format!("{}.{kind}", own.mdt).into();
        let (queue, exchange) = (own.queue(&group), own.config.prefix.as_str());
        let none = FieldTable::default;
        let bind = client.channel.queue_bind(
            queue.as_str().into(),
            exchange.into(),
            key("CREAT"),
            QueueBindOptions::default(),
            none(),
        );
        bind.await.unwrap();
        client.channel.queue_unbind(queue.as_str().into(), exchange.into(), key("*"), none()).await.unwrap();
        // when one of another type is among many on their way
        let mut told = None;
        for index in 11..=610 {
            let payload = payload(&own.mdt, id(index));
            let kind = if index == odd { RecordType::UNLNK } else { RecordType::CREAT };
            match own.publisher.publish(&Message { kind, ..message(&own.topic, id(index), &payload) }) {
                Ok(()) => {}
                Err(Refused::Full) => panic!("600 records fit into the window"),
                Err(Refused::Dead(e)) => told = Some(e),
            }
        }
        // then the publisher ends and names that one, and reports nothing behind it
        let (mut seen, began) = (Seen::default(), Instant::now());
        let told = loop {
            match told.take().map_or_else(|| own.publisher.poll(Duration::from_millis(50), &mut |d| seen.note(d)), Err)
            {
                Ok(()) => assert!(began.elapsed() < HANG, "it lives"),
                Err(e) => break e.to_string(),
            }
        };
        assert!(told.contains(&format!("message {}/all:1:{odd} was returned (312 NO_ROUTE)", own.mdt)), "{told}");
        assert!(seen.places.iter().all(|(_, _, at)| at.index.get() < odd), "{:?}", seen.places);
        // and another one on the same exchange lives
        let (from, to) = (10 * n as u64 + 1, 10 * n as u64 + 10);
        beside.write(from..=to);
    }
}

/// The broker blocks by one of its alarms, and no longer.
async fn blocked(begin: &[&str], end: &[&str]) {
    let group = new_group("blocked");
    let mut own = own(Amqp::new().config(), &[&group]).await;
    own.write(1..=10);
    ctl(begin);
    // given a window that is full, of which nothing becomes durable
    let (mut seen, mut next, mut silent) = (Seen::default(), 11, 0);
    while silent < 50 {
        let record = payload(&own.mdt, id(next));
        match own.publisher.publish(&message(&own.topic, id(next), &record)) {
            Ok(()) => next += 1,
            Err(Refused::Full) => {
                let mut any = false;
                let mut note = |d| {
                    any = true;
                    seen.note(d);
                };
                own.publisher.poll(Duration::from_millis(10), &mut note).unwrap();
                silent = if any { 0 } else { silent + 1 };
            }
            Err(Refused::Dead(e)) => panic!("{e}"),
        }
    }
    assert!(own.publisher.in_flight().0 > 0);
    // when the alarm ends, then everything arrives
    ctl(end);
    own.seal(id(next - 1), &mut seen);
    let mut member = own.member(&group);
    let all = take(&mut *member, true, |all| counts(all).len() as u64 >= next - 1).await;
    assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (1..next).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_while_the_broker_is_low_on_memory_nothing_is_lost_and_all_goes_on_by_itself() {
    let _turn = On::Amqp.alone().await;
    blocked(&["set_vm_memory_high_watermark", "0.000001"], &["set_vm_memory_high_watermark", "0.8"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_while_the_broker_is_low_on_disk_nothing_is_lost_and_all_goes_on_by_itself() {
    let _turn = On::Amqp.alone().await;
    blocked(&["set_disk_free_limit", "100000GB"], &["set_disk_free_limit", "50MB"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_connection_that_an_operator_closes_ends_the_publisher_and_the_next_start_goes_on() {
    let _turn = On::Amqp.shared().await;
    for purpose in ["records and State", "answers"] {
        let group = new_group("closed");
        let mut own = own(Amqp::new().config(), &[&group]).await;
        own.write(1..=10);
        // when it is closed with records on their way
        let mut seen = Seen::default();
        own.publish((11..=500).map(id), &mut seen);
        close_connection(&format!("{} {}: {purpose}", own.config.instance, own.mdt)).await;
        let (told, later, next) = dies(&mut own, 501);
        println!("{purpose}: {} records accepted, then: {told}", next - 1);
        assert!(matches!(told, SinkError::Unavailable { .. }), "{told}");
        // then the next start goes on behind State
        let mut again = own.again().await;
        assert_eq!(again.state.frontier.unwrap().id, id(10));
        let mut new = Seen::default();
        again.retract(2, 11, next - 1, &mut new);
        again.publish((11..next).map(|i| id_in(2, i)), &mut new);
        again.seal(id_in(2, next - 1), &mut new);
        // and its group has all of it, and what was reported durable before
        let mut member = again.member(&group);
        let all = take(&mut *member, true, |all| all.last().is_some_and(|(_, s)| s.head.id() == id_in(2, next - 1)));
        let came: BTreeSet<_> = all.await.into_iter().map(|(_, s)| s.head.id()).collect();
        let durable = seen.places.iter().chain(&later.places).map(|(_, _, id)| *id);
        let wanted: Vec<_> = (1..=10).map(id).chain(durable).chain((11..next).map(|i| id_in(2, i))).collect();
        assert!(wanted.iter().all(|id| came.contains(id)));
        again.reaches(&group, id_in(2, next), false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_member_goes_on_by_itself_when_an_operator_closes_its_connection() {
    let _turn = On::Amqp.shared().await;
    let group = new_group("cut");
    let mut own = own(Amqp::new().config(), &[&group]).await;
    own.write(1..=300);
    // given a member that has done some records and holds others
    let mut member = own.member(&group);
    let mut came: BTreeSet<u64> = BTreeSet::new();
    while came.len() < 100 {
        let batch = member.next(50, Duration::from_millis(500)).await.unwrap();
        came.extend(heads(&batch).iter().map(|(_, s)| index_of(s)));
        member.done(&batch).await.unwrap();
    }
    let held = member.next(50, Duration::from_secs(10)).await.unwrap();
    assert!(!held.records.is_empty());
    close_connection(&format!("{} member of {group}", own.config.instance)).await;
    // then it gets the rest, what it held among it or done, and its group has all
    unless_unavailable(member.done(&held).await);
    let began = Instant::now();
    let end = Position::of_identity(0, id(301), false).unwrap().offset;
    while own.floor(&group).await | 1 < end | 1 {
        if let Some(batch) = unless_unavailable(member.next(50, Duration::from_millis(500)).await) {
            unless_unavailable(member.done(&batch).await);
        }
        assert!(began.elapsed() < HANG, "{} of {end}", own.floor(&group).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_of_two_states_that_a_dead_writer_left_the_newer_one_counts() {
    let _turn = On::Amqp.shared().await;
    // whether somebody waits for the lease, and gets both, or nobody does, and the broker drops one
    for waiting in [true, false] {
        let mut first = own(Amqp::new().config(), &["any"]).await;
        first.write(1..=10);
        let (config, mdt, mut state) = (first.config.clone(), first.mdt.clone(), first.state.clone());
        drop(first);
        // given a writer that has the lease and dies when its next State is there and the one before not yet let go
        let writer = Client::new(&config).await;
        let queue = format!("{}.state.{mdt}", config.own_prefix);
        let mut lease = writer.consume(&queue).await;
        let held = lease.next().await.unwrap().unwrap();
        let mut envelope: serde_json::Value = serde_json::from_slice(&held.data).unwrap();
        (state.number, state.frontier) = (state.number + 1, Some(Mark { id: id(20), digest: Digest(1) }));
        envelope["state"] = serde_json::to_value(&state).unwrap();
        let (body, key) = (serde_json::to_vec(&envelope).unwrap(), format!("state.{mdt}"));
        let (to, persistent) = (config.own_prefix.as_str().into(), BasicProperties::default().with_delivery_mode(2));
        let sent = writer.channel.basic_publish(to, key.into(), Default::default(), &body, persistent).await.unwrap();
        assert!(matches!(sent.await.unwrap(), Confirmation::Ack(None)));
        assert_eq!(lease.next().await.unwrap().unwrap().data, body);
        let client = Client::new(&config).await;
        let mut claims = client.hear(&config.own_prefix, &format!("control.{mdt}")).await;
        let next = waiting.then(|| tokio::spawn(start(config.clone(), mdt.clone(), &[])));
        // (who claims the lease a second time is in line for it)
        for _ in 0..if waiting { 2 } else { 0 } {
            claims.next().await.unwrap().unwrap();
        }
        writer.connection.close(200, "".into()).await.unwrap();
        // then the next one finds the newer
        let mut second = match next {
            Some(next) => next.await.unwrap(),
            None => start(config, mdt, &[]).await,
        };
        assert_eq!((second.state.number, second.state.frontier), (state.number, state.frontier));
        // and nothing is left of them once it has written its own
        second.write(21..=30);
        let third = second.again().await;
        assert_eq!((third.state.number, third.state.frontier.unwrap().id), (state.number + 1, id(30)));
        drop(third);
        let began = Instant::now();
        while client.look(&queue).await != (1, 0) {
            assert!(began.elapsed() < HANG, "{:?} in {queue}", client.look(&queue).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_retraction_is_never_what_a_start_finds_as_the_last_record() {
    let _turn = On::Amqp.shared().await;
    let mut own = own(Amqp::new().config(), &["any"]).await;
    own.write(1..=10);
    let record = |found: Option<Stored>| found.map(|s| (s.head.id(), s.head.retracts));
    // given a start that publishes its retraction, and nothing else before State tells of it
    let mut own = own.again().await;
    assert_eq!(record(own.tail), Some((id(10), None)));
    let mut seen = Seen::default();
    own.retract(2, 11, 20, &mut seen);
    own.seal(id(10), &mut seen);
    // then the next start finds the record before it
    let mut own = own.again().await;
    assert_eq!(record(own.tail), Some((id(10), None)));
    // and likewise when the records behind the next one were dropped
    own.retract(3, 11, 20, &mut seen);
    own.seal(id_in(3, 15), &mut seen);
    let mut own = own.again().await;
    assert_eq!((own.state.frontier.unwrap().id, record(own.tail)), (id_in(3, 15), Some((id(10), None))));
    // and once a record follows, that one
    own.retract(4, 16, 16, &mut seen);
    own.publish([id_in(4, 16)], &mut seen);
    own.seal(id_in(4, 16), &mut seen);
    assert_eq!(record(own.again().await.tail), Some((id_in(4, 16), None)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_start_repeats_at_most_what_is_configured_whenever_the_publisher_dies() {
    let _turn = On::Amqp.shared().await;
    // given the least bound, and no State
    let config = AmqpConfig { most_repeated: 1000, ..Amqp::new().config() };
    let group = new_group("bounded");
    let mut own = own(config, &[&group]).await;
    let mut seen = Seen::default();
    // then exactly so many records are taken, durable or not, sealed or not
    assert_eq!(fill(&mut own, 1, &mut seen), 1001);
    retry(&mut *own.publisher, &mut seen, |p| p.seal(Some(id(1000)), None));
    wait_for(&mut *own.publisher, &mut seen, |s| s.frontier == Some(id(1000)));
    assert_eq!(fill(&mut own, 1001, &mut seen), 1001);
    // when State tells of them, then as many more are
    own.seal(id(1000), &mut seen);
    assert_eq!(fill(&mut own, 1001, &mut seen), 2001);
    // when State tells of a part, then that part of it is made up for
    own.seal(id(2000), &mut seen);
    own.publish((2001..=2400).map(id), &mut seen);
    retry(&mut *own.publisher, &mut seen, |p| p.seal(Some(id(2400)), None));
    wait_for(&mut *own.publisher, &mut seen, |s| s.frontier == Some(id(2400)));
    assert_eq!(fill(&mut own, 2401, &mut seen), 3001);
    retry(&mut *own.publisher, &mut seen, |p| p.seal(Some(id(3000)), None));
    own.state.number += 1;
    own.state.frontier = Some(Mark { id: id(2400), digest: Digest(1) });
    retry(&mut *own.publisher, &mut seen, |p| p.store(&own.state));
    wait_for(&mut *own.publisher, &mut seen, |s| s.state == Some(own.state.number));
    assert_eq!(fill(&mut own, 3001, &mut seen), 3401);
    // when it dies, then what the next start has to publish again is no more than the bound, and so it goes on
    let mut again = own.again().await;
    assert_eq!(again.state.frontier.unwrap().id, id(2400));
    let mut seen = Seen::default();
    again.retract(2, 2401, 3400, &mut seen);
    again.publish((2401..=3400).map(|i| id_in(2, i)), &mut seen);
    again.seal(id_in(2, 3400), &mut seen);
    again.publish([id_in(2, 3401)], &mut seen);
}
