//! The ledger with a backlog of 100 million records. A process of its own, since its peak memory is what is asked for.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::num::NonZeroU64;
use std::time::Instant;

use clbridge::core::ledger::group::GroupProgress;
use clbridge::core::ledger::{Ledger, WithoutGroups};
use clbridge_schemas::ids::RecordId;
use clbridge_sinks::{GroupSpec, Position, Progress, Topic, TopicIx, TopicProgress};

const RECORDS: u64 = 100_000_000;
const PARTITIONS: u32 = 8;
/// Of the whole process, MiB.
const BOUND: u64 = 128;

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Where the group in the middle is, in every partition: some half of the way.
const HALFWAY: u64 = 6_000_000;

/// One of three groups has read nothing, one half of everything, one all.
fn progress(topic: &Topic, end: &[u64]) -> Progress {
    let mut seen =
        TopicProgress { low: vec![0; end.len()], end: end.to_vec(), id: topic.id.clone(), ..TopicProgress::default() };
    for (name, at) in [("behind", 0), ("halfway", HALFWAY), ("done", u64::MAX)] {
        seen.groups.insert(name.to_owned(), end.iter().map(|e| Some(at.min(*e))).collect());
    }
    let mut progress = Progress::default();
    progress.topics.insert(topic.name.clone(), seen);
    progress
}

#[test]
fn a_backlog_of_100_million_records_fits_into_128_mib() {
    // given a topic of eight partitions, and three groups
    let topic = Topic {
        ix: TopicIx(0),
        name: "lustre.scratch-MDT0000".into(),
        feed: None,
        mdt: "scratch-MDT0000".parse().unwrap(),
        id: "id".into(),
        partitions: PARTITIONS,
        created: true,
        replicas: 3,
    };
    let tails = [vec![None; PARTITIONS as usize]];
    let mut ledger = Ledger::new(vec![topic.clone()], &tails, Vec::new(), 0, WithoutGroups::Hold);
    for name in ["behind", "halfway", "done"] {
        let spec: GroupSpec = serde_json::from_value(serde_json::json!({"name": name})).unwrap();
        ledger.add_group(topic.ix, GroupProgress::registered(spec, vec![Some(0); PARTITIONS as usize], 0));
    }

    // when 100 million records become durable, each reported with its place, which is more than any sink does
    let began = Instant::now();
    let mut end = vec![0; PARTITIONS as usize];
    let mut halfway = vec![None; PARTITIONS as usize];
    for index in 1..=RECORDS {
        // Any even spread: multiplication by an odd number mixes the high bits well enough.
        let partition = (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as u32;
        let offset = &mut end[partition as usize];
        let id = RecordId { incarnation: 1, index: NonZeroU64::new(index).unwrap() };
        ledger.durable_at(topic.ix, Position { partition, offset: *offset }, id);
        if *offset == HALFWAY {
            halfway[partition as usize] = Some(id);
        }
        *offset += 1;
    }
    ledger.set_frontier(RECORDS);
    ledger.observe(&progress(&topic, &end), RECORDS);
    // Between two samples the record at the position is read, for whoever is held up by not knowing it: after each look
    // at the groups those of the partitions that hold a floor.
    let mut reads = 0;
    for _ in 0..PARTITIONS {
        for (topic, at) in ledger.wanted_reads(64) {
            let there = halfway[at.partition as usize].filter(|_| at.offset == HALFWAY);
            ledger.learn(topic, at, there.map(|id| (at.offset, id)));
            reads += 1;
        }
        ledger.observe(&progress(&topic, &end), RECORDS);
    }

    // then the process stays small, and after one read for each partition the floors are exact
    let peak = peak_mib();
    println!(
        "{RECORDS} records in {PARTITIONS} partitions, 3 groups: ledger {} KiB, peak of the process {peak} MiB, {:.1} s",
        ledger.bytes() >> 10,
        began.elapsed().as_secs_f64()
    );
    assert!(peak <= BOUND, "the process took {peak} MiB");
    let floor = |name: &str| ledger.groups().find(|(_, g)| g.spec.name == name).unwrap().1.floor();
    assert_eq!((floor("behind"), floor("done")), (0, RECORDS));
    let first_unread = halfway.iter().flatten().map(|id| id.index.get()).min().unwrap();
    assert_eq!(floor("halfway"), first_unread - 1);
    assert!(reads <= 3 * PARTITIONS, "{reads} records were to be read");
    assert_eq!(ledger.acknowledged(), 0);
}
