//! The simulation judged: each deliberate bug of the core must be found, or there is a hole in the faults or the judge.
//!
//! A bug may be found by the judge or by one of the core's own assertions: both stop a bridge before more is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod bridge;
mod broker;
mod judge;
mod mdt;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use clbridge::core::mutations::Mutation;

/// A bug that these do not find is not found.
const SEEDS: std::ops::Range<u64> = 0..5_000;

/// The first seed that finds something, and what.
fn first_found() -> Option<(u64, String)> {
    SEEDS.into_iter().find_map(|seed| match catch_unwind(AssertUnwindSafe(|| world::run(seed).1)) {
        Ok(Ok(())) => None,
        Ok(Err(told)) => Some((seed, told)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some((seed, format!("assertion: {}", text.unwrap_or_default())))
        }
    })
}

#[test]
fn every_deliberate_bug_of_the_core_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = Vec::new();
    for mutation in Mutation::ALL {
        Mutation::switch(Some(mutation));
        found.push((mutation, first_found()));
    }
    Mutation::switch(None);
    let _ = std::panic::take_hook();
    println!("mutation                    seeds  found by");
    for (mutation, first) in &found {
        let (seeds, told) = first.as_ref().map_or(("none".into(), ""), |(s, told)| ((s + 1).to_string(), told));
        let told: String = told.chars().take(110).collect();
        println!("{:<27} {seeds:>5}  {told}", format!("{mutation:?}"));
    }
    let missed: Vec<Mutation> = found.iter().filter(|(_, first)| first.is_none()).map(|(m, _)| *m).collect();
    assert!(missed.is_empty(), "not found within {} seeds: {missed:?}", SEEDS.end);
}

#[test]
fn without_a_bug_nothing_is_found() {
    Mutation::switch(None);
    let runs: Vec<_> = (0..50).map(world::run).collect();
    assert!(runs.iter().all(|(_, result)| result.is_ok()));
    assert!(runs.iter().any(|(world, _)| world.judge.released() > 0), "the schedules release nobody");
}
