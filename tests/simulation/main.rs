//! The core against a model MDT, model brokers and model groups, in one thread and virtual time: one seed, one run.
//!
//! `SEEDS=FROM..TO` runs others than the default ones, `SEED=N` one with its trace, `KEEP=3,17,20-25` beside it only
//! these steps of it.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod bridge;
mod broker;
mod cast;
mod content;
mod draw;
mod driven;
mod faults;
mod groups;
mod judge;
mod mdt;
mod report;
mod schedule;
mod settle;
mod shrink;
mod start;
mod world;

use report::Report;
use world::run;

const SEEDS: std::ops::Range<u64> = 0..report::ENOUGH;

/// What was asked for by environment.
fn asked<T>(name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let text = std::env::var(name).ok().filter(|t| !t.is_empty())?;
    Some(
        parse(&text).unwrap_or_else(|| panic!("{name}={text} cannot be read: SEED=N, SEEDS=FROM..TO, KEEP=3,17,20-25")),
    )
}

fn range(text: &str) -> Option<std::ops::Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

#[test]
fn under_every_schedule_of_faults_nothing_is_lost_doubled_or_cleared_early() {
    if let Some(seed) = asked("SEED", |s| s.parse().ok()) {
        let steps = schedule::of(seed);
        let steps = asked("KEEP", |s| schedule::keep(&steps, s)).unwrap_or(steps);
        let (w, result) = run(seed, &steps, true);
        println!("{}", w.told().join("\n"));
        result.unwrap();
        return;
    }
    let seeds = asked("SEEDS", range).unwrap_or(SEEDS);
    let mut report = Report::default();
    for seed in seeds.clone() {
        let steps = schedule::of(seed);
        let (w, result) = shrink::caught(seed, &steps);
        if let Err(why) = result {
            panic!("{}", shrink::told(seed, &steps, &why));
        }
        w.iter().for_each(|w| report.add(w));
    }
    println!("{report}");
    // The bounded run's seeds and more: whatever can occur has to.
    if SEEDS.clone().all(|seed| seeds.contains(&seed)) {
        report.everything_occurred();
    }
    clbridge_tests::report::write("simulation.json", &report.figures());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..6 {
        let trace = || run(seed, &schedule::of(seed), true).0.told().to_vec();
        assert!(!trace().is_empty());
        assert_eq!(trace(), trace());
    }
}
