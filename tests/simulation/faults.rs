//! What goes wrong in a run.

use clbridge_sinks::StartAt;

use crate::broker::{Entry, Kind};
use crate::content::{FEEDS, MIN_AGE, head};
use crate::draw::Draw;
use crate::schedule::{Fault, Op, STEPS};
use crate::world::World;

impl World {
    /// One misfortune. Where it cannot happen, nothing does.
    pub fn misfortune(&mut self, fault: Fault, step: usize, draw: &mut Draw) -> Result<(), String> {
        let before = self.met.faults.get(fault.name()).copied().unwrap_or_default();
        *self.met.faults.entry(fault.name()).or_default() += 1;
        self.log(|| format!("fault: {}", fault.name()));
        if self.happens(fault, step, draw)? {
            return Ok(());
        }
        self.met.faults.insert(fault.name(), before);
        self.log(|| "(it could not happen)".into());
        Ok(())
    }

    fn happens(&mut self, fault: Fault, step: usize, draw: &mut Draw) -> Result<bool, String> {
        let alive = self.life.is_some();
        let later = |from: u64, to: u64, draw: &mut Draw, now: u64| now + draw.range(from, to);
        match fault {
            Fault::BridgeKilled => {
                if draw.percent(30) {
                    // It has just trimmed by what it saw, and State does not tell of it yet.
                    self.look(true, draw)?;
                    self.bridge_trims()?;
                }
                self.dies(true, draw)?;
            }
            Fault::BridgeStopped => self.stops(draw)?,
            Fault::BridgeStalled => {
                if !alive || self.zombie.is_some() {
                    return Ok(false);
                }
                self.zombie = self.life.take();
                self.until.zombie = later(500, 30_000, draw, self.now);
                self.owner = if self.owner == "a" { "b" } else { "a" };
                self.pass(draw.range(0, 14_000));
            }
            Fault::MdtCrash => self.crash(draw),
            Fault::MdtCrashTwice => {
                self.crash(draw);
                self.crash(draw);
            }
            Fault::KilledAtCrash => {
                self.crash(draw);
                self.dies(true, draw)?;
            }
            Fault::CrashWhileDown => {
                self.dies(true, draw)?;
                self.crash(draw);
            }
            Fault::Purge => {
                let newest = self.mdt.newest();
                let recs = self.mdt.purge(draw.range(0, newest + 1));
                self.judge.purged(&recs);
                return Ok(!recs.is_empty());
            }
            Fault::ChangelogReset => {
                if step < STEPS / 2 {
                    return Ok(false);
                }
                // Its user is gone too, so that no clear of before reaches what comes now: neither one that is on its
                // way, nor one of a bridge that stands still.
                self.dies(false, draw)?;
                self.zombie = None;
                let lost = self.mdt.reset();
                self.judge.crashed(&lost, 0, self.mdt.next_uid);
                self.kernel.clear();
                self.again.clear();
                self.doomed.extend(["stopped_below_stable", "stopped_reset"]);
                self.now += draw.range(2_100, 20_000);
                self.committed_at = self.now;
            }
            Fault::ClearDelayed => self.until.kernel = later(500, 20_000, draw, self.now),
            Fault::MdtBusy => self.until.mdt_busy = later(500, 10_000, draw, self.now),
            Fault::UserUnknown => self.until.user_unknown = later(500, 10_000, draw, self.now),
            Fault::Stall => self.pass(draw.range(100, MIN_AGE * 2)),
            Fault::BrokerStalled => self.until.broker = later(500, 20_000, draw, self.now),
            Fault::Disconnected => {
                self.dies(false, draw)?;
                return Ok(alive);
            }
            Fault::CommitRefused => {
                // The broker ends the transaction, or a message is too much for it.
                let Some(l) = self.life.as_mut().filter(|l| !l.requests.is_empty()) else { return Ok(false) };
                let request = l.requests.pop_front();
                if let Some(crate::broker::Request::Batch { messages, .. }) = request {
                    self.broker.abort(&messages);
                }
                if self.broker.kind == Kind::Confirming {
                    // The channel is closed: nothing behind it is taken.
                    l.epoch = 0;
                }
                l.replies.push_back(crate::broker::Reply::Refused);
            }
            Fault::ConfirmationLost => {
                if self.life.as_ref().is_none_or(|l| l.requests.is_empty()) {
                    return Ok(false);
                }
                self.broker_answers(1)?;
                let lost = self.life.as_mut().and_then(|l| l.replies.pop_back());
                return Ok(lost.is_some());
            }
            Fault::ConfirmationLate => {
                let until = later(500, 12_000, draw, self.now);
                let Some(l) = &mut self.life else { return Ok(false) };
                l.replies_held_until = until;
            }
            Fault::StateUnreadable => {
                self.until.state = later(500, 8_000, draw, self.now);
                self.dies(true, draw)?;
            }
            Fault::StateLost => {
                if step < STEPS / 2 || self.broker.state.is_none() {
                    return Ok(false);
                }
                self.dies(true, draw)?;
                self.adrift.clear();
                self.broker.state = None;
                let used =
                    self.broker.logs.iter().flat_map(|l| &l.partitions).any(|p| p.low > 0 || !p.entries.is_empty());
                self.doomed.extend(used.then_some("state_unreadable"));
            }
            Fault::ForeignRecord => return Ok(step >= STEPS / 2 && self.foreign(draw)),
            Fault::TopicRecreated => {
                if step < STEPS / 2 || self.broker.state.is_none() {
                    return Ok(false);
                }
                let log = &mut self.broker.logs[draw.below(FEEDS)];
                log.id = "life-2".into();
                log.positions.clear();
                log.partitions.iter_mut().for_each(|p| *p = Default::default());
                self.adrift.clear();
                self.doomed.push("topic_changed");
                // The living bridge learns of it at its next look, else the next start does.
                self.look(true, draw)?;
                self.dies(true, draw)?;
            }
            Fault::RegistryUnreadable => self.until.registry = later(500, 20_000, draw, self.now),
            Fault::PositionsUnreadable => self.until.positions = later(500, 20_000, draw, self.now),
            Fault::PositionVanished => return self.bend(draw, |_, _, _| None),
            Fault::PositionBack => return self.bend(draw, |draw, at, _| Some(draw.range(0, at + 1))),
            Fault::PositionBeyond => return self.bend(draw, |draw, _, end| Some(end + draw.range(1, 50))),
            Fault::RecordsDeleted => return self.delete(draw),
            Fault::MemberDied => {
                let n = draw.below(self.groups.len());
                self.groups[n].member_died();
            }
            Fault::GroupLate => return Ok(self.register_late(draw)),
            Fault::GroupRemoved => {
                let names: Vec<String> = self.registry.groups.keys().cloned().collect();
                if names.len() < 2 {
                    return Ok(false);
                }
                self.registry.groups.remove(&names[draw.below(names.len())]);
                self.registry.version += 1;
            }
            Fault::Accept => self.put_right(),
            Fault::Repair => return Ok(self.ask_for_repairs()),
        }
        Ok(true)
    }

    /// An outage lasts seconds, and clears in the kernel wait for its end.
    fn crash(&mut self, draw: &mut Draw) {
        self.now += draw.range(2_100, 20_000);
        let replayed = match draw.below(3) {
            0 => 0,
            1 => draw.range(0, 20),
            _ => draw.range(20, 200),
        };
        let (lost, again) = self.mdt.crash(replayed, self.now);
        self.judge.crashed(
            &lost,
            lost.first().map_or(self.mdt.newest(), |r| r.index - 1),
            self.mdt.next_uid - replayed,
        );
        self.committed_at = self.now;
        if draw.percent(60) {
            if !again.is_empty() {
                *self.met.faults.entry("clear_again").or_default() += 1;
            }
            self.again.extend(again);
        }
    }

    /// A clean stop: everything that was read becomes durable, and State says so.
    fn stops(&mut self, draw: &mut Draw) -> Result<(), String> {
        for round in 0..4 {
            let now = self.now;
            if let Some(l) = self.life.as_mut().filter(|_| round > 1) {
                l.core.on(clbridge::core::Event::Draining, std::time::Duration::from_millis(now));
            }
            self.bridge_seals();
            self.broker_answers(1_000)?;
            self.bridge_acts(Op::Reply, draw)?;
            self.pass(20);
        }
        self.dies(false, draw)
    }

    /// Somebody else writes a record of ours into a topic.
    fn foreign(&mut self, draw: &mut Draw) -> bool {
        let Some(f) = self.broker.state.as_ref().and_then(|s| s.frontier).filter(|_| self.broker.kind == Kind::Atomic)
        else {
            return false;
        };
        let index = f.id.index.checked_add(10_000).unwrap();
        let id = clbridge_schemas::ids::RecordId { incarnation: f.id.incarnation, index };
        assert_eq!(head(id, 7, None).id(), id);
        let partition = &mut self.broker.logs[0].partitions[0];
        partition.entries.push_back(Entry { offset: partition.end, id, uid: 7, retracts: None });
        partition.end += 1;
        self.doomed.push("foreign_records");
        // What was on its way in that moment would come to lie behind it.
        let _ = self.dies(true, draw);
        true
    }

    fn bend(&mut self, draw: &mut Draw, to: impl Fn(&mut Draw, u64, u64) -> Option<u64>) -> Result<bool, String> {
        if self.broker.kind == Kind::Confirming {
            // There a group's position is what it answered, kept in State.
            return Ok(false);
        }
        let g = draw.below(self.groups.len());
        let (name, topic) = (self.groups[g].name().to_owned(), self.groups[g].topic);
        let log = &mut self.broker.logs[topic];
        let Some(positions) = log.positions.get_mut(&name) else { return Ok(false) };
        let p = draw.below(positions.len());
        let Some(at) = positions[p] else { return Ok(false) };
        positions[p] = to(draw, at, log.partitions[p].end);
        // A position beyond the end that the end overtakes before anybody looks is a commit like any other: what the
        // broker does not show cannot be told. And State must tell of it before the bridge dies: see
        // docs/decisions/position-beyond-the-end.md.
        if self.can_tell() {
            self.look(true, draw)?;
            self.tell(draw)?;
        } else {
            self.groups[g].put_right(&mut self.broker);
        }
        Ok(true)
    }

    /// A look at the groups now would be heard, and State told of it.
    fn can_tell(&self) -> bool {
        let idle = self.life.as_ref().is_some_and(|l| {
            l.requests.is_empty() && l.replies.is_empty() && l.in_flight() == 0 && l.replies_held_until <= self.now
        });
        idle && self.now >= self.until.registry.max(self.until.positions).max(self.until.broker)
            && self.zombie.is_none()
    }

    fn tell(&mut self, draw: &mut Draw) -> Result<(), String> {
        self.bridge_seals();
        self.broker_answers(1_000)?;
        for _ in 0..4 {
            self.bridge_acts(Op::Reply, draw)?;
        }
        Ok(())
    }

    /// Somebody else deletes records of one partition.
    fn delete(&mut self, draw: &mut Draw) -> Result<bool, String> {
        // What was accepted before is not what is deleted now.
        let asked = |name: &str| self.registry.groups.get(name).map_or((0, 0), |s| (s.accept, s.repair));
        let pending = |l: &crate::bridge::Life| {
            l.core.ledger().groups().any(|(_, g)| {
                let (asked, done) = (asked(&g.spec.name), g.applied());
                asked.0 > done.0 || asked.1 > done.1
            })
        };
        if self.broker.kind == Kind::Confirming || !self.can_tell() || self.life.as_ref().is_none_or(pending) {
            return Ok(false);
        }
        let topic = draw.below(FEEDS);
        let p = draw.below(self.broker.logs[topic].partitions.len());
        let partition = &mut self.broker.logs[topic].partitions[p];
        // Where the last record alone tells how far a dead bridge came, nobody is allowed to delete it.
        let last = partition.entries.back().map_or(partition.low, |e| e.offset);
        let end = if self.broker.kind == Kind::Atomic { partition.end } else { last };
        let below = draw.range(partition.low, end + 1);
        let gone = partition.forget(below);
        self.judge.deleted(topic, p, &gone, &self.broker);
        self.look(true, draw)?;
        self.tell(draw)?;
        Ok(!gone.is_empty())
    }

    /// A group comes late; it may already run.
    fn register_late(&mut self, draw: &mut Draw) -> bool {
        let free: Vec<usize> = (0..self.groups.len())
            .filter(|n| !self.registry.groups.contains_key(self.groups[*n].name()) && self.groups[*n].partitions() == 0)
            .collect();
        if free.is_empty() {
            return false;
        }
        let group = &mut self.groups[draw.pick(&free)];
        group.runs = draw.percent(40);
        let from = if group.spec.from == StartAt::Newest { "group_late_newest" } else { "group_late_oldest" };
        *self.met.faults.entry(from).or_default() += 1;
        self.registry.groups.insert(group.name().to_owned(), group.spec.clone());
        self.registry.version += 1;
        true
    }

    /// An operator writes the groups' true positions and accepts them.
    pub fn put_right(&mut self) {
        for g in &mut self.groups {
            g.put_right(&mut self.broker);
            if let Some(spec) = self.registry.groups.get_mut(g.name()) {
                spec.accept += 1;
                g.spec.accept = spec.accept;
                self.judge.goes_on_without(g.name(), &[]);
            }
        }
        self.registry.version += 1;
    }

    /// An operator asks for the repair of every group that lost records; false if there is none.
    fn ask_for_repairs(&mut self) -> bool {
        let mut any = false;
        for n in 0..self.groups.len() {
            if self.eviction_of(self.groups[n].name())
                && let Some(spec) = self.registry.groups.get_mut(self.groups[n].name())
            {
                spec.repair += 1;
                self.groups[n].spec.repair = spec.repair;
                any = true;
            }
        }
        self.registry.version += u64::from(any);
        any
    }
}
