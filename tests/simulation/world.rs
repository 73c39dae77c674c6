//! One run: a bridge, an MDT, a broker, groups and their misfortunes, all drawn from one seed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bridge::{COMMIT_EVERY, Life, MIN_AGE, Outcome};
use crate::broker::Broker;
use crate::judge::{Judge, Leave};
use crate::mdt::Mdt;
use clbridge::core::{ClearOutcome, Clearable, Event, Stop};
use clbridge_sinks::{GroupSpec, Policy, TopicIx};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Steps of a run with misfortune, before everything has to come to rest.
pub const STEPS: usize = 600;

/// See the module.
pub struct World {
    rng: StdRng,
    now: u64,
    pub mdt: Mdt,
    committed_at: u64,
    broker: Broker,
    groups: Vec<GroupSpec>,
    /// Where each group truly is, by partition: what its members have finished.
    done: BTreeMap<String, Vec<u64>>,
    life: Option<Life>,
    /// Clears that a process, maybe a dead one, left in the kernel.
    kernel: Vec<(Clearable, bool)>,
    pub judge: Judge,
    pub trace: Vec<String>,
    pub faults: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let partitions = rng.random_range(1..5);
        let names = &["robinhood", "lake", "audit"][..rng.random_range(1..4)];
        let replicated = rng.random_bool(0.8);
        let mut judge = Judge::default();
        let groups: Vec<GroupSpec> = names
            .iter()
            .map(|name| {
                let leave = rng.random_bool(0.4).then(|| leave(&mut rng));
                // What only one broker holds is not let go, whatever was asked for.
                judge.group(name, leave.filter(|_| replicated));
                let mut spec: GroupSpec = serde_json::from_value(serde_json::json!({"name": name})).unwrap();
                if let Some(Leave { backlog, age }) = leave {
                    spec.policy = Policy::Release { backlog, age: age.map(Duration::from_millis) };
                }
                spec
            })
            .collect();
        Self {
            done: names.iter().map(|n| ((*n).to_owned(), vec![0; partitions])).collect(),
            rng,
            now: 1_000_000,
            mdt: Mdt::new(),
            committed_at: 1_000_000,
            broker: Broker::new(partitions, replicated),
            groups,
            life: None,
            kernel: Vec::new(),
            judge,
            trace: Vec::new(),
            faults: BTreeMap::new(),
        }
    }

    fn log(&mut self, what: String) {
        self.trace.push(format!("{} {what}", self.now));
    }

    fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
        self.log(format!("fault: {kind}"));
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        if self.now - self.committed_at >= COMMIT_EVERY {
            self.mdt.commit();
            self.committed_at = self.now;
        }
    }

    fn one(&mut self, faults: bool) -> Result<(), String> {
        let ms = self.rng.random_range(1..60);
        self.pass(ms);
        match self.rng.random_range(0..100) {
            0..20 => {
                let count = self.rng.random_range(1..40);
                self.mdt.emit(count, self.now);
            }
            20..45 => self.bridge_reads(),
            45..55 => {
                if let Some(l) = &mut self.life {
                    l.seal(self.now);
                }
            }
            55..65 => {
                if let Some(l) = &mut self.life {
                    l.committed(&mut self.broker, &mut self.judge, self.now);
                }
            }
            65..80 => self.group_works(),
            80..90 => self.bridge_observes(),
            90..94 => {
                if let Some(l) = &mut self.life {
                    l.answer_probe(&self.mdt, self.now);
                }
            }
            94..96 => self.bridge_clears()?,
            96..97 => self.bridge_trims()?,
            _ if faults => self.misfortune()?,
            _ => {}
        }
        if self.life.is_none() {
            self.start()?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), String> {
        match Life::start(&self.mdt, &mut self.broker, &self.groups, self.now) {
            Ok(life) => {
                self.life = life;
                self.judge.began();
                self.log("start".into());
                // As `pipeline::life`: positions are looked at before anything is published.
                self.bridge_observes();
                Ok(())
            }
            Err(stop) => Err(stopped(&stop)),
        }
    }

    fn bridge_reads(&mut self) {
        let max = self.rng.random_range(1..64);
        let Some(l) = &mut self.life else { return };
        if let Outcome::Restart = l.read(&self.mdt, max, self.now) {
            self.log("restart: suspected".into());
            self.dies(false);
        }
    }

    fn bridge_observes(&mut self) {
        let version = 1;
        let Some(l) = &mut self.life else { return };
        let t = Duration::from_millis(self.now);
        l.core.on(Event::Registry { version }, t);
        for spec in &self.groups {
            l.core.on(Event::GroupChanged(spec.clone()), t);
        }
        let progress = self.broker.progress();
        l.core.on(Event::Progress(&progress), t);
        for hold in l.core.ledger().groups().filter_map(|(_, g)| g.hold()) {
            self.judge.held(&hold);
            *self.faults.entry(hold.reason()).or_default() += 1;
        }
        match l.act(&self.broker, self.now) {
            Outcome::Fine => {}
            Outcome::Restart => {
                self.log("restart: the core says so".into());
                self.dies(false);
            }
            Outcome::Stop(stop) => panic!("{}", stopped(&stop)),
        }
    }

    fn bridge_clears(&mut self) -> Result<(), String> {
        if let Some(l) = &mut self.life
            && let Some(upto) = l.issue_clear(self.now)
        {
            self.judge.issued(upto.index().get(), &self.broker, self.now)?;
            self.kernel.push((upto, true));
        }
        // The kernel may keep a clear for a while.
        if self.kernel.is_empty() || self.rng.random_bool(0.3) {
            return Ok(());
        }
        let (upto, ours) = self.kernel.remove(0);
        let outcome = match self.mdt.clear(upto.index().get()) {
            Ok(recs) => {
                self.log(format!("cleared up to {}", upto.index()));
                self.judge.cleared(&recs, self.now)?;
                ClearOutcome::Done
            }
            Err(()) => ClearOutcome::Beyond,
        };
        if let (true, Some(l)) = (ours, &mut self.life) {
            l.core.on(Event::Cleared { upto, outcome }, Duration::from_millis(self.now));
        }
        Ok(())
    }

    fn bridge_trims(&mut self) -> Result<(), String> {
        let Some(l) = &self.life else { return Ok(()) };
        let gone = self.broker.trim(&l.core.trimmable(TopicIx(0)));
        self.judge.trimmed(&gone, &self.mdt, &self.broker)
    }

    fn group_works(&mut self) {
        let g = self.rng.random_range(0..self.groups.len());
        // Who may be let go is slow, or it would never be.
        if self.groups[g].policy != Policy::Hold && self.rng.random_bool(0.8) {
            return;
        }
        let name = self.groups[g].name.clone();
        if !self.broker.groups.contains_key(&name) {
            return;
        }
        let p = self.rng.random_range(0..self.broker.end.len());
        let from = self.done[&name][p];
        let end = self.broker.end[p];
        if from >= end {
            return;
        }
        let to = if self.rng.random_bool(0.5) { end } else { self.rng.random_range(from..=end) };
        let uids: Vec<u64> = self.broker.partitions[p]
            .iter()
            .filter(|e| e.offset >= from && e.offset < to && e.retracts.is_none())
            .map(|e| e.uid)
            .collect();
        self.judge.acknowledged(&name, uids.into_iter());
        self.done.get_mut(&name).unwrap()[p] = to;
        // A group whose position was bent stays so until somebody puts it right.
        let committed = &mut self.broker.groups.get_mut(&name).unwrap()[p];
        if committed.is_some_and(|c| c <= to) {
            *committed = Some(to);
        }
    }

    /// The bridge is gone; what it had asked the broker to commit may or may not have arrived.
    fn dies(&mut self, killed: bool) {
        let Some(life) = self.life.take() else { return };
        if let Some(batch) = life.committing {
            if self.rng.random_bool(0.5) {
                self.broker.commit(&batch);
                self.judge.published(&batch, self.now);
            } else {
                self.broker.abort(&batch);
            }
        }
        for c in &mut self.kernel {
            c.1 = false;
        }
        if killed && self.rng.random_bool(0.5) {
            // A clear was just being written.
            self.kernel.extend(
                life.clears.iter().filter(|(_, until)| until.as_millis() as u64 > self.now).map(|(c, _)| (*c, false)),
            );
        }
    }

    fn misfortune(&mut self) -> Result<(), String> {
        match self.rng.random_range(0..100) {
            0..30 => {
                self.fault("bridge_killed");
                if self.rng.random_bool(0.3) {
                    // It has just trimmed by what it saw, and State does not tell of it yet.
                    self.bridge_observes();
                    self.bridge_trims()?;
                }
                self.dies(true);
            }
            30..50 => {
                let down = self.life.is_none();
                self.fault(if down { "mdt_crash_while_down" } else { "mdt_crash" });
                // An outage lasts seconds, and clears in the kernel wait for its end.
                let outage = self.rng.random_range(2_100..20_000);
                let replayed = match self.rng.random_range(0..3) {
                    0 => 0,
                    1 => self.rng.random_range(0..20),
                    _ => self.rng.random_range(20..200),
                };
                self.now += outage;
                self.mdt.crash(replayed, self.now);
                self.committed_at = self.now;
                if self.rng.random_bool(0.2) {
                    self.fault("bridge_killed_at_crash");
                    self.dies(true);
                }
            }
            50..60 => {
                self.fault("stall");
                let ms = self.rng.random_range(100..MIN_AGE * 2);
                self.pass(ms);
            }
            60..70 => self.bend("position_vanished", |_, _, _| None),
            70..80 => self.bend("position_back", |rng, at, _| Some(rng.random_range(0..=at))),
            80..90 => self.bend("position_beyond", |rng, _, end| Some(end + rng.random_range(1..50))),
            _ => {
                self.fault("accept");
                self.put_right();
            }
        }
        Ok(())
    }

    fn bend(&mut self, kind: &'static str, to: impl Fn(&mut StdRng, u64, u64) -> Option<u64>) {
        let g = self.rng.random_range(0..self.groups.len());
        let p = self.rng.random_range(0..self.broker.end.len());
        let end = self.broker.end[p];
        let name = self.groups[g].name.clone();
        let Some(positions) = self.broker.groups.get_mut(&name) else { return };
        if let Some(at) = positions[p] {
            positions[p] = to(&mut self.rng, at, end);
            self.fault(kind);
            // A position beyond the end that the end overtakes before anybody looks is a commit like any other: what
            // the broker does not show cannot be told.
            if self.life.as_ref().is_some_and(|l| l.committing.is_none()) {
                self.bridge_observes();
                // And State must tell of it before the bridge dies: see docs/decisions/position-beyond-the-end.md.
                if let Some(l) = &mut self.life {
                    l.seal(self.now);
                    l.committed(&mut self.broker, &mut self.judge, self.now);
                }
            } else {
                self.put_right();
            }
        }
    }

    /// An operator writes the groups' true positions and accepts them.
    fn put_right(&mut self) {
        for spec in &mut self.groups {
            if let Some(positions) = self.broker.groups.get_mut(&spec.name) {
                *positions = self.done[&spec.name].iter().map(|d| Some(*d)).collect();
                spec.accept += 1;
            }
        }
    }

    /// No more misfortune: everything must come to rest with nothing left on the MDT.
    fn settle(&mut self) -> Result<(), String> {
        self.put_right();
        for _ in 0..40_000 {
            self.pass(20);
            self.bridge_reads();
            if let Some(l) = &mut self.life {
                l.seal(self.now);
                l.committed(&mut self.broker, &mut self.judge, self.now);
            }
            self.group_works();
            self.bridge_observes();
            if let Some(l) = &mut self.life {
                l.answer_probe(&self.mdt, self.now);
            }
            self.bridge_clears()?;
            self.bridge_trims()?;
            if self.life.is_none() {
                self.start()?;
            }
            if self.life.is_none() {
                // Nothing readable after a crash: the next record tells what happened.
                self.mdt.emit(1, self.now);
            }
            let at_rest = self.kernel.is_empty() && self.mdt.cleared() == self.mdt.newest();
            if at_rest && self.done.values().all(|done| *done == self.broker.end) {
                return self.judge.end(&self.mdt, &self.broker);
            }
        }
        let status = self.life.as_ref().map(|l| l.core.snapshot("cl1", Duration::from_millis(self.now)));
        Err(format!(
            "the backlog never came back to zero: cleared {} of {}: {status:?}",
            self.mdt.cleared(),
            self.mdt.newest()
        ))
    }
}

/// Limits that a run of these lengths can reach.
fn leave(rng: &mut StdRng) -> Leave {
    let backlog = rng.random_range(20..300);
    let age = rng.random_range(2_000..20_000);
    match rng.random_range(0..3) {
        0 => Leave { backlog: Some(backlog), age: None },
        1 => Leave { backlog: None, age: Some(age) },
        _ => Leave { backlog: Some(backlog), age: Some(age) },
    }
}

fn stopped(stop: &Stop) -> String {
    format!("stopped although no crash reached below what is stable: {}: {}", stop.reason, stop.text)
}

/// One run; its trace, its faults, and what it cleared.
pub fn run(seed: u64) -> (World, Result<(), String>) {
    let mut w = World::new(seed);
    let result = (0..STEPS).try_for_each(|_| w.one(true)).and_then(|()| w.settle());
    (w, result)
}
