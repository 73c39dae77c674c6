//! What JetStream offers to groups beside the contract: order by object over several members, types filtered by the
//! server, ephemeral readers that leave nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clbridge_schemas::lustre::RecordType;
use clbridge_sinks::nats::NatsSink;
use clbridge_sinks::{Broker as _, Consumer, GroupObserver as _, Message, SinkError, StartAt, Subscription, TopicIx};

use crate::ground::{Ground as _, HANG, Mdt, On, Seen, heads, id, index_of, new_group, partition, payload, retry};
use crate::nats::{Nats, is_old};

fn only(mdt: &Mdt) -> Subscription {
    Subscription { mdts: mdt.only(), feed: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_ordered_group_s_members_get_each_partition_in_order_also_when_one_dies() {
    let _turn = On::Nats.shared().await;
    // given a group of which a partition goes to one member at a time
    let g = Nats::new();
    let group = new_group("ordered");
    let ordered =
        NatsSink::new(clbridge_sinks::nats::NatsConfig { ordered_groups: group.clone(), ..g.config() }).unwrap();
    let mut mdt = Mdt::new(&g).await;
    let registered = ordered.register(&group, mdt.topic(), StartAt::Oldest).await;
    if is_old() {
        // (where the server cannot, it is refused, not ignored)
        let Err(SinkError::Mismatch { why, .. }) = registered else { panic!("{registered:?}") };
        assert!(why.contains("2.11"), "{why}");
        return;
    }
    let first = registered.unwrap();
    assert!(first.iter().all(|p| *p == Some(1)), "{first:?}");
    mdt.write(1..=3000);
    // when two members take, and the one that holds some dies
    let mut dying = ordered.consumer(&group, &only(&mdt)).unwrap();
    let began = Instant::now();
    let mut held = Vec::new();
    while held.is_empty() {
        held = heads(&dying.next(50, Duration::from_millis(500)).await.unwrap());
        assert!(began.elapsed() < HANG);
    }
    drop(dying);
    let mut order: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut members: Vec<Box<dyn Consumer>> = (0..2).map(|_| ordered.consumer(&group, &only(&mdt)).unwrap()).collect();
    let mut there = BTreeSet::new();
    while there.len() < 3000 {
        for member in &mut members {
            let batch = member.next(200, Duration::from_millis(200)).await.unwrap();
            for (_, s) in heads(&batch) {
                there.insert(index_of(&s));
                order.entry(s.at.partition).or_default().push(index_of(&s));
            }
            member.done(&batch).await.unwrap();
        }
        assert!(began.elapsed() < HANG, "{} came", there.len());
    }
    // then the others get all of it, and of each partition in order: a record that comes again does so before the next
    for (partition, seen) in &order {
        let mut highest = 0;
        for index in seen {
            assert!(*index <= highest || !seen.iter().any(|later| *later > highest && *later < *index), "{partition}");
            highest = highest.max(*index);
        }
    }
    // and the group has it in every partition
    loop {
        let progress = ordered.progress(std::slice::from_ref(&group), &mdt.topics).await.unwrap();
        let at = progress.topics[&mdt.topic().name].groups[&group].clone();
        if at.iter().all(|p| *p == Some(3001)) {
            break;
        }
        assert!(began.elapsed() < HANG, "{at:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let listed = g.observer().list().await.unwrap();
    assert!(listed.iter().any(|i| i.name == group), "one group, not one a partition");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_gets_the_types_that_it_wants_from_the_server_and_passes_the_others() {
    let _turn = On::Nats.shared().await;
    let g = Nats::new();
    let group = new_group("types");
    let mut config = g.config();
    config.group_types.insert(group.clone(), "UNLNK".to_owned());
    let sink = NatsSink::new(config).unwrap();
    let mut mdt = Mdt::new(&g).await;
    let registered = sink.register(&group, mdt.topic(), StartAt::Oldest).await;
    if is_old() {
        let Err(SinkError::Mismatch { why, .. }) = registered else { panic!("{registered:?}") };
        assert!(why.contains("2.10"), "{why}");
        return;
    }
    registered.unwrap();
    // given records of two types, of which the unwanted ones are the last
    let mut seen = Seen::default();
    for index in 1..=100 {
        let kind = if index % 2 == 1 && index < 90 { RecordType::UNLNK } else { RecordType::CREAT };
        let payload = payload(&mdt.name, id(index));
        let partition = partition(mdt.topic(), index);
        let m = Message {
            topic: TopicIx(0),
            id: id(index),
            partition,
            kind,
            time_ns: 1,
            key: None,
            payload: &payload,
            retracts: None,
        };
        retry(&mut *mdt.publisher, &mut seen, |p| p.publish(&m));
    }
    mdt.seal(100, &mut seen);
    // when its member takes everything
    let mut member = sink.consumer(&group, &only(&mdt)).unwrap();
    let (mut came, began) = (Vec::new(), Instant::now());
    while came.len() < 45 {
        let batch = member.next(100, Duration::from_millis(500)).await.unwrap();
        came.extend(heads(&batch).iter().map(|(_, s)| index_of(s)));
        member.done(&batch).await.unwrap();
        assert!(began.elapsed() < HANG);
    }
    // then it got these only
    assert_eq!(came, (1..90).step_by(2).collect::<Vec<_>>());
    // and, though nothing comes that it could acknowledge, it holds back nothing
    loop {
        let progress = sink.progress(std::slice::from_ref(&group), &mdt.topics).await.unwrap();
        let at = progress.topics[&mdt.topic().name].groups[&group][0].unwrap();
        if at == 101 {
            break;
        }
        assert!((90..=101).contains(&at), "{at}");
        assert!(began.elapsed() < HANG);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_ephemeral_readers_come_and_go_and_leave_nothing_behind() {
    let _turn = On::Nats.shared().await;
    let g = Nats::new();
    let mut mdt = Mdt::new(&g).await;
    mdt.write(1..=100);
    let sink = g.make();
    // given a thousand readers, some of which see something
    for round in 0..20 {
        let mut readers: Vec<_> = (0..50).map(|_| sink.ephemeral(&only(&mdt), true).unwrap()).collect();
        for reader in &mut readers {
            assert!(reader.next(1, Duration::ZERO).await.unwrap().records.is_empty());
        }
        mdt.write(101 + round * 10..=110 + round * 10);
        let began = Instant::now();
        let first = readers.first_mut().unwrap();
        while first.next(100, Duration::from_millis(500)).await.unwrap().records.is_empty() {
            assert!(began.elapsed() < HANG, "a reader sees nothing");
        }
    }
    // when they are gone, then the server forgets all of them
    let began = Instant::now();
    loop {
        let left = g.stream(mdt.topic()).await.cached_info().state.consumer_count;
        if left == 0 {
            break;
        }
        assert!(began.elapsed() < HANG, "{left} are left");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(g.observer().list().await.unwrap().iter().all(|group| !group.name.contains(mdt.name.as_str())));
}
