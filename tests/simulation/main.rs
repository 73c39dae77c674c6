//! The core against a model MDT, a model broker and model groups, in one thread and virtual time: one seed, one run.
//!
//! `SEEDS=FROM..TO` runs others than the default ones, `SEED=N` one with its trace.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod bridge;
mod broker;
mod judge;
mod mdt;
mod world;

use std::collections::BTreeMap;

use world::{STEPS, run};

const SEEDS: std::ops::Range<u64> = 0..20_000;

fn seeds() -> std::ops::Range<u64> {
    let range = std::env::var("SEEDS").ok().and_then(|s| {
        let (from, to) = s.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    range.unwrap_or(SEEDS)
}

#[test]
fn under_every_schedule_of_faults_nothing_is_lost_doubled_or_cleared_early() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|s| s.parse().ok()) {
        let (w, result) = run(seed);
        println!("{}", w.trace.join("\n"));
        result.unwrap();
        return;
    }
    let (mut faults, mut runs, mut cleared, mut taken_back) = (BTreeMap::<&str, u64>::new(), 0u64, 0u64, 0usize);
    let (mut releasing, mut released, mut trimmed) = (0u64, 0u64, 0u64);
    for seed in seeds() {
        let (w, result) = run(seed);
        if let Err(e) = result {
            panic!(
                "seed {seed}: {e}\nreplay: SEED={seed} cargo test --release -p clbridge-tests --test simulation -- --nocapture\n{}",
                w.trace[w.trace.len().saturating_sub(40)..].join("\n")
            );
        }
        runs += 1;
        cleared += w.judge.cleared;
        taken_back += w.mdt.taken_back.len();
        releasing += u64::from(w.judge.released() > 0);
        released += w.judge.released();
        trimmed += w.judge.trimmed;
        for (kind, n) in w.faults {
            *faults.entry(kind).or_default() += n;
        }
    }
    println!("simulation: {runs} schedules, {} steps each, {cleared} records cleared, {taken_back} taken back", STEPS);
    println!(
        "released: {released} records in {releasing} schedules were cleared before a group that was let go had them, and \
         reached it later; {trimmed} records trimmed"
    );
    println!("faults and holds: {faults:?}");
    if seeds() == SEEDS {
        assert!(released > 0 && trimmed > 0, "nothing was released or trimmed");
        for kind in [
            "bridge_killed",
            "mdt_crash",
            "mdt_crash_while_down",
            "bridge_killed_at_crash",
            "stall",
            "positions_vanished",
            "went_back",
            "beyond_end",
        ] {
            assert!(faults.get(kind).is_some_and(|n| *n > 0), "{kind} never happened");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 7, 42] {
        assert_eq!(run(seed).0.trace, run(seed).0.trace);
    }
}
