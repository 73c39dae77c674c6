//! The simulation judged: each deliberate bug of the core must be found, or there is a hole in the faults or the judge.
//!
//! A bug may be found by the judge or by one of the core's own assertions: both stop a bridge before more is lost.

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
mod schedule;
mod settle;
mod shrink;
mod start;
mod world;

use clbridge::core::mutations::Mutation;
use clbridge_tests::report;

/// A bug that these do not find is not found.
const SEEDS: std::ops::Range<u64> = 0..5_000;

/// The first seed that finds something, and what.
fn first_found() -> Option<(u64, String)> {
    SEEDS.into_iter().find_map(|seed| Some((seed, shrink::caught(seed, &schedule::of(seed)).1.err()?)))
}

/// Without the noise of every assertion that is caught.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = work();
    std::panic::set_hook(hook);
    result
}

#[test]
fn every_deliberate_bug_of_the_core_is_found() {
    let (mut missed, mut figures) = (Vec::new(), Vec::new());
    println!("{:<28} {:>5}  found by", "mutation", "seeds");
    for mutation in Mutation::ALL {
        Mutation::switch(Some(mutation));
        let found = quietly(first_found);
        let (seeds, told) = found.map_or(("none".into(), String::new()), |(s, told)| ((s + 1).to_string(), told));
        figures.push(serde_json::json!([format!("{mutation:?}"), seeds]));
        println!("{:<28} {seeds:>5}  {}", format!("{mutation:?}"), told.chars().take(110).collect::<String>());
        if told.is_empty() {
            missed.push(mutation);
        }
    }
    Mutation::switch(None);
    report::write("mutations.json", &serde_json::json!({"bound": SEEDS.end, "seeds_needed": figures}));
    assert!(missed.is_empty(), "not found within {} seeds: {missed:?}", SEEDS.end);
    let runs = (0..400).map(|seed| world::run(seed, &schedule::of(seed), false));
    let released: u64 = runs.map(|(world, result)| result.map(|()| world.judge.released()).unwrap()).sum();
    assert!(released > 0, "the schedules release nobody");
}

#[test]
fn a_failing_schedule_is_shrunk_to_a_short_one_that_still_fails() {
    for mutation in [Mutation::OldAcknowledgementsStand, Mutation::SkipForgotten, Mutation::UncleanIsClean] {
        Mutation::switch(Some(mutation));
        let (seed, why) = quietly(first_found).unwrap();
        let steps = schedule::of(seed);
        let short = quietly(|| shrink::shrink(seed, &steps));
        // What is typed to replay it is the same schedule, and it fails as long as the bug is there.
        let replayed = schedule::keep(&steps, &schedule::numbers(&short)).unwrap();
        assert_eq!(replayed, short);
        assert!(quietly(|| shrink::caught(seed, &replayed)).1.is_err());
        assert!(short.len() * 3 < steps.len(), "{mutation:?}: {} of {} steps are left", short.len(), steps.len());
        println!("{mutation:?}: from {} to {} steps", steps.len(), short.len());
        println!("{}\n", quietly(|| shrink::told(seed, &short, &why)));
        Mutation::switch(None);
        assert_eq!(shrink::caught(seed, &replayed).1, Ok(()), "{mutation:?} alone makes it fail");
    }
}
