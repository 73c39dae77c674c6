#![allow(clippy::unwrap_used)]

use clbridge_schemas::avro::{self, SchemaVersion};
use clbridge_schemas::lustre::{Fid, RecordType, Time};
use clbridge_sinks::topic::Head;
use clbridge_sinks::{Position, Positions};

use super::*;

const CONFIRMING: Capabilities =
    Capabilities { read_back: false, exactly_once: false, positions: Positions::Identity, ..ORDERED };
const ORDERED: Capabilities = Capabilities {
    atomic_state: false,
    read_back: true,
    exactly_once: true,
    partitioned: true,
    positions: Positions::Sequence,
};

/// A record of this index; another `content` is another record.
fn head(incarnation: u32, index: u64, content: i64) -> Head {
    let (time, tfid) = (Time::from_nanos(content), Fid { seq: 1, oid: 0, ver: 0 });
    let version = SchemaVersion::V5;
    let retracts = None;
    Head::of(&avro::Head { version, mdt: "fs-MDT0000", index, incarnation, type_code: 1, time, tfid, retracts })
        .unwrap()
}

fn mark(incarnation: u32, index: u64, content: i64) -> Mark {
    let head = head(incarnation, index, content);
    assert_eq!(head.record_type, RecordType(1));
    Mark { id: head.id(), digest: head.digest() }
}

/// State with its frontier at 100, stable at 90, cleared up to 80.
fn state() -> State {
    let mut state = State::first("fs-MDT0000".parse().unwrap(), "a".into());
    state.frontier = Some(mark(1, 100, 0));
    state.stable = Some(mark(1, 90, 0));
    state.last_clear = 80;
    state
}

fn start(state: State, tails: &[(u64, u64)], capabilities: Capabilities) -> Start {
    let at = |p: u32, offset| Position { partition: p, offset };
    let tails =
        (0..).zip(tails).map(|(p, (offset, index))| Some(Stored { at: at(p, *offset), head: head(1, *index, 0) }));
    Start::new(Found { state: Some(state), tails: vec![tails.collect()], used: true, capabilities }).unwrap()
}

#[test]
fn a_partition_that_is_ahead_does_not_speak_for_one_that_lacks_records_when_the_mdt_crashed() {
    // Given records behind State's frontier: 105 and 110 arrived in one partition, 103 did not in the other.
    let mut start = start(state(), &[(7, 110), (5, 100)], ORDERED);
    assert_eq!(start.next(), Step::Probe(NonZeroU64::new(110).unwrap()));
    // When the MDT took back 108 and all behind it, and gave the indexes anew,
    start.probed(Probe::Found(mark(1, 110, 1).digest));
    let published = [mark(1, 95, 0), mark(1, 100, 0), mark(1, 105, 0), mark(1, 110, 0)];
    let standing: Vec<(u64, Digest)> = (90..=110).map(|i| (i, mark(1, i, i64::from(i >= 108)).digest)).collect();
    start.compared(&published, &standing).unwrap();
    // Then the next incarnation begins where everything is known to be published, not behind 105.
    let plan = start.plan().unwrap();
    assert_eq!((plan.incarnation, plan.above), (2, 100));
    assert_eq!(plan.retract, Some(Retraction { incarnation: 2, from: 101, to: 110 }));
}

#[test]
fn where_nothing_can_be_read_back_a_start_after_a_kill_begins_the_next_incarnation() {
    let mut start = start(state(), &[], CONFIRMING);
    start.probed(Probe::Found(mark(1, 100, 0).digest));
    let plan = start.plan().unwrap();
    assert_eq!((plan.incarnation, plan.above, plan.state_first), (2, 100, true));
    assert_eq!(plan.retract.map(|r| r.from), Some(101));
    assert_eq!(plan.frontier.map(|f| f.id.incarnation), Some(2));
}

#[test]
fn where_nothing_can_be_read_back_a_start_after_a_clean_stop_goes_on() {
    let mut start = start(State { clean: true, ..state() }, &[], CONFIRMING);
    start.probed(Probe::Found(mark(1, 100, 0).digest));
    let plan = start.plan().unwrap();
    assert_eq!((plan.incarnation, plan.above, plan.retract, plan.state_first), (1, 100, None, true));
}

#[test]
fn where_nothing_can_be_read_back_a_crash_of_the_mdt_sends_a_start_back_to_what_is_stable() {
    let mut start = start(state(), &[], CONFIRMING);
    start.probed(Probe::Found(mark(1, 100, 1).digest));
    let standing: Vec<(u64, Digest)> = (90..=100).map(|i| (i, mark(1, i, i64::from(i >= 95)).digest)).collect();
    start.compared(&[], &standing).unwrap();
    let plan = start.plan().unwrap();
    assert_eq!((plan.incarnation, plan.above), (2, 90));
    assert_eq!(plan.retract, Some(Retraction { incarnation: 2, from: 91, to: UNKNOWN_END }));
}

#[test]
fn the_very_first_start_writes_state_before_records_where_they_do_not_go_together() {
    let first = |capabilities| {
        let found = Found { state: None, tails: vec![vec![None]], used: false, capabilities };
        Start::new(found).unwrap().plan().unwrap().state_first
    };
    assert!(first(ORDERED) && first(CONFIRMING));
    assert!(!first(Capabilities { atomic_state: true, ..ORDERED }));
}

#[test]
fn a_changelog_that_began_anew_and_is_still_shorter_than_what_is_stable_stops_the_mdt() {
    let mut start = start(state(), &[], Capabilities { atomic_state: true, ..ORDERED });
    start.probed(Probe::Nothing);
    assert_eq!(start.next(), Step::Oldest);
    start.oldest(Some(1));
    assert!(matches!(start.next(), Step::Compare { .. }));
    let stopped = start.compared(&[mark(1, 95, 0)], &[]);
    assert_eq!(stopped.map_err(|s| s.reason), Err("stopped_below_stable"));
}

#[test]
fn what_is_stable_but_behind_the_frontier_of_state_is_published_again_after_a_crash_of_the_mdt() {
    // Given State that lags: 120 was read and is stable, but only up to 100 everything is known to be published.
    let mut start = start(State { stable: Some(mark(1, 120, 0)), ..state() }, &[(7, 130), (5, 100)], ORDERED);
    start.probed(Probe::Found(mark(1, 130, 1).digest));
    let standing: Vec<(u64, Digest)> = (120..=130).map(|i| (i, mark(1, i, i64::from(i > 125)).digest)).collect();
    start.compared(&[mark(1, 130, 0)], &standing).unwrap();
    let plan = start.plan().unwrap();
    assert_eq!((plan.above, plan.retract.map(|r| r.from)), (100, Some(101)));
}

#[test]
fn every_tail_behind_the_frontier_has_to_stand_not_only_the_last() {
    let mut start = start(state(), &[(7, 110), (5, 105)], ORDERED);
    start.probed(Probe::Found(mark(1, 110, 0).digest));
    assert_eq!(start.next(), Step::Probe(NonZeroU64::new(105).unwrap()));
    start.probed(Probe::Found(mark(1, 105, 1).digest));
    assert!(matches!(start.next(), Step::Compare { .. }));
}
