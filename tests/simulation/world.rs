//! One run: bridges, an MDT, a broker and groups, all drawn from one seed.

use std::collections::{BTreeMap, VecDeque};

use clbridge::core::ledger::WithoutGroups;
use clbridge::core::{Clearable, Hold, Stop};
use clbridge_sinks::Registry;

use crate::bridge::{Ended, Life};
use crate::broker::{Broker, Kind, Reply, Request};
use crate::cast::{NAMES, leave, spec};
use crate::content::COMMIT_EVERY;
use crate::draw::Draw;
use crate::groups::Group;
use crate::judge::Judge;
use crate::mdt::Mdt;
use crate::schedule::{Op, Step};
use crate::start::Around;

/// A bridge waits until the State of another one has not changed for so long, milliseconds.
const TAKEOVER_AFTER: u64 = 10_000;

/// What one run met.
#[derive(Default)]
pub struct Met {
    pub faults: BTreeMap<&'static str, u64>,
    pub holds: BTreeMap<String, u64>,
    pub stop: Option<&'static str>,
    pub steps: u64,
}

/// A clear in the kernel, and the life that waits for it.
pub struct InKernel {
    pub upto: Clearable,
    pub life: u64,
}

/// Times until which something does not answer.
#[derive(Default)]
pub struct Until {
    pub broker: u64,
    pub state: u64,
    pub registry: u64,
    pub positions: u64,
    pub mdt_busy: u64,
    pub user_unknown: u64,
    pub kernel: u64,
    pub zombie: u64,
}

pub struct World {
    pub now: u64,
    pub mdt: Mdt,
    pub committed_at: u64,
    pub broker: Broker,
    pub registry: Registry,
    pub groups: Vec<Group>,
    pub without_groups: WithoutGroups,
    pub life: Option<Life>,
    /// An older bridge that slept while another one took over.
    pub zombie: Option<Life>,
    /// The bridge that runs now.
    pub owner: &'static str,
    pub lives: u64,
    /// Requests of dead connections that may still arrive.
    pub adrift: Vec<(u64, VecDeque<Request>)>,
    pub kernel: VecDeque<InKernel>,
    /// Clears that a recovering MDT carries out again.
    pub again: Vec<u64>,
    pub until: Until,
    pub judge: Judge,
    /// Reasons for which the MDT may have to be stopped after what happened.
    pub doomed: Vec<&'static str>,
    pub met: Met,
    pub trace: Option<Vec<String>>,
}

impl World {
    fn new(seed: u64, traced: bool) -> Self {
        let mut draw = Draw::new(seed);
        let kind = Kind::ALL[(seed % 3) as usize];
        let partitions = |draw: &mut Draw| if kind == Kind::Atomic { 1 + draw.below(4) } else { 1 };
        let partitions = [partitions(&mut draw), partitions(&mut draw)];
        let replicated = draw.percent(80);
        let without_groups = if draw.percent(10) { WithoutGroups::Durable } else { WithoutGroups::Hold };
        let mut judge = Judge::new(partitions, without_groups == WithoutGroups::Durable);
        let groups: Vec<Group> = (0..NAMES.len())
            .map(|n| {
                let leave = draw.percent(40).then(|| leave(&mut draw));
                // What only one broker holds is not let go, whatever was asked for.
                if let Some(leave) = leave.filter(|_| replicated) {
                    judge.may_leave(NAMES[n], leave);
                }
                Group::new(spec(n, leave, &mut draw), usize::from(n == 3), leave.is_some())
            })
            .collect();
        let registered = if draw.percent(15) { 0 } else { 1 + draw.below(3) };
        let mut registry = Registry { version: 1, ..Registry::default() };
        for g in groups.iter().take(registered) {
            registry.groups.insert(g.name().to_owned(), g.spec.clone());
        }
        Self {
            now: 1_000_000,
            mdt: Mdt::new(),
            committed_at: 1_000_000,
            broker: Broker::new(kind, partitions, replicated),
            registry,
            groups,
            without_groups,
            life: None,
            zombie: None,
            owner: "a",
            lives: 0,
            adrift: Vec::new(),
            kernel: VecDeque::new(),
            again: Vec::new(),
            until: Until::default(),
            judge,
            doomed: Vec::new(),
            met: Met::default(),
            trace: traced.then(Vec::new),
        }
    }

    pub fn log(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now} {}", what()));
        }
    }

    pub fn pass(&mut self, ms: u64) {
        self.now += ms;
        if self.now - self.committed_at >= COMMIT_EVERY {
            self.mdt.commit();
            self.committed_at = self.now;
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let mut draw = Draw::new(step.salt);
        self.met.steps += 1;
        let ms = draw.range(1, 60);
        self.pass(ms);
        match step.op {
            Op::Emit => {
                let count = draw.range(1, 40);
                self.mdt.emit(count, self.now);
            }
            Op::Work => self.groups_work(&mut draw),
            Op::Adrift => self.one_adrift(&mut draw)?,
            Op::Zombie => self.zombie_acts(&mut draw)?,
            Op::Fault(fault) => self.misfortune(fault, step.number, &mut draw)?,
            op => self.bridge_acts(op, &mut draw)?,
        }
        if self.life.is_none() {
            self.start()?;
        }
        Ok(())
    }

    /// What only the living bridge does.
    pub fn bridge_acts(&mut self, op: Op, draw: &mut Draw) -> Result<(), String> {
        let now = self.now;
        match op {
            Op::Read => {
                let max = draw.below(64) + 1;
                let lived = self.life.as_mut().map_or(Ok(()), |l| l.read(&self.mdt, max, now));
                self.ended(lived, draw)
            }
            Op::Seal => {
                self.bridge_seals();
                Ok(())
            }
            Op::Broker => self.broker_answers(1 + draw.below(60)),
            Op::Reply => self.bridge_hears(1 + draw.below(60), draw),
            Op::Observe => self.bridge_observes(draw),
            Op::Probe => {
                if let Some(l) = &mut self.life {
                    l.answer_probe(&self.mdt, now);
                }
                Ok(())
            }
            Op::Clear => self.bridge_clears(draw),
            Op::Trim => self.bridge_trims(),
            _ => Ok(()),
        }
    }

    pub fn bridge_seals(&mut self) {
        let Some(l) = &mut self.life else { return };
        l.seal(self.now);
        if let Some(Request::Batch { state, .. } | Request::State { state, .. }) = l.requests.back() {
            self.judge.intended(state, &self.mdt, self.now);
        }
    }

    fn zombie_acts(&mut self, draw: &mut Draw) -> Result<(), String> {
        if self.zombie.is_none() || self.now < self.until.zombie {
            return Ok(());
        }
        if self.life.is_none() {
            // Nobody took over yet.
            self.life = self.zombie.take();
            self.owner = if self.life.as_ref().is_some_and(|l| l.owner == "a") { "a" } else { "b" };
            return Ok(());
        }
        std::mem::swap(&mut self.life, &mut self.zombie);
        let op = draw.pick(&[Op::Read, Op::Seal, Op::Broker, Op::Reply, Op::Observe, Op::Clear, Op::Clear]);
        self.log(|| format!("zombie: {op:?}"));
        let result = self.bridge_acts(op, draw);
        std::mem::swap(&mut self.life, &mut self.zombie);
        result
    }

    pub fn start(&mut self) -> Result<(), String> {
        if self.now < self.until.state.max(self.until.broker) {
            return Ok(());
        }
        let other = self.broker.state.as_ref().is_some_and(|s| s.owner != self.owner);
        if other && self.now - self.broker.state_at < TAKEOVER_AFTER {
            return Ok(());
        }
        self.lives += 1;
        let mut around = Around {
            mdt: &self.mdt,
            broker: &mut self.broker,
            registry: &self.registry,
            groups: &mut self.groups,
            judge: &mut self.judge,
            without_groups: self.without_groups,
            now: self.now,
        };
        match Life::start(self.lives, self.owner, &mut around) {
            Ok(life) => {
                let told = life.as_ref().map_or("nothing can be told yet".into(), |l| l.plan.clone());
                self.life = life;
                self.log(|| format!("start: {told}"));
                let mut draw = Draw::new(self.now);
                // As `pipeline::life`: positions are looked at before anything is published.
                self.look(true, &mut draw)?;
                // Just now arrives what an older connection had sent, before this one sends anything.
                for _ in 0..draw.below(4) {
                    self.one_adrift(&mut draw)?;
                }
                Ok(())
            }
            Err(stop) => Err(self.stopped(&stop)),
        }
    }

    /// The broker carries out what it was asked, in order.
    pub fn broker_answers(&mut self, most: usize) -> Result<(), String> {
        let Some(l) = &mut self.life else { return Ok(()) };
        for _ in 0..most {
            if self.now < self.until.broker {
                break;
            }
            let Some(request) = l.requests.pop_front() else { break };
            let reply = self.broker.handle(l.epoch, request, &mut self.judge, &self.mdt, self.now)?;
            l.replies.push_back(reply);
        }
        Ok(())
    }

    fn bridge_hears(&mut self, most: usize, draw: &mut Draw) -> Result<(), String> {
        for _ in 0..most {
            let now = self.now;
            let Some(l) = &mut self.life else { return Ok(()) };
            let more = !l.replies.is_empty();
            let lived = l.hear(&mut self.judge, now);
            self.ended(lived, draw)?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// A request of a dead connection arrives, or the rest of them never will.
    pub fn one_adrift(&mut self, draw: &mut Draw) -> Result<(), String> {
        if self.adrift.is_empty() || self.now < self.until.broker {
            return Ok(());
        }
        let at = draw.below(self.adrift.len());
        let (epoch, requests) = &mut self.adrift[at];
        let epoch = *epoch;
        match requests.pop_front().filter(|_| draw.percent(70)) {
            Some(request) => {
                let reply = self.broker.handle(epoch, request, &mut self.judge, &self.mdt, self.now)?;
                self.log(|| format!("adrift: {}", if matches!(reply, Reply::Refused) { "refused" } else { "taken" }));
            }
            None => {
                self.adrift.swap_remove(at);
            }
        }
        Ok(())
    }

    fn groups_work(&mut self, draw: &mut Draw) {
        let n = draw.below(self.groups.len());
        let slow = self.groups[n].slow && draw.percent(80);
        if !slow && self.groups[n].partitions() > 0 {
            let p = draw.below(self.groups[n].partitions());
            self.groups[n].work(p, false, draw, &mut self.broker, &mut self.judge);
            self.groups[n].read_repair(&mut self.broker, &mut self.judge);
        }
    }

    /// A step of a bridge came back.
    pub fn ended(&mut self, lived: Result<(), Ended>, draw: &mut Draw) -> Result<(), String> {
        match lived {
            Ok(()) => Ok(()),
            Err(Ended::Restart(why)) => {
                self.log(|| format!("restart: {why}"));
                self.dies(false, draw)
            }
            Err(Ended::Stop(stop)) => Err(self.stopped(&stop)),
        }
    }

    fn stopped(&mut self, stop: &Stop) -> String {
        self.met.stop = Some(stop.reason);
        format!("stopped for no good reason: {}: {}", stop.reason, stop.text)
    }

    /// The bridge is gone; what it had on its way to the broker may or may not arrive.
    pub fn dies(&mut self, killed: bool, draw: &mut Draw) -> Result<(), String> {
        let Some(mut life) = self.life.take() else { return Ok(()) };
        let arrive = draw.below(life.requests.len() + 1);
        for request in life.requests.drain(..arrive) {
            if self
                .broker
                .handle(life.epoch, request, &mut self.judge, &self.mdt, self.now)
                .is_ok_and(|r| matches!(r, Reply::Refused))
            {
                break;
            }
        }
        // A lease or a fence ends what is left; else it may come at any time.
        match (self.broker.kind, life.requests.is_empty()) {
            (_, true) | (Kind::Confirming, _) => {}
            _ => self.adrift.push((life.epoch, life.requests)),
        }
        if killed && draw.percent(50) {
            // A clear was just being written.
            while let Some((upto, until)) = life.clears.pop_front() {
                if until.as_millis() as u64 > self.now {
                    let value = upto.index().get();
                    self.judge.issued(life.id, life.registry_at, value, &self.broker, &self.mdt, self.now)?;
                    self.kernel.push_back(InKernel { upto, life: life.id });
                }
            }
        }
        Ok(())
    }

    pub fn eviction_of(&self, name: &str) -> bool {
        let held = |l: &Life| {
            l.core.ledger().groups().any(|(_, g)| g.spec.name == name && matches!(g.hold(), Some(Hold::Evicted { .. })))
        };
        self.life.as_ref().is_some_and(held)
    }
}

/// One run with these steps.
pub fn run(seed: u64, steps: &[Step], traced: bool) -> (World, Result<(), String>) {
    let mut w = World::new(seed, traced);
    let mut result = steps.iter().try_for_each(|s| w.step(s)).and_then(|()| w.settle());
    // An MDT that had to be stopped was stopped: nothing more can be asked of it.
    if w.met.stop.is_some_and(|reason| w.doomed.contains(&reason)) {
        result = Ok(());
    }
    (w, result)
}

impl World {
    /// What was told of this run, if it was asked for.
    pub fn told(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }
}
