//! Publishing, sealing, reading back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clbridge_schemas::avro::{Encoder, Framing, Retraction as MarkOf, Retracts, SchemaVersion};
use clbridge_schemas::lustre::{RecordType, Time};
use clbridge_sinks::{Message, Position, Retraction, StartAt, TopicIx};

use crate::ground::{
    Ground, HANG, Mdt, Seen, does_not_apply, id, id_in, index_of, indexes, new_group, new_mdt, partition, payload,
    publish_one, read_all, retry, wait_for,
};

pub async fn what_is_published_and_sealed_is_durable_in_order(g: &dyn Ground) {
    // given a publisher that has sealed several batches
    let mut mdt = Mdt::new(g).await;
    for batch in 0..5 {
        let seen = mdt.write(batch * 2000 + 1..=batch * 2000 + 2000);
        assert_eq!(mdt.publisher.in_flight(), (0, 0), "{seen:?}");
    }
    // when everything is read, then each record is there once and in order
    let all = mdt.read_all().await;
    assert_eq!(indexes(&all), (1..=10_000).collect::<Vec<_>>());
    for (p, records) in all.iter().enumerate() {
        assert!(records.iter().all(|s| partition(mdt.topic(), index_of(s)) as usize == p));
    }
}

pub async fn every_durable_place_holds_the_record_that_was_reported_there(g: &dyn Ground) {
    // given a batch that is larger than the distance between reported places
    let mut mdt = Mdt::new(g).await;
    mdt.write(1..=10);
    let seen = mdt.write(11..=3000);
    // then the first and the last record of each partition are reported, in order
    let mut by_partition: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    for (_, at, id) in &seen.places {
        by_partition.entry(at.partition).or_default().push((at.offset, id.index.get()));
    }
    for p in 0..mdt.topic().partitions {
        let of_p: Vec<u64> = (11..=3000).filter(|i| partition(mdt.topic(), *i) == p).collect();
        let places = &by_partition[&p];
        assert!(places.windows(2).all(|w| w[0] < w[1]), "{places:?}");
        assert_eq!(places.first().map(|x| x.1), of_p.first().copied());
        assert_eq!(places.last().map(|x| x.1), of_p.last().copied());
        assert!(places.len() > 3, "a backlog needs places in between: {places:?}");
    }
    // and what lies there is what was said
    let at: Vec<Position> = seen.places.iter().map(|p| p.1).collect();
    let stored = mdt.sink.read_at(mdt.topic(), &at).await.unwrap();
    for ((_, at, id), stored) in seen.places.iter().zip(stored) {
        let stored = stored.unwrap();
        assert_eq!((stored.at, index_of(&stored)), (*at, id.index.get()));
    }
}

pub async fn a_seal_without_messages_makes_dropped_records_count(g: &dyn Ground) {
    // given records of which all were dropped by a module
    let mut mdt = Mdt::new(g).await;
    mdt.write(1..=10);
    let mut seen = Seen::default();
    // when the batch is sealed without State, then its frontier is durable
    retry(&mut *mdt.publisher, &mut seen, |p| p.seal(Some(id(20)), None));
    wait_for(&mut *mdt.publisher, &mut seen, |s| s.frontier == Some(id(20)));
    // and publishing and State go on behind it
    let record = payload(&mdt.name, id(21));
    publish_one(&mut *mdt.publisher, &mdt.topics[0], id(21), &record, &mut seen);
    mdt.seal(30, &mut seen);
    let (recovered, _) = mdt.crash(g).await;
    assert_eq!(recovered.state.unwrap().frontier.unwrap().id, id(30));
}

pub async fn state_becomes_durable_with_its_batch_or_not_at_all(g: &dyn Ground) {
    let atomic = g.sink().capabilities().atomic_state;
    let name = new_mdt();
    let mut from = 1;
    for round in 0..8u64 {
        // given a publisher that crashes somewhere between seal and durable
        let mut mdt = Mdt::named(g, name.clone(), &[None]).await;
        let mut seen = Seen::default();
        mdt.publish(from..=from + 1999, &mut seen);
        mdt.state.number += 1;
        mdt.state.frontier =
            Some(clbridge_sinks::Mark { id: id(from + 1999), digest: clbridge_schemas::ids::Digest(1) });
        retry(&mut *mdt.publisher, &mut seen, |p| p.seal(Some(id(from + 1999)), atomic.then_some(&mdt.state)));
        if !atomic {
            retry(&mut *mdt.publisher, &mut seen, |p| p.store(&mdt.state));
        }
        for _ in 0..round {
            mdt.publisher.poll(Duration::from_millis(2), &mut |d| seen.note(d)).unwrap();
        }
        let promised = seen.state;
        // when it starts again
        let (recovered, _) = mdt.crash(g).await;
        let tail = recovered.tails[0].iter().flatten().map(index_of).max().unwrap_or(0);
        let frontier = recovered.state.as_ref().and_then(|s| s.frontier).map_or(0, |f| f.id.index.get());
        // then State says exactly what is there, and what was reported is there
        if atomic {
            assert_eq!(frontier, tail, "round {round}");
        }
        let number = recovered.state.map_or(0, |s| s.number);
        assert!(promised.is_none_or(|n| number >= n), "State {promised:?} was durable, {number} is there");
        from = tail.max(frontier) + 1;
    }
}

pub async fn what_was_never_sealed_is_not_reported_durable_and_not_counted_after_a_crash(g: &dyn Ground) {
    // given a sealed batch and, behind it, records that the broker has but that were not sealed
    let mut mdt = Mdt::new(g).await;
    mdt.write(1..=100);
    let mut seen = Seen::default();
    mdt.publish(101..=5000, &mut seen);
    for _ in 0..20 {
        mdt.publisher.poll(Duration::from_millis(10), &mut |d| seen.note(d)).unwrap();
    }
    assert_eq!((seen.frontier, seen.state), (None, None));
    let atomic = mdt.sink.capabilities().atomic_state;
    // when the bridge is killed and starts again
    let (recovered, topics) = mdt.crash(g).await;
    let there = indexes(&read_all(&*g.sink(), &topics[0]).await);
    // then State knows of the sealed batch only
    assert_eq!(recovered.state.unwrap().frontier.unwrap().id, id(100));
    if atomic {
        // and no reader ever sees the rest
        assert!(seen.places.is_empty());
        assert_eq!(there, (1..=100).collect::<Vec<_>>());
    }
}

pub async fn tails_and_reads_at_positions_are_right_across_holes(g: &dyn Ground) {
    if !g.sink().capabilities().read_back {
        return does_not_apply("nothing can be read back");
    }
    // given records, then many that a crash took back where the broker can do that, twice, then one more batch
    let name = new_mdt();
    let mut first = Mdt::named(g, name.clone(), &[None]).await;
    first.write(1..=30);
    let atomic = first.sink.capabilities().atomic_state;
    let mut published_to = 30;
    for _ in 0..2 {
        let mut mdt = Mdt::named(g, name.clone(), &[None]).await;
        let mut seen = Seen::default();
        mdt.publish(published_to + 1..=published_to + 5000, &mut seen);
        for _ in 0..20 {
            mdt.publisher.poll(Duration::from_millis(10), &mut |d| seen.note(d)).unwrap();
        }
        let (recovered, topics) = mdt.crash(g).await;
        let all = read_all(&*g.sink(), &topics[0]).await;
        // then each tail is the last record that can be read, however far back it lies
        let last: Vec<_> = all.iter().map(|p| p.last().cloned()).collect();
        assert_eq!(recovered.tails[0], last);
        assert!(recovered.used);
        if !atomic {
            // what comes next must rise
            published_to = all.iter().flatten().map(index_of).max().unwrap();
        }
    }
    let mut mdt = Mdt::named(g, name, &[None]).await;
    mdt.write(published_to + 1..=published_to + 30);
    // and asked at any position the answer is the first record at or behind it
    let all = mdt.read_all().await;
    let end = all.iter().flatten().map(|s| s.at.offset).max().unwrap() + 5;
    let mut asked = Vec::new();
    for p in 0..mdt.topic().partitions {
        asked.extend((0..end).step_by(97).map(|offset| Position { partition: p, offset }));
        let last = all[p as usize].last().unwrap().at.offset;
        asked.extend([last, last + 1, last + 2].map(|offset| Position { partition: p, offset }));
    }
    let answers = mdt.sink.read_at(mdt.topic(), &asked).await.unwrap();
    for (at, answer) in asked.iter().zip(answers) {
        let expected = all[at.partition as usize].iter().find(|s| s.at.offset >= at.offset);
        assert_eq!(answer.as_ref(), expected, "at {at:?}");
    }
}

pub async fn where_nothing_can_be_read_back_a_start_finds_what_state_told_and_positions_tell_identities(
    g: &dyn Ground,
) {
    if g.sink().capabilities().read_back {
        return does_not_apply("what was published can be read back");
    }
    // given records that State tells of, and others behind them
    let mut mdt = Mdt::new(g).await;
    mdt.write(1..=30);
    let mut seen = Seen::default();
    mdt.publish(31..=200, &mut seen);
    retry(&mut *mdt.publisher, &mut seen, |p| p.seal(Some(id(200)), None));
    wait_for(&mut *mdt.publisher, &mut seen, |s| s.frontier == Some(id(200)));
    // when the bridge is killed and starts again
    let (recovered, topics) = mdt.crash(g).await;
    // then the tail is the last record at State's frontier, and the topic was used
    assert_eq!(recovered.state.unwrap().frontier.unwrap().id, id(30));
    assert_eq!(recovered.tails[0][0].unwrap().head.id(), id(30));
    assert!(recovered.used);
    // and a position tells the record that it was made of
    for (_, at, id) in &seen.places {
        let answer = g.sink().read_at(&topics[0], std::slice::from_ref(at)).await.unwrap();
        assert_eq!(answer[0].unwrap().head.id(), *id);
    }
}

pub async fn reading_back_shows_every_record_above_the_asked_one(g: &dyn Ground) {
    if !g.sink().capabilities().read_back {
        return does_not_apply("nothing can be read back");
    }
    // given a log with holes between batches
    let mut mdt = Mdt::new(g).await;
    for batch in 0..20 {
        mdt.write(batch * 500 + 1..=batch * 500 + 500);
    }
    for above in [0, 1, 4999, 9000, 9999, 10_000] {
        // when it is read back from above an index
        let mut shown = vec![Vec::new(); mdt.topic().partitions as usize];
        mdt.sink.read_back(mdt.topic(), 1, above, &mut |s| shown[s.at.partition as usize].push(s)).await.unwrap();
        // then all above it are shown, in order and once
        let above_it: Vec<u64> = indexes(&shown).into_iter().filter(|i| *i > above).collect();
        assert_eq!(above_it, (above + 1..=10_000).collect::<Vec<_>>());
    }
}

pub async fn a_feed_has_a_topic_of_its_own(g: &dyn Ground) {
    // given an MDT with two feeds
    let mut mdt = Mdt::named(g, new_mdt(), &[None, Some("slow")]).await;
    let mut seen = Seen::default();
    for index in 1..=300 {
        let record = payload(&mdt.name, id(index));
        publish_one(&mut *mdt.publisher, &mdt.topics[(index % 2) as usize], id(index), &record, &mut seen);
    }
    mdt.seal(300, &mut seen);
    // then each holds its own records, and places name it
    for (ix, topic) in mdt.topics.iter().enumerate() {
        assert_eq!(topic.ix, TopicIx(ix as u16));
        let there = indexes(&read_all(&*mdt.sink, topic).await);
        assert_eq!(there, (1..=300).filter(|i| i % 2 == ix as u64).collect::<Vec<_>>());
    }
    assert!(seen.places.iter().all(|(topic, _, id)| u64::from(topic.0) == id.index.get() % 2));
    // and a start finds the tails of both
    let (recovered, topics) = mdt.crash(g).await;
    assert_eq!(recovered.tails.len(), topics.len());
    assert!(recovered.tails.iter().flatten().all(Option::is_some));
}

/// What the MDT of the following sentences took back.
const VOID: Retracts = Retracts { incarnation: 1, from: 15, to: 20 };

/// Publishes the retraction of [`VOID`] in every partition, as the bridge does.
fn retract(mdt: &mut Mdt, version: SchemaVersion, seen: &mut Seen) {
    let (topic, id, kind) = (TopicIx(0), id_in(2, VOID.from), RecordType::MARK);
    let mark = MarkOf { at: id, time: Time::from_nanos(7), void: VOID };
    let mut payload = Vec::new();
    Encoder::new(&mdt.name, version, Framing::SingleObject).encode_retraction(&mark, &mut payload);
    let retracts = Some(Retraction { incarnation: 2, from: VOID.from, to: VOID.to });
    for partition in 0..mdt.topics[0].partitions {
        let m = Message { topic, id, partition, kind, time_ns: 7, key: None, payload: &payload, retracts };
        retry(&mut *mdt.publisher, seen, |p| p.publish(&m));
    }
}

pub async fn a_retraction_says_what_is_void_in_every_schema_version(g: &dyn Ground) {
    for version in [SchemaVersion::V4, SchemaVersion::V5] {
        // given records of which an MDT crash took some back
        let mut mdt = Mdt::new(g).await;
        let group = new_group("retracted");
        g.observer().register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
        mdt.write(1..=20);

        // when a retraction in every partition and what stands there now are published in one batch
        let mut seen = Seen::default();
        retract(&mut mdt, version, &mut seen);
        for index in 15..=40 {
            let record = crate::ground::payload(&mdt.name, id_in(2, index));
            publish_one(&mut *mdt.publisher, &mdt.topics[0], id_in(2, index), &record, &mut seen);
        }
        mdt.seal(40, &mut seen);
        assert_eq!(mdt.publisher.in_flight(), (0, 0));

        // then it stands in each partition between the two incarnations, and is never taken for record 15
        let all = mdt.read_all().await;
        let mut places = Vec::new();
        for records in &all {
            let first = records.iter().position(|s| s.head.id().incarnation == 2).unwrap();
            let void_of: Vec<_> = records.iter().map(|s| s.head.retracts).collect();
            assert_eq!(void_of.iter().position(Option::is_some), Some(first), "{version:?}");
            assert_eq!((void_of[first], void_of.iter().flatten().count()), (Some(VOID), 1), "{version:?}");
            places.push(records[first].at);
        }
        let records = all.iter().flatten().filter(|s| s.head.retracts.is_none()).count();
        assert_eq!(records, 20 + 26);
        let at_places = mdt.sink.read_at(mdt.topic(), &places).await.unwrap();
        if mdt.sink.capabilities().read_back {
            assert!(at_places.iter().all(|s| s.unwrap().head.retracts == Some(VOID)));
        } else {
            assert!(at_places.iter().all(|s| s.unwrap().at.identity() == Some((id_in(2, VOID.from), true))));
        }
        // and a consumer and another client are told by the header
        let batch = {
            let mut member = g.member(&group, mdt.only());
            let (mut taken, began) = (Vec::new(), Instant::now());
            while taken.len() < 46 + mdt.topic().partitions as usize {
                taken.extend(member.next(500, Duration::from_millis(500)).await.unwrap().records);
                assert!(began.elapsed() < HANG, "only {} came", taken.len());
            }
            taken
        };
        let mut told: Vec<Position> = batch.iter().filter(|c| c.retracts == Some(VOID)).map(|c| c.at).collect();
        told.sort_unstable();
        assert_eq!(told, places);
        let mut shown = g.retraction_headers(mdt.topic()).await;
        shown.sort_unstable();
        assert_eq!(shown, places.iter().map(|at| (*at, "1:15..20".to_owned())).collect::<Vec<_>>());
    }
}

pub async fn a_start_finds_a_retraction_at_the_end_for_what_it_is(g: &dyn Ground) {
    if !g.sink().capabilities().read_back {
        return does_not_apply("nothing can be read back");
    }
    // given a retraction of schema version 4 as the last message of every partition
    let mut mdt = Mdt::new(g).await;
    mdt.write(1..=20);
    let mut seen = Seen::default();
    retract(&mut mdt, SchemaVersion::V4, &mut seen);
    mdt.seal(20, &mut seen);
    // when the bridge is killed and starts again
    let (recovered, _) = mdt.crash(g).await;
    // then no tail is taken for record 15
    assert!(recovered.tails[0].iter().all(|t| t.unwrap().head.retracts == Some(VOID)), "{:?}", recovered.tails);
}
