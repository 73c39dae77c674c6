//! What groups have done, their first positions, and the registry.

use clbridge_sinks::{GroupSpec, MdtSelection, Offsets, Policy, Positions, StartAt, Topic};

use crate::ground::{Ground, Mdt, counts, first_position, new_group, new_mdt, positions, take};

fn nothing(topic: &Topic) -> Offsets {
    vec![None; topic.partitions as usize]
}

pub async fn a_group_that_committed_nothing_has_no_position(g: &dyn Ground) {
    let mut mdt = Mdt::new(g).await;
    let first = first_position(g, mdt.topic()).await;
    mdt.write(1..=60);
    let group = new_group("unknown");
    // when progress is asked for a group that never was
    let progress = g.observer().progress(std::slice::from_ref(&group), &mdt.topics).await.unwrap();
    // then it has no position, which is not position 0
    let topic = &progress.topics[&mdt.topic().name];
    assert_eq!(topic.groups[&group], nothing(mdt.topic()));
    assert_eq!(topic.id, mdt.topic().id);
    let partitions = mdt.topic().partitions as usize;
    assert_eq!((topic.low.as_slice(), topic.end.len()), (vec![first; partitions].as_slice(), partitions));
}

pub async fn only_what_was_committed_is_progress(g: &dyn Ground) {
    // given a registered group that has taken everything and done a part
    let mut mdt = Mdt::new(g).await;
    let (group, observer) = (new_group("part"), g.observer());
    let first = observer.register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
    mdt.write(1..=300);
    let mut member = g.member(&group, mdt.only());
    take(&mut *member, false, |all| all.len() >= 300).await;
    // then only its first positions are there
    let groups = [group.clone(), new_group("other")];
    let of = |p: &clbridge_sinks::Progress| p.topics[&mdt.topic().name].groups[&group].clone();
    assert_eq!(of(&observer.progress(&groups, &mdt.topics).await.unwrap()), first);
    drop(member);
    // when another member has done all of it
    let mut member = g.member(&group, mdt.only());
    let all = take(&mut *member, true, |all| counts(all).len() >= 300).await;
    // then each position is behind its last record and not beyond the end
    positions(&*observer, &group, &mdt.topics, |now| now.iter().zip(&first).all(|(now, first)| now > first)).await;
    let progress = observer.progress(&groups, &mdt.topics).await.unwrap();
    // (where one sequence counts all partitions, all of it was done in each)
    let whole = mdt.sink.capabilities().positions == Positions::Sequence;
    for (p, committed) in of(&progress).into_iter().enumerate() {
        let of_p = all.iter().filter(|(_, s)| whole || s.at.partition as usize == p);
        let last = of_p.map(|(_, s)| s.at.offset).max().unwrap();
        assert_eq!(committed, Some(last + 1));
        assert!(last < progress.topics[&mdt.topic().name].end[p]);
    }
}

pub async fn a_group_without_members_is_registered_at_the_newest_or_the_oldest_record(g: &dyn Ground) {
    let mut mdt = Mdt::new(g).await;
    mdt.write(1..=90);
    let observer = g.observer();
    let beginnings = [(StartAt::Newest, 91..=120), (StartAt::Oldest, 1..=120)];
    // (where nothing can be read back there is no older record to begin at)
    let possible = if mdt.sink.capabilities().read_back { 2 } else { 1 };
    for (from, expected) in beginnings.into_iter().take(possible) {
        // given a topic that holds records, when a group is registered
        let group = new_group("first");
        let written = observer.register(&group, mdt.topic(), from).await.unwrap();
        assert!(written.iter().all(Option::is_some), "{written:?}");
        // then that is what the broker says of it
        let progress = observer.progress(std::slice::from_ref(&group), &mdt.topics).await.unwrap();
        assert_eq!(progress.topics[&mdt.topic().name].groups[&group], written);
        // and its members begin there
        if from == StartAt::Newest {
            mdt.write(91..=120);
        }
        let mut member = g.member(&group, mdt.only());
        let all = take(&mut *member, true, |all| {
            counts(all).contains_key(&120) && counts(all).len() >= expected.clone().count()
        })
        .await;
        assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

/// A member that stands on a first MDT and takes a second one as soon as that is there.
async fn running(
    g: &dyn Ground,
    group: &str,
) -> (Mdt, clbridge_schemas::ids::MdtName, Box<dyn clbridge_sinks::Consumer>) {
    let mut mdt = Mdt::new(g).await;
    let later = new_mdt();
    g.observer().register(group, mdt.topic(), StartAt::Oldest).await.unwrap();
    mdt.write(1..=30);
    let mut member = g.member(group, MdtSelection::List(vec![mdt.name.clone(), later.clone()]));
    take(&mut *member, true, |all| counts(all).len() >= 30).await;
    (mdt, later, member)
}

pub async fn a_running_group_is_registered_in_a_new_topic_before_its_first_record(g: &dyn Ground) {
    // given a group with a live member
    let group = new_group("running");
    let (_mdt, later, mut member) = running(g, &group).await;
    // when a new MDT's topic is made, the group registered in it, then records published
    let mut second = Mdt::named(g, later, &[None]).await;
    assert!(second.topic().created || !second.topic().id.is_empty());
    let first = first_position(g, second.topic()).await;
    let written = g.observer().register(&group, second.topic(), StartAt::Newest).await.unwrap();
    assert_eq!(written, vec![Some(first); second.topic().partitions as usize]);
    second.write(1..=90);
    // then the member gets every one of them
    let all = take(&mut *member, true, |all| counts(all).len() >= 90).await;
    assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (1..=90).collect::<Vec<_>>());
}

pub async fn a_running_group_is_not_moved_in_a_topic_that_holds_records(g: &dyn Ground) {
    // given a group with a live member, and a topic that it never saw and that holds records
    let group = new_group("moved");
    let (_mdt, _, member) = running(g, &group).await;
    let mut second = Mdt::new(g).await;
    second.write(1..=90);
    // when it is registered there
    let written = g.observer().register(&group, second.topic(), StartAt::Newest).await.unwrap();
    if g.sink().capabilities().positions != Positions::Offsets {
        // then, since a member without a position is handed nothing, it begins behind what is there
        assert!(written.iter().all(|at| *at == written[0] && at.is_some()), "{written:?}");
        second.write(91..=120);
        drop(member);
        let mut member = g.member(&group, second.only());
        let all = take(&mut *member, true, |all| counts(all).len() >= 30).await;
        assert_eq!(counts(&all).into_keys().collect::<Vec<_>>(), (91..=120).collect::<Vec<_>>());
    } else {
        // then nothing is written
        assert_eq!(written, nothing(second.topic()));
        drop(member);
    }
}

pub async fn what_a_group_has_already_is_left_as_it_is(g: &dyn Ground) {
    let mut mdt = Mdt::new(g).await;
    let group = new_group("again");
    mdt.write(1..=30);
    let first = g.observer().register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
    mdt.write(31..=60);
    // when a group is registered a second time, elsewhere, then its first positions stay
    let again = g.observer().register(&group, mdt.topic(), StartAt::Newest).await.unwrap();
    assert_eq!(again, first);
}

pub async fn a_topic_that_is_gone_is_missing_in_progress(g: &dyn Ground) {
    let (mut kept, lost) = (Mdt::new(g).await, Mdt::new(g).await);
    kept.write(1..=10);
    g.delete(lost.topic(), false).await;
    let topics = [kept.topic().clone(), lost.topic().clone()];
    let progress = g.observer().progress(&[new_group("any")], &topics).await.unwrap();
    assert_eq!(progress.topics.keys().collect::<Vec<_>>(), [&kept.topic().name]);
}

pub async fn changes_of_the_registry_by_two_writers_at_once_are_both_kept(g: &dyn Ground) {
    let before = g.observer().registry().await.unwrap().version;
    let names: Vec<String> = (0..6).map(|_| new_group("registry")).collect();
    let add = |name: String, observer: Box<dyn clbridge_sinks::GroupObserver>| async move {
        let spec = GroupSpec {
            name: name.clone(),
            mdts: MdtSelection::All,
            feed: None,
            from: StartAt::Newest,
            policy: Policy::Hold,
            accept: 0,
            repair: 0,
            by_pattern: false,
        };
        let mut change = |r: &mut clbridge_sinks::Registry| {
            r.groups.insert(name.clone(), spec.clone());
        };
        observer.change_registry(&mut change).await.unwrap()
    };
    // when two writers change it at the same time, several times
    for pair in names.chunks(2) {
        let (a, b) = tokio::join!(add(pair[0].clone(), g.observer()), add(pair[1].clone(), g.observer()));
        // then each wrote a version of its own
        assert_ne!(a.version, b.version);
    }
    // and nothing is lost
    let after = g.observer().registry().await.unwrap();
    assert!(names.iter().all(|n| after.groups.contains_key(n)), "{:?}", after.groups.keys());
    assert!(after.version >= before + 6);
}

pub async fn groups_are_listed_with_their_members(g: &dyn Ground) {
    let mut mdt = Mdt::new(g).await;
    let (idle, live) = (new_group("idle"), new_group("live"));
    for group in [&idle, &live] {
        g.observer().register(group, mdt.topic(), StartAt::Oldest).await.unwrap();
    }
    mdt.write(1..=30);
    let mut member = g.member(&live, mdt.only());
    take(&mut *member, true, |all| all.len() >= 30).await;
    let list = g.observer().list().await.unwrap();
    let members = |name: &str| list.iter().find(|i| i.name == name).map(|i| i.members);
    assert_eq!((members(&idle), members(&live)), (Some(0), Some(1)));
}
