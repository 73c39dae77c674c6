//! What a start makes of State, the topics' tails and the MDT. A start is also the only way back from any failure.
//!
//! A little state machine of its own: [`Start::next`] says what to look at, the answers go back in, and at the end
//! there is a [`Plan`] or a reason to [`Stop`]. The cases (a) to (d) are those of the design:
//!
//! * (a) the recovered frontier R still stands on the MDT: go on behind it;
//! * (b) R is gone, is not above the last clear issued, and nothing at or below it can be read: cleared by us;
//! * (c) else the next incarnation begins right behind the last published record that still stands;
//! * (d) the difference is at or below *stable*, or the changelog began anew: stop and say so.
//!
//! Where nothing can be read back (AMQP), R is State's frontier. What was published behind it is known only after a
//! clean stop: else the next incarnation begins right behind R, and the broker is told so before anything is published.
//!
//! While nothing at all can be read and R is above the last clear, nothing is decided: the next record will tell.

use std::num::NonZeroU64;

use clbridge_schemas::ids::{Digest, RecordId};
use clbridge_sinks::state::{Mark, Retraction, State};
use clbridge_sinks::{Capabilities, Stored};

use super::mutations::{Mutation, wrong};
use crate::source::Probe;

/// What the broker holds, read after older writers were fenced.
#[derive(Clone, Debug)]
pub struct Found {
    /// State, if one was ever written.
    pub state: Option<State>,
    /// Last durable record by topic and partition.
    pub tails: Vec<Vec<Option<Stored>>>,
    /// Any partition ever held a record.
    pub used: bool,
    /// What the broker can do.
    pub capabilities: Capabilities,
}

/// Where a retraction ends if nobody knows what was published: the highest index that a record can carry.
const UNKNOWN_END: u64 = i64::MAX as u64;

/// What to look at next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Probe this record on a fresh descriptor.
    Probe(NonZeroU64),
    /// Find the oldest readable record.
    Oldest,
    /// Read back what was published above this index, and scan the MDT from `from` to `to` on a fresh descriptor.
    Compare {
        /// Read back everything of the current incarnations above this index.
        above: u64,
        /// First index to scan on the MDT.
        from: NonZeroU64,
        /// Last index to scan.
        to: u64,
    },
    /// Nothing can be told until the MDT has a record again: wait a little and probe again.
    Wait(NonZeroU64),
    /// The plan is ready.
    Done,
}

/// How to go on.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Incarnation to publish under.
    pub incarnation: u32,
    /// Seek here first; `None`: the oldest record.
    pub resume: Option<NonZeroU64>,
    /// A first record at or below this index means that the changelog began anew.
    pub above: u64,
    /// Publish this retraction into every partition first.
    pub retract: Option<Retraction>,
    /// The frontier that holds now.
    pub frontier: Option<Mark>,
    /// What is stable now.
    pub stable: Option<Mark>,
    /// The frontier still stands on the MDT and becomes stable when seen again.
    pub stands: bool,
    /// A record published behind the frontier, which stood. Wherever a crash may hide before it is read again, it has to
    /// be found as it was, since what lies before it is not published a second time.
    pub ahead: Option<Mark>,
    /// Records that are known to be missing (the server purged them before they were read).
    pub gap: u64,
    /// State that tells of this plan has to be durable before anything is published: the next start could not tell what
    /// was published without it.
    pub state_first: bool,
    /// State may tell of the retraction only once it is durable in every partition: the next start would not repeat it.
    pub state_after: bool,
    /// Records at or below these already stand in their partition (identity by topic and partition): skip them.
    pub skip: Vec<Vec<Option<RecordId>>>,
}

/// Why an MDT must be looked at by an operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stop {
    /// Short name, stable over versions.
    pub reason: &'static str,
    /// In words.
    pub text: String,
}

/// A start in progress.
#[derive(Debug)]
pub struct Start {
    found: Found,
    /// The recovered frontier.
    r: Option<Mark>,
    /// What has to stand on the MDT, asked for from the end: R, and before it the tails of other partitions behind
    /// State's frontier. They may have come from different writers, so that R does not speak for them.
    to_see: Vec<Mark>,
    step: Step,
    plan: Option<Plan>,
    /// The oldest record that can be read, where it was asked for.
    oldest: Option<u64>,
}

impl Start {
    /// Begins with what the broker holds.
    ///
    /// # Errors
    /// A used topic without State: nothing can be said about what was cleared.
    pub fn new(found: Found) -> Result<Self, Stop> {
        let mut start = Self { r: None, to_see: Vec::new(), step: Step::Done, plan: None, oldest: None, found };
        let Some(state) = &start.found.state else {
            if start.found.used {
                return Err(Stop {
                    reason: "state_unreadable",
                    text: "the topics hold records but there is no State that says what was cleared".into(),
                });
            }
            start.done(start.plan_with(|_| {}));
            return Ok(start);
        };
        // What an atomic broker holds beyond State was not written by a bridge.
        let above =
            start.found.tails.iter().flatten().flatten().filter(|t| !start.is_void(t)).max_by_key(|t| t.head.id());
        let frontier = state.frontier;
        if let (true, Some(above)) = (start.found.capabilities.atomic_state, above)
            && frontier.is_none_or(|f| above.head.id() > f.id)
            && above.head.retracts.is_none()
        {
            return Err(Stop {
                reason: "foreign_records",
                text: format!(
                    "record {} stands in the topic above State's frontier: another program writes there",
                    above.head.id()
                ),
            });
        }
        start.r = match above {
            Some(t) if frontier.is_none_or(|f| t.head.id() > f.id) => {
                Some(Mark { id: t.head.id(), digest: t.head.digest() })
            }
            _ => frontier,
        };
        match start.r {
            // An incarnation whose retraction was published but not its State: compare, and begin it again.
            Some(r) if r.id.incarnation > state.incarnation => start.compare(),
            Some(r) => {
                let behind = |m: &Mark| frontier.is_none_or(|f| m.id > f.id) && m.id < r.id;
                let tails = start.found.tails.iter().flatten().flatten().filter(|t| !start.is_void(t));
                let tails = tails.filter(|t| t.head.retracts.is_none());
                let others = tails.map(|t| Mark { id: t.head.id(), digest: t.head.digest() }).filter(behind);
                start.to_see = others.filter(|_| !wrong(Mutation::OneTailSpeaksForAll)).chain([r]).collect();
                start.step = Step::Probe(r.id.index);
            }
            None => start.done(start.plan_with(|_| {})),
        }
        Ok(start)
    }

    /// What to look at next; [`Step::Done`]: take the [`Plan`].
    #[must_use]
    pub fn next(&self) -> Step {
        self.step
    }

    /// The plan, once [`Start::next`] says [`Step::Done`].
    #[must_use]
    pub fn plan(self) -> Option<Plan> {
        self.plan
    }

    /// Answer to [`Step::Probe`] and [`Step::Wait`].
    pub fn probed(&mut self, probe: Probe) {
        let (Some(r), Some(state)) = (self.r, &self.found.state) else { return };
        let cleared = r.id.index.get() <= state.last_clear;
        let asked = self.to_see.last().copied().unwrap_or(r);
        let stands = match probe {
            Probe::Found(d) => d == asked.digest || wrong(Mutation::OtherRecordIsTheSame),
            // R stands: what is gone before it was cleared or purged.
            Probe::Gone { .. } | Probe::Nothing => asked != r,
        };
        if !stands {
            if matches!(probe, Probe::Found(_)) {
                self.compare()
            } else {
                self.step = Step::Oldest
            }
            return;
        }
        self.to_see.pop();
        if let Some(next) = self.to_see.last() {
            self.step = Step::Probe(next.id.index);
            return;
        }
        let stable = if cleared || wrong(Mutation::StableAtStart) { Some(r) } else { state.stable };
        self.done(self.plan_with(|p| {
            p.stable = stable;
            p.stands = true;
            p.ahead = Some(r).filter(|r| p.frontier.is_none_or(|f| r.id > f.id) && !wrong(Mutation::AheadNotSeenAgain));
        }));
    }

    /// Answer to [`Step::Oldest`].
    pub fn oldest(&mut self, oldest: Option<u64>) {
        let (Some(r), Some(state)) = (self.r, &self.found.state) else { return };
        let index = r.id.index.get();
        let cleared = index <= state.last_clear;
        self.oldest = oldest;
        match oldest {
            // Something at or below R is readable although R is not: taken back, or begun anew.
            Some(o) if o <= index => self.compare(),
            // (b)
            _ if cleared => self.done(self.plan_with(|p| {
                p.resume = None;
                p.above = index;
                p.stable = Some(r);
            })),
            // Purged by the server, by force: what stood between was never read.
            Some(o) => self.done(self.plan_with(|p| {
                p.resume = None;
                p.above = index;
                p.gap = o - index - 1;
                p.stable = Some(r);
            })),
            None => self.step = Step::Wait(r.id.index),
        }
    }

    /// Answer to [`Step::Compare`]: what was published above *stable*, and what stands on the MDT, both in order of
    /// index.
    ///
    /// # Errors
    /// (d): the difference is at or below *stable*.
    pub fn compared(&mut self, published: &[Mark], standing: &[(u64, Digest)]) -> Result<(), Stop> {
        let (Some(r), Some(state)) = (self.r, &self.found.state) else { return Ok(()) };
        let stands = |index: u64| {
            standing.binary_search_by_key(&index, |(i, _)| *i).ok().and_then(|at| standing.get(at)).map(|(_, d)| *d)
        };
        let stable = state.stable.map_or(0, |m| m.id.index.get());
        if let Some(m) = state.stable {
            // The scan began at the stable record: what lies before it does not show there.
            let oldest = self.oldest.or(standing.first().map(|(i, _)| *i));
            let differs = stands(stable).is_some_and(|d| d != m.digest);
            let younger = oldest.is_some_and(|o| o < stable) && stands(stable).is_none();
            if differs || younger {
                return Err(Stop {
                    reason: "stopped_below_stable",
                    text: format!(
                        "what stands at or below the stable record {} differs from what was published: the changelog \
                         began anew, a snapshot was restored, or the MDT did not commit for longer than clear.min_age",
                        m.id
                    ),
                });
            }
        }
        // Behind State's frontier one partition may have what another one lacks, and what a newer incarnation than
        // State's had begun with is made void with it: neither says that everything before it is published.
        let told = state.frontier.map_or(0, |f| f.id.index.get());
        let counts = |m: &&Mark| {
            let known = m.id.incarnation <= state.incarnation && m.id.index.get() <= told;
            known || wrong(Mutation::TailIsTheFrontier)
        };
        // What a crash takes back is always a suffix: everything up to the last published record that still stands,
        // stands too. Between that one and the first that differs there may be records which a module dropped; nobody
        // knows their content any more, so the next incarnation begins right behind what is known to stand.
        let good = published
            .iter()
            .filter(|m| m.id.index.get() > stable && !self.is_void_id(m.id))
            .filter(counts)
            .take_while(|m| {
                let digest = stands(m.id.index.get());
                digest == Some(m.digest) || digest.is_some() && wrong(Mutation::ComparedByIndexOnly)
            })
            .last()
            .copied()
            .or(match (state.stable, state.frontier) {
                // What is stable was read, but what lies behind State's frontier need not be published everywhere.
                (Some(s), Some(f)) if f.id.index < s.id.index => Some(f),
                (Some(_), None) => None,
                (stable, _) => stable,
            });
        let from = good.map_or(1, |g| g.id.index.get() + 1) + u64::from(wrong(Mutation::RetractedTooLate));
        assert!(from > state.last_clear, "a reused index {from} at or below the last clear {}", state.last_clear);
        let seen = published.iter().map(|m| m.id.incarnation).max().unwrap_or(0);
        let next = u32::from(!wrong(Mutation::SameIncarnation));
        let incarnation = state.incarnation.max(r.id.incarnation).max(seen) + next;
        let to = published.last().map_or(0, |m| m.id.index.get()).max(r.id.index.get());
        let mut plan = self.plan_with(|_| {});
        plan.incarnation = incarnation;
        plan.resume = NonZeroU64::new(from);
        plan.above = from - 1;
        plan.retract = Some(Retraction { incarnation, from, to: if self.blind() { UNKNOWN_END } else { to } });
        plan.frontier = good.map(|g| Mark { id: RecordId { incarnation, index: g.id.index }, digest: g.digest });
        plan.stands = plan.frontier.is_some();
        plan.skip = self.found.tails.iter().map(|t| vec![None; t.len()]).collect();
        self.done(plan);
        Ok(())
    }

    /// Records without State that tells of them would stop the next start, or deceive it.
    fn state_first(&self) -> bool {
        let Capabilities { atomic_state, read_back, .. } = self.found.capabilities;
        let wanted = !read_back || !atomic_state && self.found.state.is_none();
        wanted && !wrong(Mutation::PublishedBeforeState)
    }

    /// What State does not tell is found by reading back, and what it tells is taken for done.
    fn state_after(&self) -> bool {
        let Capabilities { atomic_state, read_back, .. } = self.found.capabilities;
        read_back && !atomic_state && !wrong(Mutation::RetractionToldEarly)
    }

    /// Something may have been published behind State's frontier that nobody can find.
    fn blind(&self) -> bool {
        let unclean = self.found.state.as_ref().is_some_and(|s| !s.clean);
        unclean && !self.found.capabilities.read_back && !wrong(Mutation::UncleanIsClean)
    }

    fn done(&mut self, mut plan: Plan) {
        if self.blind() && plan.retract.is_none() {
            let (incarnation, from) = (plan.incarnation + 1, plan.above + 1);
            plan.incarnation = incarnation;
            plan.retract = Some(Retraction { incarnation, from, to: UNKNOWN_END });
            plan.frontier = plan.frontier.map(|f| Mark { id: RecordId { incarnation, index: f.id.index }, ..f });
        }
        self.plan = Some(plan);
        self.step = Step::Done;
    }

    fn compare(&mut self) {
        let Some(state) = &self.found.state else { return };
        let stable = state.stable.map_or(0, |m| m.id.index.get());
        let to = self.r.map_or(stable, |r| r.id.index.get());
        self.step = Step::Compare { above: stable, from: NonZeroU64::new(stable).unwrap_or(NonZeroU64::MIN), to };
    }

    /// The plan of case (a), to be altered.
    fn plan_with(&self, alter: impl FnOnce(&mut Plan)) -> Plan {
        let state = self.found.state.as_ref();
        let frontier = state.and_then(|s| s.frontier);
        let skip = self.found.tails.iter().map(|topic| {
            topic
                .iter()
                .map(|t| t.as_ref().filter(|t| !self.is_void(t)).map(|t| t.head.id()))
                .map(|id| id.filter(|id| frontier.is_none_or(|f| *id > f.id) && !wrong(Mutation::SkipForgotten)))
                .collect()
        });
        let mut plan = Plan {
            incarnation: state.map_or(1, |s| s.incarnation),
            resume: frontier.and_then(|f| f.id.index.checked_add(1)),
            above: frontier.map_or(0, |f| f.id.index.get()),
            retract: None,
            frontier,
            stable: state.and_then(|s| s.stable),
            stands: false,
            ahead: None,
            gap: 0,
            state_first: self.state_first(),
            state_after: self.state_after(),
            skip: skip.collect(),
        };
        alter(&mut plan);
        plan
    }

    fn is_void(&self, t: &Stored) -> bool {
        self.is_void_id(t.head.id())
    }

    fn is_void_id(&self, id: RecordId) -> bool {
        let voids = |r: &Retraction| r.incarnation > id.incarnation || wrong(Mutation::WrongIncarnationIsVoid);
        let retractions = self.found.state.iter().flat_map(|s| &s.retractions);
        retractions.into_iter().any(|r| voids(r) && id.index.get() >= r.from)
    }
}

#[cfg(test)]
mod tests;
