//! Topics: made, checked, refused, trimmed.

use std::collections::BTreeMap;
use std::time::Duration;

use clbridge_sinks::{Positions, State, Stored, Topic, TopicState};

use crate::ground::{Ground, Mdt, does_not_apply, first_position, mismatch, new_mdt, read_all, spec};

/// State that remembers these topics.
fn pinning(mdt: &Mdt) -> State {
    let pin = |t: &Topic| TopicState { name: t.name.clone(), id: t.id.clone(), partitions: t.partitions };
    State { topics: BTreeMap::from([(String::new(), pin(mdt.topic()))]), ..mdt.state.clone() }
}

async fn prepare_again(g: &dyn Ground, mdt: &Mdt, pinned: bool) -> Result<Vec<Topic>, clbridge_sinks::SinkError> {
    let state = pinning(mdt);
    g.sink().prepare(&[spec(&mdt.name, None)], pinned.then_some(&state)).await
}

pub async fn preparing_again_finds_the_same_topics(g: &dyn Ground) {
    let mut mdt = Mdt::new(g).await;
    assert!(mdt.topic().created);
    assert!(!mdt.topic().id.is_empty());
    mdt.write(1..=10);
    let again = prepare_again(g, &mdt, true).await.unwrap();
    let same = Topic { created: false, ..mdt.topic().clone() };
    assert_eq!(again, [same]);
}

pub async fn a_topic_that_was_recreated_is_refused(g: &dyn Ground) {
    let mdt = Mdt::new(g).await;
    g.delete(mdt.topic(), true).await;
    let told = mismatch(prepare_again(g, &mdt, true).await);
    assert!(told.contains(&mdt.topic().name) && told.contains("id") && told.contains("clbridge reset"), "{told}");
    // and one that is gone is not made again behind State's back
    g.delete(mdt.topic(), false).await;
    let told = mismatch(prepare_again(g, &mdt, true).await);
    assert!(told.contains(&mdt.topic().name) && told.contains("deleted"), "{told}");
}

pub async fn partitions_that_others_added_are_left_alone_where_state_pins_the_number(g: &dyn Ground) {
    if !g.sink().capabilities().partitioned {
        return does_not_apply("a topic has one partition");
    }
    let mdt = Mdt::new(g).await;
    g.widen(mdt.topic()).await;
    let pinned = prepare_again(g, &mdt, true).await.unwrap();
    assert_eq!(pinned[0].partitions, mdt.topic().partitions);
    let unpinned = prepare_again(g, &mdt, false).await.unwrap();
    assert!(unpinned[0].partitions > mdt.topic().partitions);
}

pub async fn a_topic_whose_retention_was_changed_is_refused(g: &dyn Ground) {
    let mdt = Mdt::new(g).await;
    let Some(setting) = g.set_retention(mdt.topic()).await else {
        return does_not_apply("a topic has no retention that anybody could set");
    };
    for pinned in [true, false] {
        let told = mismatch(prepare_again(g, &mdt, pinned).await);
        assert!(told.contains(&mdt.topic().name) && told.contains(setting), "{told}");
    }
}

pub async fn trimming_keeps_the_last_record_and_never_passes_its_limit(g: &dyn Ground) {
    if !g.sink().capabilities().read_back {
        return does_not_apply("nothing is kept that all groups have");
    }
    // given a topic of several batches
    let mut mdt = Mdt::new(g).await;
    for batch in 0..5 {
        mdt.write(batch * 60 + 1..=batch * 60 + 60);
    }
    let before = mdt.read_all().await;
    // when it is trimmed below the middle of each partition
    let below: Vec<u64> = before.iter().map(|p| p[p.len() / 2].at.offset).collect();
    let lows = mdt.sink.trim(mdt.topic(), &below, Duration::ZERO).await.unwrap();
    // then all from there on are kept, and all before are gone
    let exact = mdt.sink.capabilities().positions == Positions::Offsets;
    if exact {
        assert_eq!(lows, below);
    } else {
        // (a sequence has one beginning only, where a part of it ends that can be forgotten)
        assert!(lows.iter().zip(&below).all(|(low, below)| *low > 0 && low <= below), "{lows:?} of {below:?}");
    }
    let after = read_all(&*g.sink(), mdt.topic()).await;
    for ((before, after), low) in before.iter().zip(&after).zip(&lows) {
        let kept: Vec<_> = before.iter().filter(|s| s.at.offset >= *low).collect();
        assert_eq!(after.iter().collect::<Vec<_>>(), kept);
    }
    // and trimming lower does nothing
    let nowhere = vec![0; lows.len()];
    assert_eq!(mdt.sink.trim(mdt.topic(), &nowhere, Duration::ZERO).await.unwrap(), lows);
    // and trimming beyond everything keeps the last record of each partition, or of the sequence
    let beyond = vec![u64::MAX >> 1; lows.len()];
    let last_lows = mdt.sink.trim(mdt.topic(), &beyond, Duration::ZERO).await.unwrap();
    assert!(last_lows.iter().zip(&lows).all(|(last, low)| last > low), "{last_lows:?}");
    let after = read_all(&*g.sink(), mdt.topic()).await;
    let newest = |all: &[Vec<Stored>]| all.iter().flatten().max_by_key(|s| s.at.offset).copied();
    assert_eq!(newest(&after), newest(&before));
    if mdt.sink.capabilities().positions != Positions::Sequence {
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.last(), before.last());
            assert!(!exact || after.len() == 1, "{after:?}");
        }
    }
    // and a start finds it, and knows that the topic was used
    let (recovered, _) = mdt.crash(g).await;
    assert!(recovered.used);
    assert_eq!(recovered.tails[0], after.iter().map(|p| p.last().copied()).collect::<Vec<_>>());
}

pub async fn trimming_keeps_what_is_young(g: &dyn Ground) {
    if !g.sink().capabilities().read_back {
        return does_not_apply("nothing is kept that all groups have");
    }
    let mut mdt = Mdt::new(g).await;
    let first = first_position(g, mdt.topic()).await;
    mdt.write(1..=60);
    let below = vec![15; mdt.topic().partitions as usize];
    let lows = mdt.sink.trim(mdt.topic(), &below, Duration::from_secs(86_400)).await.unwrap();
    assert_eq!(lows, vec![first; lows.len()]);
}

pub async fn a_schema_is_found_by_its_fingerprint(g: &dyn Ground) {
    // one that no other sentence and no earlier run has used
    let mut fingerprint = [0xff; 8];
    fingerprint[..7].copy_from_slice(&new_mdt().as_str().as_bytes()[..7]);
    assert_eq!(g.schema(fingerprint).await, None);
    for text in [r#"{"type":"string"}"#, r#"{"type":"long"}"#] {
        g.sink().publish_schema(fingerprint, text).await.unwrap();
        assert_eq!(g.schema(fingerprint).await.as_deref(), Some(text));
    }
}
