//! What a range of seeds met, and that nothing was left out.

use std::collections::BTreeMap;
use std::fmt;

use clbridge::core::Reason;
use serde_json::{Value, json};

use crate::schedule::Fault;
use crate::world::World;

/// Reasons for which the core stops an MDT.
const STOPS: [&str; 4] = ["state_unreadable", "foreign_records", "stopped_below_stable", "topic_changed"];
/// What comes with a fault now and then, and must have come too.
const WITH_FAULTS: [&str; 3] = ["clear_again", "group_late_newest", "group_late_oldest"];
/// What a bridge may be held or stopped for is found in a run of so many schedules at least.
pub const ENOUGH: u64 = 20_000;

#[derive(Default)]
pub struct Report {
    runs: u64,
    kinds: BTreeMap<String, u64>,
    steps: u64,
    faults: BTreeMap<&'static str, u64>,
    holds: BTreeMap<String, u64>,
    stops: BTreeMap<&'static str, u64>,
    cleared: u64,
    taken_back: u64,
    retracted: u64,
    released: u64,
    trimmed: u64,
}

impl Report {
    pub fn add(&mut self, w: &World) {
        self.runs += 1;
        *self.kinds.entry(format!("{:?}", w.broker.kind)).or_default() += 1;
        self.steps += w.met.steps;
        for (kind, n) in &w.met.faults {
            *self.faults.entry(kind).or_default() += n;
        }
        for (kind, n) in &w.met.holds {
            *self.holds.entry(kind.clone()).or_default() += n;
        }
        if let Some(reason) = w.met.stop {
            *self.stops.entry(reason).or_default() += 1;
        }
        self.cleared += w.judge.cleared;
        self.taken_back += w.mdt.taken_back;
        self.retracted += w.judge.retracted;
        self.released += w.judge.released();
        self.trimmed += w.judge.trimmed;
    }

    /// All of it, for docs/delivery.
    pub fn figures(&self) -> Value {
        json!({
            "schedules": self.runs, "kinds": self.kinds, "steps": self.steps, "cleared": self.cleared,
            "taken_back": self.taken_back, "retractions": self.retracted, "released": self.released,
            "trimmed": self.trimmed, "faults": self.faults, "holds": self.holds, "stops": self.stops,
        })
    }

    pub fn everything_occurred(&self) {
        for fault in Fault::ALL.iter().map(|(fault, _)| fault.name()).chain(WITH_FAULTS) {
            assert!(self.faults.get(fault).is_some_and(|n| *n > 0), "{fault} never happened");
        }
        for hold in Reason::ALL.iter().map(|r| r.as_str()) {
            assert!(self.holds.get(hold).is_some_and(|n| *n > 0), "nothing was ever held for {hold}");
        }
        for stop in STOPS {
            assert!(self.stops.get(stop).is_some_and(|n| *n > 0), "no MDT was ever stopped for {stop}");
        }
        assert!(self.runs >= ENOUGH, "only {} schedules", self.runs);
        assert!(self.released > 0 && self.trimmed > 0 && self.retracted > 0);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "simulation: {} schedules {:?}, {} steps", self.runs, self.kinds, self.steps)?;
        writeln!(
            f,
            "{} records cleared, {} taken back, {} retractions, {} released and had later, {} trimmed",
            self.cleared, self.taken_back, self.retracted, self.released, self.trimmed
        )?;
        writeln!(f, "faults: {:?}", self.faults)?;
        writeln!(f, "holds: {:?}", self.holds)?;
        write!(f, "stops: {:?}", self.stops)
    }
}
