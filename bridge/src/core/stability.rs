//! What an MDT crash can no longer take back.
//!
//! Records are readable before they are on the MDT's disk. Record N is *stable* when it was read at least `min_age`
//! ago and a probe on a fresh descriptor, made after that, still finds the same record; then all before it stand too,
//! since what a crash takes back is always a suffix. This rests on one assumption: an MDT that answers reads commits
//! at least once in `min_age`.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use clbridge_sinks::state::Mark;

use super::Now;
use super::mutations::{Mutation, wrong};
use super::thinning::thin;

/// Most marks kept; beyond it every second one is forgotten, so that stability advances in larger steps.
const MAX_MARKS: usize = 2048;

/// Result of asking for a record again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Stable up to here now.
    Stable(Mark),
    /// The record is not what it was: look for a crash.
    Changed(Mark),
    /// An answer to a question that is no longer asked.
    Stale,
}

/// Marks of what was read and when, until they are stable.
#[derive(Debug)]
pub struct Stability {
    min_age: Now,
    marks: VecDeque<(Mark, Now)>,
    stable: Option<Mark>,
    asked: Option<Mark>,
}

impl Stability {
    /// `stable` as a start found it.
    #[must_use]
    pub fn new(min_age: Now, stable: Option<Mark>) -> Self {
        Self { min_age, marks: VecDeque::new(), stable, asked: None }
    }

    /// Everything up to `mark` was read by `now`.
    pub fn read(&mut self, mark: Mark, now: Now) {
        if let Some((last, at)) = self.marks.back()
            && (last.id >= mark.id || *at > now)
        {
            return;
        }
        self.marks.push_back((mark, now));
        thin(&mut self.marks, MAX_MARKS);
    }

    /// The newest record that is old enough to be asked for again, if none is asked for at the moment.
    pub fn ask(&mut self, now: Now) -> Option<NonZeroU64> {
        if self.asked.is_some() {
            return None;
        }
        let min_age = if wrong(Mutation::YoungIsStable) { Now::ZERO } else { self.min_age };
        let old = self.marks.partition_point(|(_, at)| now.saturating_sub(*at) >= min_age);
        let (mark, _) = *self.marks.get(old.checked_sub(1)?)?;
        self.asked = Some(mark);
        Some(mark.id.index)
    }

    /// Whether a probe could raise what is stable.
    #[must_use]
    pub fn could_ask(&self, now: Now) -> bool {
        self.asked.is_none() && self.marks.front().is_some_and(|(_, at)| now.saturating_sub(*at) >= self.min_age)
    }

    /// The answer to [`Stability::ask`]: the digest found at that index, `None` if the record is not there.
    pub fn answer(&mut self, index: NonZeroU64, found: Option<clbridge_schemas::ids::Digest>) -> Seen {
        match self.asked.take() {
            Some(mark) if mark.id.index == index => {
                if found == Some(mark.digest) || wrong(Mutation::AnyRecordIsTheSame) {
                    while self.marks.front().is_some_and(|(m, _)| m.id <= mark.id) {
                        self.marks.pop_front();
                    }
                    self.stable = Some(mark);
                    Seen::Stable(mark)
                } else {
                    Seen::Changed(mark)
                }
            }
            _ => Seen::Stale,
        }
    }

    /// The probe could not be carried out: ask again.
    pub fn failed(&mut self) {
        self.asked = None;
    }

    /// The highest stable record.
    #[must_use]
    pub fn stable(&self) -> Option<Mark> {
        self.stable
    }
}
