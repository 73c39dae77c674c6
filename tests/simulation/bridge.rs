//! One life of a bridge, driven in one thread and virtual time: what the threads of `pipeline` do, step by step.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use clbridge::core::{Action, ClearOutcome, Clearable, Core, Event, Stop};
use clbridge::source::Probe;
use clbridge_schemas::ids::RecordId;
use clbridge_sinks::state::{Mark, Retraction};
use clbridge_sinks::{Durable, Position, Progress, Registry, Stored, TopicIx};

use crate::broker::{Broker, Expected, Kind, Message, Reply, Request};
use crate::content::{FEEDS, digest, dropped, partition_of, takes};
use crate::groups::Group;
use crate::judge::Judge;
use crate::mdt::{Descriptor, Mdt, Rec};
use crate::start::stored;

/// An MDT is gone for at least this long when it crashes, milliseconds.
pub const BREAK_MS: u64 = 2_000;
/// A broker that answers nothing for so long is given up, milliseconds.
pub const PATIENCE: u64 = 15_000;
/// Nothing more is read while so many records are on their way.
pub const WINDOW: usize = 400;

/// Everything of a bridge that dies with it.
pub struct Life {
    pub id: u64,
    pub owner: String,
    pub epoch: u64,
    pub(crate) kind: Kind,
    pub core: Core,
    pub(crate) descriptor: Descriptor,
    pub(crate) incarnation: u32,
    pub(crate) above: u64,
    pub(crate) last: Option<(Mark, u64)>,
    pub(crate) ahead: Option<Mark>,
    pub(crate) last_read_at: u64,
    pub(crate) skip: Vec<Vec<Option<RecordId>>>,
    pub(crate) partitions: Vec<usize>,
    pub(crate) retract: Option<Retraction>,
    /// How it began, for the trace.
    pub plan: String,
    /// On the way to the broker, and back.
    pub requests: VecDeque<Request>,
    pub replies: VecDeque<Reply>,
    pub replies_held_until: u64,
    pub(crate) open: Vec<Message>,
    /// A commit, or a State of its own, is on its way.
    pub(crate) waiting: bool,
    /// By topic what the next message expects, where the broker wants to know.
    pub(crate) expected: Vec<Expected>,
    pub(crate) revision: u64,
    pub(crate) unconfirmed: VecDeque<(Message, u64, bool)>,
    /// Messages sent before a seal, and its frontier.
    pub(crate) seals: VecDeque<(u64, Option<RecordId>)>,
    pub(crate) sent: u64,
    pub(crate) confirmed: u64,
    pub(crate) heard_at: u64,
    pub(crate) dirty: bool,
    pub probes: VecDeque<NonZeroU64>,
    pub clears: VecDeque<(Clearable, Duration)>,
    /// Answers of the broker that are still on their way.
    pub answer: Option<Progress>,
    pub(crate) learned: Vec<(TopicIx, Position, Option<Stored>)>,
    /// When the registry was last read.
    pub registry_at: u64,
    pub(crate) registry_seen: u64,
}

/// How a step ended a life.
pub enum Ended {
    Restart(&'static str),
    Stop(Stop),
}

type Lived = Result<(), Ended>;

fn ms(now: u64) -> Duration {
    Duration::from_millis(now)
}

impl Life {
    pub(crate) fn publish(&mut self, m: Message) {
        self.sent += 1;
        if self.kind == Kind::Atomic {
            self.open.push(m);
            return;
        }
        let expected = self.expected[m.topic];
        self.expected[m.topic] = (expected.0 + 1, Some((self.id, m.id)));
        self.unconfirmed.push_back((m, expected.0, false));
        self.requests.push_back(Request::Message { writer: self.id, expected, message: m });
    }

    /// Records that are not durable yet.
    pub fn in_flight(&self) -> usize {
        (self.sent - self.confirmed) as usize
    }

    /// Reads a chunk and gives it its verdicts.
    pub fn read(&mut self, mdt: &Mdt, max: usize, now: u64) -> Lived {
        if self.retract.is_some() || !self.core.may_publish() || self.in_flight() > WINDOW {
            return Ok(());
        }
        let mut chunk = mdt.read(&mut self.descriptor, max);
        let mut doubt = now.saturating_sub(self.last_read_at) > BREAK_MS;
        if chunk.is_empty() {
            // The end is sticky: open again, seeking to the last record, which must be found as it was.
            let Some((last, _)) = self.last else {
                self.descriptor = mdt.open(self.above + 1);
                return Ok(());
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
                None => return Ok(()),
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
                self.verify(mdt)?;
            }
            if r.index <= self.above {
                let text = format!("record {} is not above {}", r.index, self.above);
                return Err(Ended::Stop(Stop { reason: "stopped_reset", text }));
            }
            self.take(r);
            drops += u64::from(dropped(r.uid));
            count += 1;
        }
        if !chunk.is_empty() {
            self.last_read_at = now;
        }
        self.told(&mut count, &mut drops, now);
        Ok(())
    }

    fn take(&mut self, r: &Rec) {
        self.above = r.index;
        let id = RecordId { incarnation: self.incarnation, index: NonZeroU64::new(r.index).unwrap() };
        for topic in (0..FEEDS).filter(|feed| takes(*feed, r.uid)) {
            let partition = partition_of(r.uid, self.partitions[topic]);
            if self.skip[topic][partition].is_none_or(|upto| id > upto) {
                self.publish(Message { topic, partition, id, uid: r.uid, retracts: None });
            }
        }
        self.last = Some((Mark { id, digest: digest(r.index, r.uid) }, r.time));
    }

    fn told(&mut self, count: &mut u64, dropped: &mut u64, now: u64) {
        if let (true, Some((last, _))) = (*count > 0, self.last) {
            self.core.on(Event::Read { last, records: *count, dropped: *dropped }, ms(now));
            self.dirty = true;
            (*count, *dropped) = (0, 0);
        }
    }

    fn verify(&self, mdt: &Mdt) -> Lived {
        let last = self.last.map(|(m, _)| m);
        let ahead = self.ahead.filter(|a| last.is_none_or(|l| l.id.index < a.id.index));
        let Some(last) = ahead.or(last) else { return Ok(()) };
        let index = last.id.index.get();
        match mdt.probe(index) {
            Probe::Found(d) if d == last.digest => Ok(()),
            Probe::Gone { .. } | Probe::Nothing if index <= self.core.last_clear() => Ok(()),
            _ => Err(Ended::Restart("what was read no longer stands")),
        }
    }

    /// Seals, if the publisher is ready and there is a reason to.
    pub fn seal(&mut self, now: u64) {
        let t = ms(now);
        if self.waiting || !(self.dirty || self.core.state_due(t)) {
            return;
        }
        let frontier = self.last.map(|(m, _)| m);
        if let (true, Some(m)) = (self.dirty, frontier) {
            self.core.on(Event::Sealed(m), t);
        }
        if self.kind == Kind::Atomic {
            let messages = std::mem::take(&mut self.open);
            let state = Box::new(self.core.state(frontier, now, t));
            self.requests.push_back(Request::Batch { messages, frontier: frontier.map(|m| m.id), state });
            self.waiting = true;
        } else {
            if self.dirty {
                self.seals.push_back((self.sent, frontier.map(|m| m.id)));
                self.sealed(now);
            }
            if self.core.state_due(t) {
                let state = Box::new(self.core.state(None, now, t));
                self.requests.push_back(Request::State { revision: self.revision, state });
                self.waiting = true;
            }
        }
        self.dirty = false;
    }

    /// One answer of the broker arrives.
    pub fn hear(&mut self, judge: &mut Judge, now: u64) -> Lived {
        if now < self.replies_held_until {
            return Ok(());
        }
        let Some(reply) = self.replies.pop_front() else {
            if !self.waiting && self.unconfirmed.is_empty() {
                self.heard_at = now;
            }
            let silent = now.saturating_sub(self.heard_at) > PATIENCE;
            return if silent { Err(Ended::Restart("the broker does not answer")) } else { Ok(()) };
        };
        let before = self.confirmed;
        match reply {
            Reply::Refused => return Err(Ended::Restart("fenced, or out of step")),
            Reply::Committed { at, frontier, state } => {
                self.waiting = false;
                self.confirmed += at.len() as u64;
                for (topic, p, offset, id) in at {
                    self.durable(topic, p, offset, id, now);
                }
                if let Some(f) = frontier {
                    self.core.on(Event::Durable(Durable::Frontier(f)), ms(now));
                }
                self.state_durable(state, judge, now);
            }
            Reply::Stored { message, offset } => {
                // On one ordered log an answer speaks for all before it, else for its own message alone.
                for (m, at, confirmed) in &mut self.unconfirmed {
                    let covered = self.kind == Kind::Ordered && m.topic == message.topic && *at <= offset;
                    if covered || *m == message {
                        *confirmed = true;
                    }
                    if *m == message {
                        *at = offset;
                    }
                }
                while self.unconfirmed.front().is_some_and(|(.., confirmed)| *confirmed)
                    && let Some((m, at, _)) = self.unconfirmed.pop_front()
                {
                    self.confirmed += 1;
                    self.durable(m.topic, m.partition, at, m.id, now);
                }
                self.sealed(now);
            }
            Reply::State(number) => {
                self.waiting = false;
                self.revision += 1;
                self.state_durable(number, judge, now);
                self.begin_publishing();
            }
        }
        // One confirmation that is missing is noticed, whatever else is answered.
        if self.confirmed > before || self.unconfirmed.is_empty() {
            self.heard_at = now;
        }
        Ok(())
    }

    fn durable(&mut self, topic: usize, p: usize, offset: u64, id: RecordId, now: u64) {
        let at = Position { partition: p as u32, offset };
        self.core.on(Event::Durable(Durable::At { topic: TopicIx(topic as u16), at, id }), ms(now));
    }

    fn sealed(&mut self, now: u64) {
        while self.seals.front().is_some_and(|(sent, _)| *sent <= self.confirmed)
            && let Some((_, frontier)) = self.seals.pop_front()
        {
            if let Some(f) = frontier {
                self.core.on(Event::Durable(Durable::Frontier(f)), ms(now));
            }
        }
    }

    fn state_durable(&mut self, number: u64, judge: &mut Judge, now: u64) {
        self.core.on(Event::Durable(Durable::State(number)), ms(now));
        judge.told(self.id, now);
    }

    /// The registry is read and applied, as `pipeline::groups` does.
    pub fn apply(
        &mut self,
        registry: &Registry,
        groups: &mut [Group],
        broker: &mut Broker,
        judge: &mut Judge,
        now: u64,
    ) {
        let t = ms(now);
        self.registry_at = now;
        if self.registry_seen != registry.version {
            self.registry_seen = registry.version;
            judge.registered(registry);
            let known: Vec<String> = self.core.ledger().groups().map(|(_, g)| g.spec.name.clone()).collect();
            for spec in registry.groups.values() {
                if known.contains(&spec.name) {
                    self.core.on(Event::GroupChanged(spec.clone()), t);
                } else {
                    let group = groups.iter_mut().find(|g| g.name() == spec.name).unwrap();
                    let first = group.join(broker, judge);
                    let topic = TopicIx(group.topic as u16);
                    self.core.on(Event::GroupAdded { topic, spec: spec.clone(), first }, t);
                }
            }
            for gone in known.iter().filter(|name| !registry.groups.contains_key(*name)) {
                self.core.on(Event::GroupRemoved(gone), t);
            }
        }
        self.core.on(Event::Registry { version: registry.version }, t);
    }

    /// An answer about the groups arrives; the core decides.
    pub fn answered(&mut self, broker: &Broker, now: u64) -> Lived {
        if let Some(progress) = self.answer.take() {
            self.core.on(Event::Progress(&progress), ms(now));
        }
        for (topic, at, found) in std::mem::take(&mut self.learned) {
            self.core.on(Event::Learned { topic, at, found }, ms(now));
        }
        self.act(broker, now)
    }

    /// Asks the core what to do, and does what needs no waiting.
    fn act(&mut self, broker: &Broker, now: u64) -> Lived {
        let t = ms(now);
        while let Some(action) = self.core.next_action(t) {
            match action {
                Action::Probe(index) => self.probes.push_back(index),
                Action::Clear { upto, until } => self.clears.push_back((upto, until)),
                Action::ReadAt(reads) => {
                    // Read now, told with the next answer.
                    for (topic, at) in reads {
                        let p = at.partition as usize;
                        let found = broker.look(usize::from(topic.0), p, at.offset);
                        self.learned.push((topic, at, found.map(|e| stored(usize::from(topic.0), p, &e).1)));
                    }
                    return Ok(());
                }
                Action::Restart(_) => return Err(Ended::Restart("the core says so")),
                Action::Stop(stop) => return Err(Ended::Stop(stop)),
            }
        }
        Ok(())
    }

    /// A probe's answer.
    pub fn answer_probe(&mut self, mdt: &Mdt, now: u64) {
        if let Some(index) = self.probes.pop_front() {
            self.core.on(Event::Probed { index, probe: Some(mdt.probe(index.get())) }, ms(now));
        }
    }

    /// The clearing thread's turn; the clear that goes to the MDT, if its State is still fresh.
    pub fn issue_clear(&mut self, now: u64) -> Option<Clearable> {
        let (upto, until) = self.clears.pop_front()?;
        if ms(now) >= until {
            self.core.on(Event::Cleared { upto, outcome: ClearOutcome::Late }, ms(now));
            return None;
        }
        Some(upto)
    }
}
