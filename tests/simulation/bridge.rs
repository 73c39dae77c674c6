//! One life of a bridge, driven in one thread and virtual time: what the threads of `pipeline` do, step by step.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use clbridge::core::clears::ClearSettings;
use clbridge::core::ledger::WithoutGroups;
use clbridge::core::ledger::group::GroupProgress;
use clbridge::core::{Action, ClearOutcome, Clearable, Core, Event, Found, Plan, Settings, Start, Step, Stop};
use clbridge::source::Probe;
use clbridge_schemas::avro::{Head, Retracts};
use clbridge_schemas::ids::{Digest, MdtName, RecordId};
use clbridge_schemas::lustre::{Fid, RecordType, Time};
use clbridge_sinks::state::{Mark, State};
use clbridge_sinks::{Capabilities, Durable, GroupSpec, Position, Stored, Topic, TopicIx};

use crate::broker::{Batch, Broker, Entry, TOPIC, TOPIC_ID};
use crate::judge::{Judge, dropped};
use crate::mdt::{Descriptor, Mdt, Rec};

/// Milliseconds.
pub const MIN_AGE: u64 = 5_000;
pub const COMMIT_EVERY: u64 = 1_000;
const BREAK_MS: u64 = 2_000;

/// Everything of a bridge that dies with it.
pub struct Life {
    pub core: Core,
    plan_retract: bool,
    descriptor: Descriptor,
    incarnation: u32,
    above: u64,
    last: Option<(Mark, u64)>,
    last_read_at: u64,
    open: Batch,
    /// The batch whose commit was asked for.
    pub committing: Option<Batch>,
    pub probes: VecDeque<NonZeroU64>,
    pub clears: VecDeque<(Clearable, Duration)>,
    dirty: bool,
}

/// What a step found out.
pub enum Outcome {
    Fine,
    Restart,
    Stop(Stop),
}

pub fn settings() -> Settings {
    let ms = Duration::from_millis;
    Settings {
        min_age: ms(MIN_AGE),
        clears: ClearSettings {
            batch: 50,
            every: ms(300),
            heartbeat: ms(60_000),
            state_fresh: ms(2_000),
            retry: ms(1_000),
        },
        without_groups: WithoutGroups::Hold,
        state_every: ms(2_000),
        answers_fresh: ms(10_000),
        reads: 64,
    }
}

pub fn mdt_name() -> MdtName {
    "sim-MDT0000".parse().unwrap()
}

fn partition_of(uid: u64, partitions: usize) -> usize {
    (uid.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % partitions
}

/// The model's content as a head whose digest is the uid's own: kept beside, since a digest cannot be inverted.
fn stored(p: usize, e: &Entry) -> Stored {
    Stored { at: Position { partition: p as u32, offset: e.offset }, head: head(e) }
}

fn head(e: &Entry) -> clbridge_sinks::topic::Head {
    clbridge_sinks::topic::Head::of(&Head {
        version: clbridge_schemas::avro::SchemaVersion::V5,
        mdt: "sim-MDT0000",
        index: e.id.index.get(),
        incarnation: e.id.incarnation,
        type_code: 1,
        time: Time::from_nanos(i64::try_from(e.uid).unwrap()),
        tfid: Fid { seq: e.uid, oid: 0, ver: 0 },
        retracts: e.retracts.map(|r| Retracts { incarnation: r.incarnation - 1, from: r.from, to: r.to }),
    })
    .unwrap()
}

/// The digest that [`head`] gives for this content.
pub fn digest(index: u64, uid: u64) -> Digest {
    Digest::of(index, RecordType(1), Time::from_nanos(i64::try_from(uid).unwrap()), Fid { seq: uid, oid: 0, ver: 0 })
}

fn mark(incarnation: u32, r: &Rec) -> Option<Mark> {
    let index = NonZeroU64::new(r.index)?;
    Some(Mark { id: RecordId { incarnation, index }, digest: digest(r.index, r.uid) })
}

impl Life {
    /// A start, as `pipeline::life` does it; `None`: nothing can be decided yet.
    pub fn start(mdt: &Mdt, broker: &mut Broker, groups: &[GroupSpec], now: u64) -> Result<Option<Self>, Stop> {
        let partitions = broker.partitions.len();
        let tails =
            vec![broker.partitions.iter().enumerate().map(|(p, e)| e.last().map(|e| stored(p, e))).collect::<Vec<_>>()];
        let found = Found {
            state: broker.state.clone(),
            tails: tails.clone(),
            used: broker.low.iter().any(|l| *l > 0) || broker.partitions.iter().any(|p| !p.is_empty()),
            capabilities: Capabilities { atomic_state: true, read_back: true, exactly_once: true },
        };
        let mut start = Start::new(found)?;
        loop {
            match start.next() {
                Step::Done => break,
                Step::Probe(i) => start.probed(real(mdt.probe(i.get()), i.get())),
                Step::Wait(i) => match mdt.probe(i.get()) {
                    Probe::Nothing if mdt.oldest().is_none() => return Ok(None),
                    probe => start.probed(real(probe, i.get())),
                },
                Step::Oldest => start.oldest(mdt.oldest()),
                Step::Compare { above, from, to } => {
                    let mut published: Vec<Mark> = broker
                        .partitions
                        .iter()
                        .flatten()
                        .filter(|e| e.retracts.is_none() && e.id.index.get() > above)
                        .map(|e| Mark { id: e.id, digest: digest(e.id.index.get(), e.uid) })
                        .collect();
                    published.sort_unstable_by_key(|m| (m.id.index, m.id.incarnation));
                    let standing: Vec<(u64, Digest)> =
                        mdt.scan(from.get(), to).into_iter().map(|(i, d)| (i, digest(i, d.0))).collect();
                    start.compared(&published, &standing)?;
                }
            }
        }
        let Some(plan) = start.plan() else { return Ok(None) };
        let state = broker.state.clone().unwrap_or_else(|| State::first(mdt_name(), "sim".into()));
        let topic = Topic {
            ix: TopicIx(0),
            name: TOPIC.into(),
            feed: None,
            mdt: mdt_name(),
            id: TOPIC_ID.into(),
            partitions: partitions as u32,
            created: false,
            replicas: if broker.replicated { 3 } else { 1 },
        };
        let t = Duration::from_millis(now);
        let mut core = Core::new(settings(), "sim".into(), &state, &plan, vec![topic], &tails, t);
        for spec in groups {
            let mut group = match state.groups.get(&spec.name) {
                Some(s) => GroupProgress::remembered(spec.clone(), s, partitions as u32),
                None => {
                    let end = broker.end.clone();
                    let first =
                        broker.groups.entry(spec.name.clone()).or_insert_with(|| end.into_iter().map(Some).collect());
                    GroupProgress::registered(spec.clone(), first.clone(), 0)
                }
            };
            if let Some(r) = plan.retract {
                group.voided(r.from);
            }
            core.remember_group(TopicIx(0), group);
        }
        Ok(Some(Self::begin(core, &plan, mdt, partitions, now)))
    }

    fn begin(core: Core, plan: &Plan, mdt: &Mdt, partitions: usize, now: u64) -> Self {
        let mut open = Batch::default();
        if let Some(r) = plan.retract {
            let id = RecordId { incarnation: r.incarnation, index: NonZeroU64::new(r.from).unwrap() };
            open.messages.extend((0..partitions).map(|p| (p, id, 0, Some(r))));
        }
        Self {
            core,
            plan_retract: plan.retract.is_some(),
            descriptor: mdt.open(plan.resume.map_or(0, NonZeroU64::get)),
            incarnation: plan.incarnation,
            above: plan.above,
            last: plan.frontier.map(|m| (m, 0)),
            last_read_at: now,
            dirty: plan.retract.is_some(),
            open,
            committing: None,
            probes: VecDeque::new(),
            clears: VecDeque::new(),
        }
    }

    /// Reads a chunk and gives it its verdicts. Every tenth content is dropped by a module.
    pub fn read(&mut self, mdt: &Mdt, max: usize, now: u64) -> Outcome {
        let mut chunk = mdt.read(&mut self.descriptor, max);
        let mut doubt = now.saturating_sub(self.last_read_at) > BREAK_MS;
        if chunk.is_empty() {
            // The end is sticky: open again, seeking to the last record, which must be found as it was.
            let Some((last, _)) = self.last else {
                self.descriptor = mdt.open(self.above + 1);
                return Outcome::Fine;
            };
            let index = last.id.index.get();
            self.descriptor = mdt.open(index);
            let again = mdt.read(&mut self.descriptor, 1);
            match again.first() {
                Some(r) if r.index == index && digest(r.index, r.uid) == last.digest => self.last_read_at = now,
                Some(r) if r.index > index => {
                    chunk = again;
                    doubt = true;
                }
                Some(_) => doubt = true,
                None => return Outcome::Fine,
            }
            if chunk.is_empty() && doubt {
                return self.verify(mdt);
            }
        }
        let (mut count, mut drops) = (0, 0);
        for r in &chunk {
            let jumped = self.last.is_some_and(|(_, time)| time > 0 && r.time.abs_diff(time) > BREAK_MS);
            if std::mem::take(&mut doubt) || jumped {
                self.told(&mut count, &mut drops, now);
                if let Outcome::Restart = self.verify(mdt) {
                    return Outcome::Restart;
                }
            }
            if r.index <= self.above {
                return Outcome::Restart;
            }
            self.above = r.index;
            let Some(m) = mark(self.incarnation, r) else { return Outcome::Restart };
            if dropped(r.uid) {
                drops += 1;
            } else {
                let p = partition_of(r.uid, self.core.ledger().topics()[0].topic.partitions as usize);
                self.open.messages.push((p, m.id, r.uid, None));
            }
            count += 1;
            self.last = Some((m, r.time));
        }
        if !chunk.is_empty() {
            self.last_read_at = now;
        }
        self.told(&mut count, &mut drops, now);
        Outcome::Fine
    }

    fn told(&mut self, count: &mut u64, dropped: &mut u64, now: u64) {
        if let (true, Some((last, _))) = (*count > 0, self.last) {
            let event = Event::Read { last, records: *count, dropped: *dropped };
            self.core.on(event, Duration::from_millis(now));
            self.dirty = true;
            (*count, *dropped) = (0, 0);
        }
    }

    fn verify(&self, mdt: &Mdt) -> Outcome {
        let Some((last, _)) = self.last else { return Outcome::Fine };
        let index = last.id.index.get();
        match real(mdt.probe(index), index) {
            Probe::Found(d) if d == last.digest => Outcome::Fine,
            Probe::Gone { .. } | Probe::Nothing if index <= self.core.last_clear() => Outcome::Fine,
            _ => Outcome::Restart,
        }
    }

    /// Seals, if no commit is under way and there is a reason to.
    pub fn seal(&mut self, now: u64) {
        let t = Duration::from_millis(now);
        if self.committing.is_some() || !(self.dirty || self.core.state_due(t)) {
            return;
        }
        let frontier = self.last.map(|(m, _)| m);
        if let (true, Some(m)) = (self.dirty, frontier) {
            self.core.on(Event::Sealed(m), t);
        }
        let mut batch = std::mem::take(&mut self.open);
        batch.frontier = frontier.map(|m| m.id);
        batch.state = Some(self.core.state(frontier, now, t));
        self.committing = Some(batch);
        self.dirty = false;
    }

    /// The commit's answer arrives.
    pub fn committed(&mut self, broker: &mut Broker, judge: &mut Judge, now: u64) {
        let Some(batch) = self.committing.take() else { return };
        let at = broker.commit(&batch);
        judge.published(&batch, now);
        let t = Duration::from_millis(now);
        for (p, offset, id) in at {
            let at = Position { partition: p as u32, offset };
            self.core.on(Event::Durable(Durable::At { topic: TopicIx(0), at, id }), t);
        }
        if let Some(f) = batch.frontier {
            self.core.on(Event::Durable(Durable::Frontier(f)), t);
        }
        if let Some(s) = batch.state {
            self.core.on(Event::Durable(Durable::State(s.number)), t);
        }
        self.plan_retract = false;
    }

    /// Asks the core what to do, and does what needs no waiting.
    pub fn act(&mut self, broker: &Broker, now: u64) -> Outcome {
        let t = Duration::from_millis(now);
        while let Some(action) = self.core.next_action(t) {
            match action {
                Action::Probe(index) => self.probes.push_back(index),
                Action::Clear { upto, until } => self.clears.push_back((upto, until)),
                Action::ReadAt(reads) => {
                    for (topic, at) in reads {
                        let p = at.partition as usize;
                        let found = broker.first_at(p, at.offset).map(|e| stored(p, &e));
                        self.core.on(Event::Learned { topic, at, found }, t);
                    }
                    return Outcome::Fine;
                }
                Action::Restart(_) => return Outcome::Restart,
                Action::Stop(stop) => return Outcome::Stop(stop),
            }
        }
        Outcome::Fine
    }

    /// A probe's answer.
    pub fn answer_probe(&mut self, mdt: &Mdt, now: u64) {
        if let Some(index) = self.probes.pop_front() {
            let probe = Some(real(mdt.probe(index.get()), index.get()));
            self.core.on(Event::Probed { index, probe }, Duration::from_millis(now));
        }
    }

    /// The clearing thread's turn; the clear that goes to the MDT, if its State is still fresh.
    pub fn issue_clear(&mut self, now: u64) -> Option<Clearable> {
        let (upto, until) = self.clears.pop_front()?;
        if Duration::from_millis(now) >= until {
            let event = Event::Cleared { upto, outcome: ClearOutcome::Late };
            self.core.on(event, Duration::from_millis(now));
            return None;
        }
        Some(upto)
    }
}

fn real(probe: Probe, index: u64) -> Probe {
    match probe {
        Probe::Found(d) => Probe::Found(digest(index, d.0)),
        other => other,
    }
}
