//! The other side: members, ephemeral readers, repairs.

use std::time::{Duration, Instant};

use clbridge_sinks::{MdtSelection, SinkError, StartAt};

use crate::ground::{
    Ground, HANG, Mdt, counts, does_not_apply, heads, id, index_of, new_group, new_mdt, payload, take,
};

pub async fn what_was_not_done_is_delivered_again(g: &dyn Ground) {
    // given a member that has done some records, has taken more, and dies
    let mut mdt = Mdt::new(g).await;
    let group = new_group("redelivered");
    g.observer().register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
    mdt.write(1..=100);
    let mut first = g.member(&group, mdt.only());
    take(&mut *first, true, |all| counts(all).len() >= 100).await;
    mdt.write(101..=200);
    take(&mut *first, false, |all| counts(all).len() >= 100).await;
    drop(first);
    // when another one takes over, then it gets what was not done, and nothing else
    let mut second = g.member(&group, mdt.only());
    let all = take(&mut *second, true, |all| counts(all).len() >= 100).await;
    assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (101..=200).collect::<Vec<_>>());
}

pub async fn a_batch_that_is_done_late_never_moves_a_position_back(g: &dyn Ground) {
    // given a member that holds a batch while others come, do all of it, and go
    let (group, observer) = (new_group("late"), g.observer());
    // (members share partitions; where there is one only, they share topics)
    let count = if g.sink().capabilities().partitioned { 1 } else { 3 };
    let mut mdts = Vec::new();
    for _ in 0..count {
        let mut mdt = Mdt::new(g).await;
        observer.register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
        mdt.write(1..=300 / count);
        mdts.push(mdt);
    }
    let all = MdtSelection::List(mdts.iter().map(|m| m.name.clone()).collect());
    let topics: Vec<_> = mdts.iter().map(|m| m.topic().clone()).collect();
    let mut slow = g.member(&group, all.clone());
    let mut held = slow.next(10, Duration::from_millis(500)).await.unwrap();
    let began = Instant::now();
    while held.records.is_empty() {
        held = slow.next(10, Duration::from_millis(500)).await.unwrap();
        assert!(began.elapsed() < HANG);
    }
    let mut quick = g.member(&group, all);
    let committed = async || {
        let progress = g.observer().progress(std::slice::from_ref(&group), &topics).await.unwrap();
        progress.topics.values().flat_map(|t| t.groups[&group].clone()).collect::<Vec<_>>()
    };
    // (where what was sent ahead to a member stays with it, the quick one gets only what comes while both are there)
    let early = quick.next(500, Duration::from_millis(500)).await.unwrap();
    quick.done(&early).await.unwrap();
    for mdt in &mut mdts {
        mdt.write(300 / count + 1..=600 / count);
    }
    let mut done = early.records.len();
    while done < 100 {
        // Both are polled so that the group can rebalance; only the quick one does anything.
        let _ = slow.next(1, Duration::from_millis(50)).await.unwrap();
        let batch = quick.next(500, Duration::from_millis(200)).await.unwrap();
        done += batch.records.len();
        quick.done(&batch).await.unwrap();
        assert!(began.elapsed() < HANG);
    }
    let before = committed().await;
    // when the slow one says at last that its batch is done, then no position goes back
    let _ = slow.done(&held).await;
    for (before, after) in before.iter().zip(committed().await) {
        assert!(after >= *before, "{before:?} became {after:?}");
    }
}

pub async fn a_member_notices_the_topic_of_a_new_mdt(g: &dyn Ground) {
    // given a member that runs before there is any topic for it
    let (name, group) = (new_mdt(), new_group("early"));
    let mut member = g.member(&group, MdtSelection::List(vec![name.clone()]));
    assert!(member.next(1, Duration::from_millis(500)).await.unwrap().records.is_empty());
    // when the MDT appears and its records are published only after the positions, as the bridge does
    let mut mdt = Mdt::named(g, name, &[None]).await;
    g.observer().register(&group, mdt.topic(), StartAt::Newest).await.unwrap();
    mdt.write(1..=60);
    // then the member gets them all
    let all = take(&mut *member, true, |all| counts(all).len() >= 60).await;
    assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
}

async fn refused(mut member: Box<dyn clbridge_sinks::Consumer>) -> String {
    let began = Instant::now();
    loop {
        match member.next(100, Duration::from_millis(500)).await {
            Ok(batch) => assert!(batch.records.is_empty(), "it jumped over records"),
            Err(e @ SinkError::Mismatch { .. }) => return e.to_string(),
            Err(e) => panic!("{e}"),
        }
        assert!(began.elapsed() < HANG, "never told");
    }
}

pub async fn a_member_without_a_position_is_told_what_to_do(g: &dyn Ground) {
    // given a group that nobody registered, when a member runs
    let mut mdt = Mdt::new(g).await;
    mdt.write(1..=30);
    let group = new_group("stranger");
    let told = refused(g.member(&group, mdt.only())).await;
    // then it gets no record, and the error names the group and the command
    assert!(told.contains(&group) && told.contains("clbridge groups add"), "{told}");
}

pub async fn a_member_whose_records_were_evicted_is_told_what_to_do(g: &dyn Ground) {
    if !g.sink().capabilities().read_back {
        return does_not_apply("nothing is kept that could be evicted");
    }
    // given a group whose next records were deleted behind our back
    let mut mdt = Mdt::new(g).await;
    let group = new_group("evicted");
    g.observer().register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
    mdt.write(1..=300);
    for p in 0..mdt.topic().partitions {
        g.evict(mdt.topic(), p, 20).await;
    }
    // then its member does not pass over them
    let told = refused(g.member(&group, mdt.only())).await;
    assert!(told.contains(&group) && told.contains("clbridge groups repair"), "{told}");
}

pub async fn an_ephemeral_reader_sees_what_comes_and_leaves_nothing_behind(g: &dyn Ground) {
    let mut mdt = Mdt::new(g).await;
    mdt.write(1..=50);
    let later = new_mdt();
    let before = g.observer().list().await.unwrap();
    // given an ephemeral reader, when records come, and an MDT appears
    let mut reader = g.ephemeral(MdtSelection::List(vec![mdt.name.clone(), later.clone()]));
    assert!(reader.next(1, Duration::from_millis(300)).await.unwrap().records.is_empty());
    mdt.write(51..=100);
    let mut second = Mdt::named(g, later.clone(), &[None]).await;
    second.write(1001..=1030);
    let all = take(&mut *reader, true, |all| counts(all).len() >= 80).await;
    // then it sees all of these and none from before
    let expected: Vec<u64> = (51..=100).chain(1001..=1030).collect();
    assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), expected);
    // and no group is left of it
    let known = |list: &[clbridge_sinks::GroupInfo]| {
        list.iter().filter(|i| i.name.contains("reader") || i.name.contains("ephemeral")).count()
    };
    drop(reader);
    assert_eq!(known(&g.observer().list().await.unwrap()), known(&before));
}

pub async fn a_repair_reaches_its_group(g: &dyn Ground) {
    if !g.sink().capabilities().read_back {
        return does_not_apply("nothing is kept that could be evicted");
    }
    // given a group that has done everything it was given
    let mut mdt = Mdt::new(g).await;
    let (group, observer) = (new_group("repaired"), g.observer());
    observer.register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
    mdt.write(1..=30);
    let mut member = g.member(&group, mdt.only());
    take(&mut *member, true, |all| counts(all).len() >= 30).await;
    // when records are republished for it alone, twice
    let mut ends = Vec::new();
    for range in [501..=510u64, 511..=515] {
        let records: Vec<_> = range.map(|i| (id(i), b"key".to_vec(), payload(&mdt.name, id(i)))).collect();
        let (topic, end) = mdt.sink.repair(mdt.topic(), &group, &records).await.unwrap();
        assert_eq!(end.len(), topic.partitions as usize);
        observer.register(&group, &topic, StartAt::Oldest).await.unwrap();
        ends.push((topic, end));
    }
    assert_eq!(ends[0].0.name, ends[1].0.name);
    // then a member gets them, in order
    drop(member);
    let mut member = g.member(&group, mdt.only());
    let mut came = Vec::new();
    let began = Instant::now();
    while came.len() < 15 {
        let batch = member.next(100, Duration::from_millis(500)).await.unwrap();
        came.extend(heads(&batch).iter().map(|(_, s)| index_of(s)));
        member.done(&batch).await.unwrap();
        assert!(began.elapsed() < HANG);
    }
    assert_eq!(came, (501..=515).collect::<Vec<_>>());
    // and its acknowledgement is seen at the position that was told
    let (topic, end) = &ends[1];
    let progress = observer.progress(std::slice::from_ref(&group), std::slice::from_ref(topic)).await.unwrap();
    assert_eq!(progress.topics[&topic.name].groups[&group], end.iter().copied().map(Some).collect::<Vec<_>>());
}
