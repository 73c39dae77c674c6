//! The ledger's arithmetic against a naive model that remembers every record and shares no code with it: what the
//! ledger lets clear is never more than the model allows, and when everything is read it is all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Mutex;

use clbridge::core::ledger::group::GroupProgress;
use clbridge::core::ledger::{Ledger, WithoutGroups};
use clbridge_schemas::avro;
use clbridge_schemas::ids::RecordId;
use clbridge_schemas::lustre::{Fid, Time};
use clbridge_sinks::state::Retraction;
use clbridge_sinks::topic::Head;
use clbridge_sinks::{GroupSpec, Position, Progress, Stored, Topic, TopicIx, TopicProgress};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[derive(Clone, Debug)]
enum Op {
    /// A batch: for each record its partition (beyond the last: dropped by a module).
    Publish(Vec<u8>),
    /// The oldest batch that is not yet durable becomes so.
    Durable,
    /// A group finishes this share (of 255) of what a partition holds, and commits.
    Commit(u8, u8, u8),
    /// A group's position disappears.
    Vanish(u8, u8),
    /// A group's position is set behind the end.
    Beyond(u8, u8),
    /// The bridge looks at the groups.
    Observe,
    /// The bridge looks, and reads what it wants to know.
    Learn,
    /// A new bridge: the ledger is made anew from what State remembers.
    Restart,
    /// The MDT takes back this many indexes; the next incarnation begins there, with a new ledger.
    Crash(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..20).prop_map(Op::Publish),
        4 => Just(Op::Durable),
        6 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(g, p, share)| Op::Commit(g, p, share)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(g, p)| Op::Vanish(g, p)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(g, p)| Op::Beyond(g, p)),
        4 => Just(Op::Observe),
        2 => Just(Op::Learn),
        1 => Just(Op::Restart),
        1 => any::<u8>().prop_map(Op::Crash),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Published {
    offset: u64,
    id: RecordId,
}

struct Batch {
    records: Vec<(usize, RecordId)>,
    frontier: u64,
}

/// Everything, as naively as can be.
struct Model {
    partitions: Vec<Vec<Published>>,
    end: Vec<u64>,
    pending: Vec<Batch>,
    frontier: u64,
    next: u64,
    incarnation: u32,
    retractions: Vec<Retraction>,
    /// By group and partition: what the members truly finished, and what the broker shows.
    done: Vec<Vec<u64>>,
    shown: Vec<Vec<Option<u64>>>,
}

impl Model {
    fn new(partitions: usize, groups: usize, without_position: bool) -> Self {
        let shown = (0..partitions).map(|p| (!without_position || p > 0).then_some(0)).collect();
        Self {
            partitions: vec![Vec::new(); partitions],
            end: vec![0; partitions],
            pending: Vec::new(),
            frontier: 0,
            next: 1,
            incarnation: 1,
            retractions: Vec::new(),
            done: vec![vec![0; partitions]; groups],
            shown: vec![shown; groups],
        }
    }

    /// The highest index that may be cleared: every standing record up to it is durable and finished by every group.
    fn allowed(&self) -> u64 {
        let mut allowed = self.frontier;
        for (p, records) in self.partitions.iter().enumerate() {
            for r in records.iter().filter(|r| !self.void(r.id)) {
                if self.done.iter().any(|d| d[p] <= r.offset) {
                    allowed = allowed.min(r.id.index.get() - 1);
                }
            }
        }
        allowed
    }

    fn void(&self, id: RecordId) -> bool {
        self.retractions.iter().any(|r| r.incarnation > id.incarnation && id.index.get() >= r.from)
    }

    fn progress(&self) -> Progress {
        let groups = self.shown.iter().enumerate().map(|(g, shown)| (name(g), shown.clone())).collect();
        let (low, end) = (vec![0; self.end.len()], self.end.clone());
        let topic = TopicProgress { low, end, id: "id".into(), groups, ..TopicProgress::default() };
        Progress { topics: BTreeMap::from([("t".to_owned(), topic)]) }
    }
}

fn name(group: usize) -> String {
    format!("g{group}")
}

fn id(incarnation: u32, index: u64) -> RecordId {
    RecordId { incarnation, index: NonZeroU64::new(index).unwrap() }
}

fn stored(p: usize, r: &Published) -> Stored {
    let head = Head::of(&avro::Head {
        version: avro::SchemaVersion::V5,
        mdt: "t-MDT0000",
        index: r.id.index.get(),
        incarnation: r.id.incarnation,
        type_code: 1,
        time: Time::from_nanos(0),
        tfid: Fid { seq: 1, oid: 1, ver: 0 },
        retracts: None,
    });
    Stored { at: Position { partition: p as u32, offset: r.offset }, head: head.unwrap() }
}

fn ledger(m: &Model, before: Option<&Ledger>, crashed: bool) -> Ledger {
    let topic = Topic {
        ix: TopicIx(0),
        name: "t".into(),
        feed: None,
        mdt: "t-MDT0000".parse().unwrap(),
        id: "id".into(),
        partitions: m.end.len() as u32,
        created: false,
        replicas: 1,
    };
    let tails = vec![m.partitions.iter().enumerate().map(|(p, r)| r.last().map(|r| stored(p, r))).collect::<Vec<_>>()];
    let mut l = Ledger::new(vec![topic], &tails, m.retractions.clone(), m.frontier, WithoutGroups::Hold);
    for g in 0..m.done.len() {
        let spec: GroupSpec = serde_json::from_value(serde_json::json!({ "name": name(g) })).unwrap();
        let mut group = match before.and_then(|l| l.groups().find(|(_, x)| x.spec.name == name(g))) {
            Some((_, old)) => GroupProgress::remembered(spec, &old.remember(), m.end.len() as u32),
            None => GroupProgress::registered(spec, m.shown[g].clone(), 0),
        };
        if crashed {
            group.voided(m.frontier + 1);
        }
        l.add_group(TopicIx(0), group);
    }
    l
}

static SEEN: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

fn saw(class: &'static str) {
    *SEEN.lock().unwrap().entry(class).or_default() += 1;
}

fn durable(m: &mut Model, l: &mut Ledger) {
    let batch = m.pending.remove(0);
    for (p, id) in &batch.records {
        let at = Position { partition: *p as u32, offset: m.end[*p] };
        m.partitions[*p].push(Published { offset: m.end[*p], id: *id });
        m.end[*p] += 1;
        l.durable_at(TopicIx(0), at, *id);
    }
    // The commit's control records.
    for p in batch.records.iter().map(|(p, _)| *p).collect::<BTreeSet<_>>() {
        m.end[p] += 1;
        saw("offset hole");
    }
    m.frontier = batch.frontier;
    l.set_frontier(batch.frontier);
    if !m.pending.is_empty() {
        saw("late confirmation");
    }
}

fn observe(m: &Model, l: &mut Ledger) {
    l.observe(&m.progress(), m.pending.last().map_or(m.frontier, |batch| batch.frontier));
}

fn learn(m: &Model, l: &mut Ledger) {
    observe(m, l);
    for (topic, at) in l.wanted_reads(64) {
        saw("point read");
        let found = m.partitions[at.partition as usize].iter().find(|r| r.offset >= at.offset);
        l.learn(topic, at, found.map(|r| (r.offset, r.id)));
    }
    observe(m, l);
}

fn publish(m: &mut Model, records: &[u8]) {
    let partitions = m.end.len();
    let mut batch = Vec::new();
    for r in records {
        let p = usize::from(*r) % (partitions + 1);
        if p < partitions {
            batch.push((p, id(m.incarnation, m.next)));
        } else {
            saw("dropped");
        }
        m.next += 1;
    }
    m.pending.push(Batch { records: batch, frontier: m.next - 1 });
}

fn crash(m: &mut Model, l: &mut Ledger, back: u8, cleared: u64) {
    // Never below what may have been cleared: stability sees to that.
    let from = (m.frontier + 1).saturating_sub(u64::from(back)).max(cleared + 1);
    m.pending.clear();
    m.incarnation += 1;
    m.retractions.push(Retraction { incarnation: m.incarnation, from, to: m.frontier });
    m.next = from;
    m.frontier = from - 1;
    *l = ledger(m, Some(l), true);
    let retraction = (0..m.end.len()).map(|p| (p, id(m.incarnation, from))).collect();
    m.pending.push(Batch { records: retraction, frontier: from - 1 });
    durable(m, l);
    saw("reused indexes");
}

fn run(partitions: usize, groups: usize, without_position: bool, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut m = Model::new(partitions, groups, without_position);
    let mut l = ledger(&m, None, false);
    let mut cleared = 0;
    for op in ops {
        let at = |g: u8, p: u8| (usize::from(g) % groups, usize::from(p) % partitions);
        match op {
            Op::Publish(records) => publish(&mut m, records),
            Op::Durable if m.pending.is_empty() => {}
            Op::Durable => durable(&mut m, &mut l),
            Op::Commit(g, p, share) => {
                let (g, p) = at(*g, *p);
                m.done[g][p] = m.done[g][p].max(m.end[p] * u64::from(*share) / 255);
                if m.shown[g][p].is_none_or(|s| s <= m.done[g][p]) {
                    m.shown[g][p] = Some(m.done[g][p]);
                }
            }
            Op::Vanish(g, p) => {
                let (g, p) = at(*g, *p);
                m.shown[g][p] = None;
                observe(&m, &mut l);
                saw("position vanished");
            }
            Op::Beyond(g, p) => {
                let (g, p) = at(*g, *p);
                m.shown[g][p] = Some(m.end[p] + 5);
                observe(&m, &mut l);
                saw("position beyond the end");
            }
            Op::Observe => observe(&m, &mut l),
            Op::Learn => learn(&m, &mut l),
            Op::Restart => {
                if !m.pending.is_empty() {
                    saw("confirmation that never came");
                }
                // What was not durable is read again from the MDT.
                m.pending.clear();
                m.next = m.frontier + 1;
                l = ledger(&m, Some(&l), false);
                saw("restart");
            }
            Op::Crash(back) => crash(&mut m, &mut l, *back, cleared),
        }
        if m.partitions.iter().any(Vec::is_empty) {
            saw("empty partition");
        }
        if l.groups().any(|(_, g)| g.hold().is_some_and(|h| h.reason() == "no_first_position")) {
            saw("group without a position");
        }
        let lets = l.acknowledged();
        prop_assert!(lets <= m.allowed(), "the ledger lets {} be cleared, the model {}", lets, m.allowed());
        cleared = cleared.max(lets);
    }
    // Everything comes to rest: all durable, all read, all positions honest and accepted.
    while !m.pending.is_empty() {
        durable(&mut m, &mut l);
    }
    for g in 0..groups {
        m.done[g].clone_from(&m.end);
        m.shown[g] = m.end.iter().copied().map(Some).collect();
    }
    for (_, g) in l.groups_mut() {
        g.spec.accept += 1;
    }
    observe(&m, &mut l);
    prop_assert_eq!(l.acknowledged(), m.frontier, "everything is read, so everything may be cleared");
    Ok(())
}

#[test]
fn the_ledger_never_lets_more_be_cleared_than_a_naive_model_and_in_the_end_all_of_it() {
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() });
    let strategy = (1..5usize, 1..4usize, any::<bool>(), prop::collection::vec(op(), 1..80));
    runner.run(&strategy, |(partitions, groups, without, ops)| run(partitions, groups, without, &ops)).unwrap();
    let seen = SEEN.lock().unwrap();
    println!("ledger property: classes met: {seen:?}");
    for class in [
        "empty partition",
        "dropped",
        "restart",
        "late confirmation",
        "confirmation that never came",
        "reused indexes",
        "offset hole",
        "group without a position",
        "position vanished",
        "position beyond the end",
        "point read",
    ] {
        assert!(seen.get(class).is_some_and(|n| *n > 100), "{class} was hardly ever met");
    }
}
