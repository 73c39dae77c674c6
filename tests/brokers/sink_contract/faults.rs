//! The broker stalls, and the broker dies.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clbridge_sinks::{Refused, SinkError, StartAt, Stored};

use crate::ground::{
    Ground, HANG, Mdt, Seen, does_not_apply, heads, id, index_of, indexes, message, new_group, payload, recovered,
    retry, take, unless_unavailable, wait_for,
};

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

pub async fn full_buffers_refuse_and_lose_nothing_while_the_broker_is_stalled(g: &dyn Ground) {
    if let Some(why) = g.untouchable() {
        return does_not_apply(&why);
    }
    // given a stalled broker
    let mut mdt = Mdt::new(g).await;
    mdt.write(1..=10);
    let record = payload(&mdt.name, id(1)).len() as u64;
    let before = resident();
    g.stall();
    // when far more is offered than the bound allows
    let offered = 10 * g.memory() as u64 / record;
    let (mut taken, mut refusals, mut peak) = (10, 0, before);
    while refusals < 50 && taken < offered {
        let next = id(taken + 1);
        match mdt.publisher.publish(&message(&mdt.topics[0], next, &payload(&mdt.name, next))) {
            Ok(()) => taken += 1,
            Err(Refused::Full) => {
                refusals += 1;
                mdt.publisher.poll(Duration::from_millis(1), &mut |_| ()).unwrap();
                peak = peak.max(resident());
            }
            Err(Refused::Dead(e)) => panic!("{e}"),
        }
    }
    g.go_on();
    // then it is refused, within the bound
    assert_eq!(refusals, 50, "{taken} records of {offered} were taken without a refusal");
    let grown = peak.saturating_sub(before);
    println!("stalled: {taken} records taken, {} MB of {} MB grown", grown >> 20, g.memory() >> 20);
    assert!(grown < g.memory() * 5 / 4, "{grown} bytes grown, {} allowed", g.memory());
    // and everything that was taken arrives, once and in order
    let mut seen = Seen::default();
    mdt.publish(taken + 1..=taken + 1000, &mut seen);
    mdt.seal(taken + 1000, &mut seen);
    assert_eq!(indexes(&mdt.read_all().await), (1..=taken + 1000).collect::<Vec<_>>());
}

/// Publishes a thousand records from `from` on and seals them; the publisher may die over it.
pub fn publish_and_seal(mdt: &mut Mdt, from: u64, atomic: bool, seen: &mut Seen) -> Result<(), SinkError> {
    let mut until_taken = |mdt: &mut Mdt, call: &mut dyn FnMut(&mut Mdt) -> Result<(), Refused>| {
        let began = Instant::now();
        loop {
            match call(mdt) {
                Ok(()) => return Ok(()),
                Err(Refused::Full) => mdt.publisher.poll(Duration::from_millis(10), &mut |d| seen.note(d))?,
                Err(Refused::Dead(e)) => return Err(e),
            }
            assert!(began.elapsed() < HANG, "full for ever");
        }
    };
    for index in from..from + 1000 {
        until_taken(mdt, &mut |m| {
            let payload = payload(&m.name, id(index));
            m.publisher.publish(&message(&m.topics[0], id(index), &payload))
        })?;
    }
    mdt.state.number += 1;
    let frontier = Some(id(from + 999));
    until_taken(mdt, &mut |m| m.publisher.seal(frontier, atomic.then_some(&m.state)))?;
    mdt.publisher.poll(Duration::ZERO, &mut |d| seen.note(d))
}

pub async fn what_was_durable_before_the_broker_was_killed_is_there_afterwards(g: &dyn Ground) {
    if let Some(why) = g.untouchable() {
        return does_not_apply(&why);
    }
    // given a publisher under load whose broker is killed
    let mut mdt = Mdt::new(g).await;
    let mut seen = mdt.write(1..=1000);
    let atomic = mdt.sink.capabilities().atomic_state;
    let mut next = 1001;
    let mut died = None;
    for batch in 0..10u64 {
        if let Err(e) = publish_and_seal(&mut mdt, next, atomic, &mut seen) {
            died = Some(e);
            break;
        }
        next += 1000;
        if batch == 7 {
            println!("broker killed with {:?} in flight", mdt.publisher.in_flight());
            g.kill_and_restart();
        }
    }
    // when it is back, then the publisher goes on by itself or says that it is dead; never is anything in doubt
    let began = Instant::now();
    while seen.frontier != Some(id(next - 1)) && died.is_none() {
        died = mdt.publisher.poll(Duration::from_millis(100), &mut |d| seen.note(d)).err();
        assert!(began.elapsed() < HANG, "neither durable nor dead: {:?}", seen.frontier);
    }
    println!("after the restart: {}", died.map_or("went on".to_owned(), |e| e.to_string()));
    let mdt_reads_back = mdt.sink.capabilities().read_back;
    let (recovered, topics) = mdt.crash(g).await;
    let there = crate::ground::read_all(&*g.sink(), &topics[0]).await;
    let last = |tails: &[Option<Stored>]| tails.iter().flatten().map(index_of).max().unwrap();
    // (where nothing can be read back a start finds what State told, and whoever takes the records the rest)
    let tail = match mdt_reads_back {
        true => last(&recovered.tails[0]),
        false => there.iter().flatten().map(index_of).max().unwrap(),
    };
    // and all that was reported durable is there, at its place
    let durable_to = seen.frontier.unwrap().index.get();
    assert!(tail >= durable_to);
    assert_eq!(indexes(&there), (1..=tail).collect::<Vec<_>>());
    for (_, at, id) in &seen.places {
        let found = there[at.partition as usize].iter().find(|s| s.at == *at).unwrap();
        assert_eq!(found.head.id(), *id);
    }
    // and publishing goes on
    let mut p = recovered.publisher;
    let mut seen = Seen::default();
    retry(&mut *p, &mut seen, |p| p.seal(Some(id(tail)), None));
    wait_for(&mut *p, &mut seen, |s| s.frontier == Some(id(tail)));
}

pub async fn readers_go_on_by_themselves_when_the_broker_was_killed_and_restarted(g: &dyn Ground) {
    if let Some(why) = g.untouchable() {
        return does_not_apply(&why);
    }
    // given a member that has done some records and holds others, and an ephemeral reader
    let mut mdt = Mdt::new(g).await;
    let (group, name) = (new_group("restarted"), mdt.only());
    g.observer().register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
    let (mut member, mut reader) = (g.member(&group, name.clone()), g.ephemeral(name));
    assert!(reader.next(1, Duration::from_millis(300)).await.unwrap().records.is_empty());
    let places = mdt.write(1..=300).places;
    let last =
        |partition| places.iter().filter(|(_, at, _)| at.partition == partition).map(|(_, at, _)| at.offset).max();
    take(&mut *reader, true, |all| all.len() >= 300).await;
    let mut came: BTreeSet<u64> = BTreeSet::new();
    while came.len() < 100 {
        let batch = member.next(50, Duration::from_millis(500)).await.unwrap();
        came.extend(heads(&batch).iter().map(|(_, s)| index_of(s)));
        member.done(&batch).await.unwrap();
    }
    let mut held = member.next(50, Duration::from_millis(500)).await.unwrap();
    while held.records.is_empty() {
        held = member.next(50, Duration::from_millis(500)).await.unwrap();
    }
    came.extend(heads(&held).iter().map(|(_, s)| index_of(s)));
    // when the broker is killed and started again
    g.kill_and_restart();
    // (what is said of the batch in hand may reach it although no answer tells so: then it does not come again)
    unless_unavailable(member.done(&held).await);
    // and a bridge goes on
    let began = Instant::now();
    let (name, topics, sink) = (mdt.name.clone(), mdt.topics.clone(), g.sink());
    drop(mdt);
    let recovered = recovered(&*sink, &name, &topics).await;
    let mut mdt = Mdt { publisher: recovered.publisher, state: recovered.state.unwrap(), name, sink, topics };
    // then the member, asked again as long as the broker cannot answer, gets the rest, and its group has all
    loop {
        if let Some(batch) = unless_unavailable(member.next(500, Duration::from_millis(500)).await) {
            came.extend(heads(&batch).iter().map(|(_, s)| index_of(s)));
            unless_unavailable(member.done(&batch).await);
        }
        mdt.publisher.poll(Duration::from_millis(50), &mut |_| ()).unwrap();
        let progress = g.observer().progress(std::slice::from_ref(&group), &mdt.topics).await;
        if let Some(progress) = unless_unavailable(progress) {
            let positions = &progress.topics[&mdt.topic().name].groups[&group];
            if (0..).zip(positions).all(|(partition, position)| *position > last(partition)) {
                break;
            }
        }
        assert!(began.elapsed() < HANG, "only {} records came", came.len());
    }
    assert_eq!(came.into_iter().collect::<Vec<_>>(), (1..=300).collect::<Vec<_>>());
    // and both readers see what is published afterwards
    while unless_unavailable(reader.next(1, Duration::from_millis(300)).await).is_none() {
        assert!(began.elapsed() < HANG, "the ephemeral reader never went on");
    }
    mdt.write(301..=330);
    for (reader, done) in [(&mut reader, false), (&mut member, true)] {
        // (each partition by itself: the last record may come before others)
        let mut new = BTreeSet::new();
        while new.len() < 30 {
            if let Some(batch) = unless_unavailable(reader.next(500, Duration::from_millis(500)).await) {
                new.extend(heads(&batch).iter().map(|(_, s)| index_of(s)).filter(|index| *index > 300));
                if done {
                    unless_unavailable(reader.done(&batch).await);
                }
            }
            assert!(began.elapsed() < HANG, "only {new:?} came of what was published afterwards");
        }
        assert_eq!(new.into_iter().collect::<Vec<_>>(), (301..=330).collect::<Vec<_>>());
    }
}
