//! Records that were acknowledged without an answer: what is said of their group, and how an operator ends it.

use std::time::{Duration, Instant};

use clbridge_sinks::amqp::AmqpSink;
use clbridge_sinks::{GroupObserver as _, GroupSpec, Policy, Registry, StartAt};
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, QueueDeleteOptions};

use crate::amqp::Amqp;
use crate::amqp_scene::{Client, Own, own};
use crate::ground::{HANG, On, counts, id, new_group, take};

/// Waits until it is said, or not said, that nothing is left that the group could answer.
async fn until_drained(own: &Own, group: &str, wanted: bool) {
    let began = Instant::now();
    loop {
        let progress = own.sink.progress(&[group.to_owned()], std::slice::from_ref(&own.topic)).await.unwrap();
        if progress.topics[&own.topic.name].drained.contains(group) == wanted {
            return;
        }
        assert!(began.elapsed() < HANG, "never {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `clbridge groups add` or `remove`, by another process.
async fn registered(own: &Own, group: &str, there: bool) {
    let spec = GroupSpec {
        name: group.to_owned(),
        mdts: Default::default(),
        feed: None,
        from: StartAt::Newest,
        policy: Policy::Hold,
        accept: 0,
        repair: 0,
        by_pattern: false,
    };
    let mut change = |registry: &mut Registry| {
        registry.groups.remove(group);
        registry.groups.extend(there.then(|| (group.to_owned(), spec.clone())));
    };
    AmqpSink::new(own.config.clone()).unwrap().change_registry(&mut change).await.unwrap();
}

/// Ten records, of which the group answers all but the fourth and acknowledges all; nobody reads its queue any more.
async fn one_never_answered(group: &str) -> Own {
    let mut own = own(Amqp::new().config(), &[group]).await;
    registered(&own, group, true).await;
    own.write(1..=10);
    let client = Client::new(&own.config).await;
    let mut deliveries = client.consume(&own.queue(group)).await;
    for n in 1..=10 {
        let d = deliveries.next().await.unwrap().unwrap();
        if n != 4 {
            client.answer(&d, group, d.properties.correlation_id().as_ref().unwrap().as_str(), "").await;
        }
        d.acker.ack(BasicAckOptions::default()).await.unwrap();
    }
    own.reaches(group, id(4), false).await;
    // while somebody reads, nobody can tell what he has in his hands
    let topics = std::slice::from_ref(&own.topic);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let progress = own.sink.progress(&[group.to_owned()], topics).await.unwrap();
        assert!(progress.topics[&own.topic.name].drained.is_empty());
    }
    client.connection.close(200, "".into()).await.unwrap();
    own
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_group_that_has_nothing_left_to_answer_is_told_and_begins_anew_when_it_is_removed_with_its_queue() {
    let _turn = On::Amqp.shared().await;
    // whether the bridge lives on meanwhile, or is started again between the removal and the addition
    for restarted in [false, true] {
        let group = new_group("drained");
        let mut own = one_never_answered(&group).await;
        until_drained(&own, &group, true).await;
        // removed and added again with its queue it is where it was
        for there in [false, true] {
            registered(&own, &group, there).await;
        }
        let before = own.floor(&group).await;
        let other = AmqpSink::new(own.config.clone()).unwrap();
        assert_eq!(other.register(&group, &own.topic, StartAt::Newest).await.unwrap(), [Some(before)]);
        // without its queue it begins behind the newest record
        registered(&own, &group, false).await;
        let client = Client::new(&own.config).await;
        let queue = own.queue(&group);
        client.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        if restarted {
            own = own.again().await;
        }
        registered(&own, &group, true).await;
        let first = other.register(&group, &own.topic, StartAt::Newest).await.unwrap();
        assert!(first[0] > Some(before), "{first:?} is not behind {before}");
        own.reaches(&group, id(11), false).await;
        until_drained(&own, &group, false).await;
        // and it takes what comes, also after the next start
        own.write(11..=20);
        let mut own = own.again().await;
        own.write(21..=30);
        let all = take(&mut *own.member(&group), true, |all| counts(all).len() >= 20).await;
        assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (11..=30).collect::<Vec<_>>());
        own.reaches(&group, id(31), false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn amqp_a_late_answer_ends_it_too() {
    let _turn = On::Amqp.shared().await;
    let group = new_group("late");
    let own = one_never_answered(&group).await;
    until_drained(&own, &group, true).await;
    let client = Client::new(&own.config).await;
    let key = format!("{}.{}", client.answers, own.mdt);
    client.answer_to(&key, &group, &format!("{}/all:1:4", own.mdt), "").await;
    own.reaches(&group, id(11), false).await;
    until_drained(&own, &group, false).await;
}
