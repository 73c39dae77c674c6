//! One MDT's [`Core`]: what it holds, what it asks for next, and the State that it writes.

mod intake;

use std::collections::VecDeque;

use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_sinks::state::{Mark, Owner, Retraction, State, TopicState};
use clbridge_sinks::{Stored, Topic, TopicIx};

use super::clears::{ClearStep, Clears};
use super::events::{Action, Event, Settings};
use super::ledger::Ledger;
use super::ledger::group::GroupProgress;
use super::mutations::{Mutation, wrong};
use super::stability::Stability;
use super::start::Plan;
use super::timeline::Timeline;
use super::{Now, Reason};

/// One MDT's state machine.
#[derive(Debug)]
pub struct Core {
    pub(super) settings: Settings,
    pub(super) mdt: MdtName,
    pub(super) owner: Owner,
    pub(super) incarnation: u32,
    retractions: Vec<Retraction>,
    /// What State goes on telling until the retraction that this life began with is durable everywhere.
    untold: Option<Box<State>>,
    pub(super) ledger: Ledger,
    stability: Stability,
    pub(super) clears: Clears,
    pub(super) timeline: Timeline,
    sealed: VecDeque<Mark>,
    frontier: Option<Mark>,
    pub(super) read: u64,
    pub(super) records: u64,
    pub(super) dropped: u64,
    pub(super) gap_records: u64,
    /// What this life's start found missing, and behind which index: the next start finds it again until a frontier
    /// lies behind it.
    gap: (u64, u64),
    number: u64,
    /// States written and not yet confirmed: number and `last_clear`.
    writing: VecDeque<(u64, u64)>,
    /// The newest durable State and those behind it: number, and by topic what all groups had passed.
    passed: VecDeque<(u64, Vec<Vec<u64>>)>,
    state_wanted: bool,
    /// The frontier that the newest State tells.
    told: Option<RecordId>,
    /// Nothing may be published before a State of this life is durable.
    state_first: bool,
    draining: bool,
    state_at: Now,
    /// The bridge ends.
    leaving: bool,
    /// Number of the first State that says so.
    left_with: Option<u64>,
    registry: Option<(u64, Now)>,
    answered: Option<Now>,
    pub(super) unanswered: Option<(Reason, String)>,
    pub(super) clear_refused: Option<String>,
    /// Point reads may be asked for: once after every answer about groups.
    reads_allowed: bool,
    /// No probe before this: each opens a descriptor, which costs the MDT something.
    probe_after: Now,
    halted: Option<Action>,
    halt_told: bool,
}

impl Core {
    /// Begins after a start. `state`: as it was read, or the first one.
    #[must_use]
    pub fn new(
        settings: Settings,
        owner: Owner,
        state: &State,
        plan: &Plan,
        topics: Vec<Topic>,
        tails: &[Vec<Option<Stored>>],
        now: Now,
    ) -> Self {
        let mut retractions = state.retractions.clone();
        if let Some(new) = plan.retract {
            // What the new one makes void again needs no older one: State stays small over many crashes.
            retractions.retain(|old| old.from < new.from);
            retractions.extend((!wrong(Mutation::RetractionForgotten)).then_some(new));
        }
        let frontier = plan.frontier.map_or(0, |f| f.id.index.get());
        let ledger = Ledger::new(topics, tails, retractions.clone(), frontier, settings.without_groups);
        let mut stability = Stability::new(settings.min_age, plan.stable);
        if let (true, Some(f)) = (plan.stands, plan.frontier) {
            stability.read(f, now);
        }
        Self {
            settings,
            mdt: state.mdt.clone(),
            owner,
            incarnation: plan.incarnation,
            retractions,
            untold: (plan.state_after && plan.retract.is_some()).then(|| Box::new(state.clone())),
            ledger,
            stability,
            clears: Clears::new(settings.clears, state.last_clear, now),
            timeline: Timeline::default(),
            sealed: VecDeque::new(),
            frontier: plan.frontier,
            read: frontier,
            records: 0,
            dropped: 0,
            gap_records: state.gap_records + plan.gap,
            gap: (plan.gap, plan.above),
            number: state.number,
            writing: VecDeque::new(),
            passed: VecDeque::new(),
            state_wanted: true,
            told: state.frontier.map(|f| f.id),
            state_first: plan.state_first,
            draining: false,
            state_at: now,
            leaving: false,
            left_with: None,
            registry: None,
            answered: None,
            unanswered: None,
            clear_refused: None,
            reads_allowed: false,
            probe_after: Now::ZERO,
            halted: None,
            halt_told: false,
        }
    }

    /// A group that State remembers, at the start.
    pub fn remember_group(&mut self, topic: TopicIx, group: GroupProgress) {
        self.ledger.add_group(topic, group);
    }

    /// The only way in.
    pub fn on(&mut self, event: Event<'_>, now: Now) {
        match event {
            Event::Read { last, records, dropped } => self.on_read(last, records, dropped, now),
            Event::Sealed(mark) => {
                self.sealed.push_back(mark);
                if wrong(Mutation::AcceptedIsDurable) {
                    self.ledger.set_frontier(mark.id.index.get());
                }
            }
            Event::Durable(d) => self.on_durable(d, now),
            Event::Registry { version } => {
                self.registry = Some((version, now));
                self.unanswered = None;
            }
            Event::Unanswered { what, why } => self.unanswered = Some((what, why)),
            Event::GroupAdded { topic, spec, first } => {
                self.ledger.add_group(topic, GroupProgress::registered(spec, first, 0));
                self.clears.reconsider();
                self.state_wanted = true;
            }
            Event::GroupChanged(spec) => {
                for (_, g) in self.ledger.groups_mut().filter(|(_, g)| g.spec.name == spec.name) {
                    g.spec = spec.clone();
                }
            }
            Event::GroupRemoved(name) => {
                self.ledger.remove_group(name);
                self.state_wanted = true;
            }
            Event::GroupRepaired { group, number, topic, end, missing } => {
                for (_, g) in self.ledger.groups_mut().filter(|(_, g)| g.spec.name == group) {
                    g.repaired(number, topic.clone(), end.clone(), missing);
                }
                self.state_wanted = true;
            }
            Event::Progress(p) => self.on_progress(p, now),
            Event::Probed { index, probe } => self.on_probed(index, probe),
            Event::Cleared { upto, outcome } => self.on_cleared(upto, outcome, now),
            Event::Learned { topic, at, found } => {
                self.ledger.learn(topic, at, found.map(|f| (f.at.offset, f.head.id())));
            }
            Event::Draining => {
                self.draining = true;
                self.state_wanted = true;
            }
            Event::Tick => {}
        }
    }

    /// The only way out, but for State, which the publishing thread takes with [`Core::state`].
    pub fn next_action(&mut self, now: Now) -> Option<Action> {
        if let Some(halt) = &self.halted {
            // A suspected crash or a contradiction: nothing is probed or cleared any more by this life.
            return if std::mem::replace(&mut self.halt_told, true) { None } else { Some(halt.clone()) };
        }
        if std::mem::take(&mut self.reads_allowed) {
            let reads = self.ledger.wanted_reads(self.settings.reads);
            if !reads.is_empty() {
                return Some(Action::ReadAt(reads));
            }
        }
        if self.leaving {
            return None;
        }
        let acknowledged = self.acknowledged(now);
        let stable = self.stable();
        if acknowledged > stable && now >= self.probe_after && self.stability.could_ask(now) {
            self.probe_after = now + self.settings.clears.every / 2;
            return self.stability.ask(now).map(Action::Probe);
        }
        let clearable = if acknowledged == 0 { None } else { self.ledger.clearable(stable.min(acknowledged)) };
        match self.clears.next(clearable, now) {
            ClearStep::Rest => None,
            ClearStep::NeedState(_) => {
                self.state_wanted |= self.writing.back().is_none_or(|(_, named)| *named < self.clears.intended())
                    || self.writing.is_empty();
                None
            }
            ClearStep::Issue { upto, until } => {
                let value = upto.index().get();
                assert!(
                    value <= self.clears.issued() && value <= stable.max(self.clears.issued()),
                    "a clear of {value} above what is stable ({stable})"
                );
                Some(Action::Clear { upto, until })
            }
        }
    }

    /// Whether the publishing thread should write State now.
    #[must_use]
    pub fn state_due(&self, now: Now) -> bool {
        self.halted.is_none() && (self.state_wanted || now.saturating_sub(self.state_at) >= self.settings.state_every)
    }

    /// The publisher wants, or may be waiting for, a State that tells a newer frontier.
    pub fn wants_state(&mut self) {
        self.state_wanted |= self.frontier.map(|f| f.id) != self.told;
    }

    /// State to be written now. `sealing`: the frontier of the batch that it becomes durable with, where the broker
    /// makes that atomic; else `None`, and State tells the durable frontier.
    pub fn state(&mut self, sealing: Option<Mark>, wall_ms: u64, now: Now) -> State {
        self.number += 1;
        self.state_wanted = false;
        self.state_at = now;
        let last_clear = self.clears.name();
        let newest_durable = self.durable_states();
        self.passed.drain(..newest_durable.saturating_sub(1));
        let passed = self.ledger.topics().iter().map(|t| self.ledger.trimmable(t.topic.ix, u64::MAX)).collect();
        self.passed.push_back((self.number, passed));
        self.writing.push_back((self.number, last_clear));
        let topics = self.ledger.topics().iter().map(|t| {
            let state =
                TopicState { name: t.topic.name.clone(), id: t.topic.id.clone(), partitions: t.topic.partitions };
            (t.topic.feed.clone().unwrap_or_default(), state)
        });
        let (incarnation, retractions, frontier, stable) = match self.untold.as_deref() {
            Some(old) => (old.incarnation, old.retractions.clone(), old.frontier, old.stable),
            None => (self.incarnation, self.retractions.clone(), sealing.or(self.frontier), self.stability.stable()),
        };
        self.told = frontier.map(|f| f.id);
        let passed_gap = frontier.is_some_and(|f| f.id.index.get() > self.gap.1);
        State {
            version: 1,
            mdt: self.mdt.clone(),
            owner: self.owner.name.clone(),
            run: self.owner.run.clone(),
            number: self.number,
            written_ms: wall_ms,
            incarnation,
            frontier,
            last_clear,
            stable,
            retractions,
            topics: topics.collect(),
            registry_version: self.registry.map_or(0, |(v, _)| v),
            groups: self.ledger.groups().map(|(_, g)| (g.spec.name.clone(), g.remember())).collect(),
            gap_records: self.gap_records - if passed_gap || wrong(Mutation::GapCountedAgain) { 0 } else { self.gap.0 },
            clean: self.draining
                && self.sealed.is_empty()
                && self.frontier.map_or(0, |f| f.id.index.get()) == self.read,
            left: self.leaving,
        }
    }

    /// The bridge ends here: from now on nothing is probed or cleared, and the next State says so.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.state_wanted = true;
        self.left_with = Some(self.number + 1);
    }

    /// Whether the State that says that the bridge has left is durable.
    #[must_use]
    pub fn has_left(&self) -> bool {
        let waiting = self.writing.front().map_or(self.number + 1, |(number, _)| *number);
        self.left_with.is_some_and(|number| number < waiting)
    }

    /// Whether records may be published yet, see [`Plan::state_first`].
    #[must_use]
    pub fn may_publish(&self) -> bool {
        !self.state_first || self.clears.told()
    }

    /// The highest index that an MDT crash cannot take back; 0 if none.
    #[must_use]
    pub fn stable(&self) -> u64 {
        if wrong(Mutation::StableWithoutAsking) {
            return self.read;
        }
        self.stability.stable().map_or(0, |m| m.id.index.get())
    }

    /// Highest index for which a clear was issued.
    #[must_use]
    pub fn last_clear(&self) -> u64 {
        self.clears.issued()
    }

    /// The ledger, for groups' management and trimming.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Version of the registry that was applied.
    #[must_use]
    pub fn registry_version(&self) -> Option<u64> {
        self.registry.map(|(v, _)| v)
    }

    /// Positions by partition below which nothing is needed any more. Durable State must tell that the groups have
    /// passed them: a start that found an older position below the topic's beginning would take it for an eviction.
    #[must_use]
    pub fn trimmable(&self, topic: TopicIx) -> Vec<u64> {
        let told = self.durable_states().checked_sub(1).and_then(|i| self.passed.get(i));
        let Some(passed) = told.and_then(|(_, topics)| topics.get(usize::from(topic.0))) else { return Vec::new() };
        let cleared = if wrong(Mutation::TrimUncleared) { u64::MAX } else { self.clears.cleared() };
        if wrong(Mutation::TrimBeforeState) {
            return self.ledger.trimmable(topic, cleared);
        }
        self.ledger.trimmable(topic, cleared).into_iter().zip(passed).map(|(now, p)| now.min(*p)).collect()
    }

    /// How many of the States in `passed` are durable.
    fn durable_states(&self) -> usize {
        let waiting = self.writing.front().map(|(number, _)| *number);
        self.passed.partition_point(|(number, _)| waiting.is_none_or(|w| *number < w))
    }

    /// Whether answers about registry and groups are fresh enough to clear by.
    pub(super) fn answers_fresh(&self, now: Now) -> bool {
        let fresh = |at: Now| now.saturating_sub(at) <= self.settings.answers_fresh;
        self.registry.is_some_and(|(_, at)| fresh(at)) && self.answered.is_some_and(fresh)
    }

    /// What groups allow to be cleared now; 0 while registry or positions cannot be read.
    pub(super) fn acknowledged(&self, now: Now) -> u64 {
        if self.answers_fresh(now) { self.ledger.acknowledged() } else { 0 }
    }

    /// Current incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// A clear is on its way to the MDT.
    #[must_use]
    pub fn clear_in_flight(&self) -> bool {
        self.clears.in_flight()
    }

    /// Highest index that may be cleared now; 0 if none.
    #[must_use]
    pub fn clearable_now(&self, now: Now) -> u64 {
        self.acknowledged(now).min(self.stable())
    }

    /// The frontier's identity, for those that resume.
    #[must_use]
    pub fn frontier(&self) -> Option<RecordId> {
        self.frontier.map(|m| m.id)
    }
}
