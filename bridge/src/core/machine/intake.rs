//! What a [`Core`] makes of each event. The only entrance is [`Core::on`].

use std::num::NonZeroU64;

use clbridge_sinks::state::Mark;
use clbridge_sinks::{Durable, Policy, Progress};

use super::Core;
use crate::core::events::{Action, ClearOutcome};
use crate::core::ledger::Clearable;
use crate::core::mutations::{Mutation, wrong};
use crate::core::stability::Seen;
use crate::core::start::Stop;
use crate::core::{Hold, Now};
use crate::source::Probe;

impl Core {
    pub(super) fn on_read(&mut self, last: Mark, records: u64, dropped: u64, now: Now) {
        let index = last.id.index.get();
        assert!(index > self.read || self.records == 0, "read went back from {} to {index}", self.read);
        self.read = index;
        self.records += records;
        self.dropped += dropped;
        self.stability.read(last, now);
        self.timeline.push(index, now);
        if dropped > 0 && wrong(Mutation::DroppedTailCounts) {
            self.ledger.set_frontier(index);
        }
    }

    pub(super) fn on_durable(&mut self, d: Durable, now: Now) {
        match d {
            Durable::At { topic, at, id } => self.ledger.durable_at(topic, at, id),
            Durable::Frontier(id) => {
                if id.incarnation == self.incarnation {
                    self.untold = None;
                }
                while let Some(mark) = self.sealed.front().copied().filter(|m| m.id <= id) {
                    self.sealed.pop_front();
                    self.frontier = Some(mark);
                }
                self.ledger.set_frontier(self.frontier.map_or(0, |f| f.id.index.get()));
            }
            Durable::State(number) => {
                while let Some((n, last_clear)) = self.writing.front().copied().filter(|(n, _)| *n <= number) {
                    self.writing.pop_front();
                    if n == number {
                        self.clears.state_confirmed(last_clear, now);
                    }
                }
            }
        }
    }

    pub(super) fn on_progress(&mut self, p: &Progress, now: Now) {
        for t in self.ledger.topics() {
            if let Some(seen) = p.topics.get(&t.topic.name)
                && seen.id != t.topic.id
            {
                self.halt(Action::Stop(Stop {
                    reason: "topic_changed",
                    text: format!(
                        "topic {} was deleted and created again (it was {}, it is {}): no position in it counts",
                        t.topic.name, t.topic.id, seen.id
                    ),
                }));
                return;
            }
        }
        let before: Vec<Option<Hold>> = self.ledger.groups().map(|(_, g)| g.hold()).collect();
        self.ledger.observe(p, self.read);
        let (timeline, frontier) = (&self.timeline, self.ledger.frontier());
        self.ledger.release(|g| match g.spec.policy {
            Policy::Hold => 0,
            Policy::Release { backlog, age } => {
                let backlog = if wrong(Mutation::ReleasedTooMany) { backlog.map(|b| b / 2) } else { backlog };
                let age = if wrong(Mutation::ReleasedTooYoung) { age.map(|a| a / 2) } else { age };
                let by_count = backlog.map_or(0, |b| frontier.saturating_sub(b));
                by_count.max(age.map_or(0, |a| timeline.older_than(a, now)))
            }
        });
        self.state_wanted |= self.ledger.groups().map(|(_, g)| g.hold()).ne(before);
        self.timeline.forget(self.ledger.groups().map(|(_, g)| g.floor()).min().unwrap_or(frontier));
        self.answered = Some(now);
        self.reads_allowed = true;
    }

    pub(super) fn on_probed(&mut self, index: NonZeroU64, probe: Option<Probe>) {
        let found = match probe {
            None => return self.stability.failed(),
            Some(Probe::Found(d)) => Some(d),
            Some(Probe::Gone { .. } | Probe::Nothing) => None,
        };
        if let Seen::Changed(mark) = self.stability.answer(index, found) {
            self.halt(Action::Restart(format!("record {} is not what it was: an MDT crash is suspected", mark.id)));
        }
    }

    pub(super) fn on_cleared(&mut self, upto: Clearable, outcome: ClearOutcome, now: Now) {
        let value = upto.index().get();
        self.clear_refused = None;
        match outcome {
            ClearOutcome::Done => self.clears.returned(value, now),
            ClearOutcome::Late => self.clears.failed(false, now),
            ClearOutcome::Busy(_) => self.clears.failed(true, now),
            ClearOutcome::UnknownUser => {
                self.clears.failed(true, now);
                self.clear_refused =
                    Some(format!("the MDT does not know this changelog user, or it cleared beyond {value}"));
            }
            ClearOutcome::Beyond => {
                self.clears.failed(true, now);
                self.halt(Action::Restart(format!("a clear of {value} was refused as beyond the newest index")));
            }
        }
    }

    fn halt(&mut self, action: Action) {
        if self.halted.is_none() {
            self.halted = Some(action);
        }
    }
}
