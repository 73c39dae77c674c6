//! The model groups: what their members have truly done, beside what the broker says of it.

use std::collections::BTreeSet;

use clbridge_sinks::{GroupSpec, Offsets, StartAt};

use crate::broker::{Broker, Kind, repair_name};
use crate::content::{partition_of, takes};
use crate::draw::Draw;
use crate::judge::Judge;
use crate::mdt::Mdt;

/// How far members work ahead of each other within a partition, where the broker lets them.
const AHEAD: usize = 12;

/// One partition as the group's members see it.
#[derive(Clone, Default)]
struct Part {
    /// Everything below this was done.
    done: u64,
    /// Everything below this was given to a member.
    given: u64,
    /// Done beyond `done`, out of order.
    beyond: BTreeSet<u64>,
}

pub struct Group {
    pub spec: GroupSpec,
    pub topic: usize,
    /// Who may be let go is slow, or it would never be.
    pub slow: bool,
    /// It already runs when it is registered: no position can then be written for it.
    pub runs: bool,
    joined: bool,
    parts: Vec<Part>,
}

impl Group {
    pub fn new(spec: GroupSpec, topic: usize, slow: bool) -> Self {
        Self { spec, topic, slow, runs: false, joined: false, parts: Vec::new() }
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The bridge registers it: first positions are written, or its own beginning counts.
    pub fn join(&mut self, broker: &mut Broker, judge: &mut Judge) -> Offsets {
        let first = broker.register(&self.spec.name, self.topic, self.spec.from, self.runs);
        if !self.joined {
            self.joined = true;
            let log = &broker.logs[self.topic];
            let newest = self.spec.from == StartAt::Newest;
            let begin = |(at, p): (&Option<u64>, &crate::broker::Partition)| {
                let own = if newest { p.end } else { p.low };
                let done = at.unwrap_or(own);
                Part { done, given: done, beyond: BTreeSet::new() }
            };
            self.parts = first.iter().zip(&log.partitions).map(begin).collect();
            let from: Vec<u64> = self.parts.iter().map(|p| p.done).collect();
            judge.joined(&self.spec.name, self.topic, broker, &from);
        }
        first
    }

    /// Its members do some work in one partition; `all`: everything there is.
    pub fn work(&mut self, p: usize, all: bool, draw: &mut Draw, broker: &mut Broker, judge: &mut Judge) {
        if !self.joined {
            return;
        }
        let (kind, name) = (broker.kind, &self.spec.name);
        let log = &mut broker.logs[self.topic];
        let (part, partition) = (&mut self.parts[p], &log.partitions[p]);
        // What was deleted is not delivered.
        part.done = part.done.max(partition.low);
        part.given = part.given.max(part.done);
        if kind == Kind::Atomic {
            let ahead = partition.entries.len() - partition.place(part.given);
            if all || draw.percent(50) {
                let upto = if all || draw.percent(50) { ahead } else { draw.below(ahead + 1) };
                part.given = match partition.entries.get(partition.place(part.given) + upto) {
                    Some(e) => e.offset,
                    None => partition.end,
                };
            }
            if all || draw.percent(60) {
                let (from, to) = (partition.place(part.done), partition.place(part.given));
                judge.acknowledged(name, partition.entries.range(from..to).map(|e| e.uid));
                part.done = part.given;
            }
        } else {
            let from = partition.place(part.done);
            let to = if all { partition.entries.len() } else { partition.entries.len().min(from + AHEAD) };
            for e in partition.entries.range(from..to) {
                if !part.beyond.contains(&e.offset) && (all || draw.percent(40)) {
                    part.beyond.insert(e.offset);
                    judge.acknowledged(name, std::iter::once(e.uid));
                }
            }
            for e in partition.entries.range(from..) {
                if !part.beyond.remove(&e.offset) {
                    break;
                }
                part.done = e.offset + 1;
            }
            part.given = part.done;
        }
        if let Some(positions) = log.positions.get_mut(name) {
            positions[p] = Some(part.done);
        }
    }

    /// Reads its repair topic, if it has one.
    pub fn read_repair(&self, broker: &mut Broker, judge: &mut Judge) {
        if let Some(r) = broker.repairs.get_mut(&self.spec.name) {
            judge.acknowledged(&self.spec.name, r.uids[r.committed as usize..].iter().copied());
            r.committed = r.uids.len() as u64;
        }
    }

    /// A member dies: what it was given and had not committed is delivered again.
    pub fn member_died(&mut self) {
        self.parts.iter_mut().for_each(|p| p.given = p.done);
    }

    /// An operator writes its true positions into the broker.
    pub fn put_right(&mut self, broker: &mut Broker) {
        let Some(positions) = broker.logs[self.topic].positions.get_mut(&self.spec.name) else { return };
        if self.joined {
            *positions = self.parts.iter().map(|p| Some(p.done)).collect();
        }
    }

    /// Everything that stands in the broker was done.
    pub fn is_through(&self, broker: &Broker) -> bool {
        let behind = |(part, p): (&Part, &crate::broker::Partition)| p.place(part.done) == p.entries.len();
        self.joined && self.parts.iter().zip(&broker.logs[self.topic].partitions).all(behind)
    }

    pub fn partitions(&self) -> usize {
        self.parts.len()
    }

    /// `groups repair`, as `pipeline::repair` carries it out: what the MDT still has of the evicted records goes to a
    /// topic of the group's own. Returns its name and end and the positions that are missing.
    pub fn repair(
        &self,
        evicted: &[(u32, u64, u64)],
        floor: u64,
        frontier: u64,
        mdt: &Mdt,
        broker: &mut Broker,
    ) -> (String, Vec<u64>, u64) {
        let log = &broker.logs[self.topic];
        let bound = |p: u32, low: u64| {
            let p = &log.partitions[p as usize];
            p.entries.get(p.place(low)).map_or(frontier + 1, |e| e.id.index.get())
        };
        let bounds: Vec<(usize, u64)> = evicted.iter().map(|&(p, _, low)| (p as usize, bound(p, low))).collect();
        let last = bounds.iter().map(|(_, b)| *b).max().unwrap_or(0);
        let whole = mdt.readable(floor + 1).next().is_some_and(|r| r.index == floor + 1);
        let partitions = log.partitions.len();
        let wanted = |uid: u64, index: u64| {
            let p = partition_of(uid, partitions);
            takes(self.topic, uid) && bounds.iter().any(|(at, bound)| *at == p && index < *bound)
        };
        let again: Vec<u64> = mdt
            .readable(floor + 1)
            .take_while(|r| r.index < last)
            .filter(|r| wanted(r.uid, r.index))
            .map(|r| r.uid)
            .collect();
        let positions: u64 = evicted.iter().map(|(_, at, low)| low - at).sum();
        let missing = if whole { 0 } else { positions.saturating_sub(again.len() as u64) };
        let repair = broker.repairs.entry(self.spec.name.clone()).or_insert_with(|| crate::broker::RepairLog {
            topic: self.topic,
            uids: Vec::new(),
            committed: 0,
        });
        repair.uids.extend(again);
        (repair_name(&self.spec.name, self.topic), vec![repair.uids.len() as u64], missing)
    }
}
