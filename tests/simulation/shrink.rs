//! Makes a failing schedule short: leaves out steps as long as it still fails (delta debugging).

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::schedule::{Step, numbers};
use crate::world::{World, run};

/// A run in which the core's own assertions count as failures. No world is left by one of these.
pub fn caught(seed: u64, steps: &[Step]) -> (Option<World>, Result<(), String>) {
    match catch_unwind(AssertUnwindSafe(|| run(seed, steps, false))) {
        Ok((world, result)) => (Some(world), result),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            (None, Err(format!("assertion: {}", text.unwrap_or_default())))
        }
    }
}

/// The shortest schedule found that still fails: no single step of it can be left out.
pub fn shrink(seed: u64, steps: &[Step]) -> Vec<Step> {
    let mut steps = steps.to_vec();
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let (mut at, mut shorter) = (0, false);
        while at < steps.len() {
            let without: Vec<Step> = [&steps[..at], &steps[steps.len().min(at + size)..]].concat();
            if caught(seed, &without).1.is_err() {
                steps = without;
                shorter = true;
            } else {
                at += size;
            }
        }
        if !(shorter && size == 1) {
            size /= 2;
        }
    }
    steps
}

/// What to say of a failing schedule.
pub fn told(seed: u64, steps: &[Step], why: &str) -> String {
    let short = shrink(seed, steps);
    let (why_short, trace) = match caught(seed, &short) {
        (Some(_), result) => (result.err().unwrap_or_default(), run(seed, &short, true).0.told().join("\n")),
        (None, result) => (result.err().unwrap_or_default(), "(replay it for the trace)".into()),
    };
    let list: Vec<String> = short.iter().map(|s| format!("{} {:?}", s.number, s.op)).collect();
    format!(
        "seed {seed}: {why}\nshrunk from {} to {} steps: {}\nwhich fail with: {why_short}\n{trace}\n\
         replay: make sim SEED={seed}\nshrunk: make sim SEED={seed} KEEP={}",
        steps.len(),
        short.len(),
        list.join(", "),
        numbers(&short),
    )
}
