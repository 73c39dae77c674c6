//! What groups have answered, folded into a floor and ranges beyond it.
//!
//! Everything is counted in *slots*: two for each index, the first for a retraction that may stand before the record,
//! the second for the record. Which incarnation an index belongs to follows from the retractions, so slots need none:
//! what was taken back no longer counts, whoever answers it. A position ([`Position::of_identity`]) is a slot with its
//! incarnation in front.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::label::Span;
use crate::state::Retraction;

/// Ranges of one group may take so many bytes in State; a group beyond it counts as a full topic.
pub(super) const RANGES_MAX_BYTES: usize = 1 << 20;
/// What one range takes at most in State.
const RANGE_BYTES: usize = 28;

/// What one group has answered of one topic.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answered {
    /// The first slot that is not settled.
    pub(super) floor: u64,
    /// Settled slots beyond the floor: first, and first behind.
    #[serde(default, with = "pairs")]
    ranges: BTreeMap<u64, u64>,
    /// Which membership of this name it is, see [`Member::life`](super::registry::Member::life).
    #[serde(default)]
    pub(super) life: u64,
}

impl Answered {
    /// A group that begins at this slot.
    pub(super) fn from_slot(floor: u64, life: u64) -> Self {
        Self { floor, ranges: BTreeMap::new(), life }
    }

    /// What distinguishes it from what it was before any further answer.
    pub(super) fn extent(&self) -> (u64, u64, usize) {
        (self.floor, self.top(), self.ranges.len())
    }

    /// Slots `from..until` are settled; true if any of them was not.
    pub(super) fn settle(&mut self, from: u64, until: u64) -> bool {
        let (mut from, mut until) = (from.max(self.floor), until);
        if from >= until {
            return false;
        }
        if self.ranges.range(..=from).next_back().is_some_and(|(_, end)| *end >= until) {
            return false;
        }
        if let Some((start, end)) = self.ranges.range(..=from).next_back().map(|(s, e)| (*s, *e))
            && end >= from
        {
            (from, until) = (start, until.max(end));
            self.ranges.remove(&start);
        }
        while let Some((start, end)) = self.ranges.range(from..=until).next().map(|(s, e)| (*s, *e)) {
            until = until.max(end);
            self.ranges.remove(&start);
        }
        if from <= self.floor {
            self.floor = until;
        } else {
            self.ranges.insert(from, until);
        }
        true
    }

    /// Nothing from this slot on counts any more.
    fn void(&mut self, from: u64) {
        self.floor = self.floor.min(from);
        self.ranges.retain(|start, end| {
            *end = (*end).min(from);
            *start < from
        });
    }

    /// The highest slot that is settled, or one behind it.
    fn top(&self) -> u64 {
        self.ranges.last_key_value().map_or(self.floor, |(_, end)| *end)
    }

    /// Size of the ranges in State, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.ranges.len() * RANGE_BYTES
    }
}

/// Why an answer does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ignored {
    /// Of a group that has no queue here.
    Foreign,
    /// Of records that were never published.
    Wrong,
    /// Of records that an MDT crash took back.
    Old,
}

/// One topic: what was published, and what of it each group has answered.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Fold {
    /// Incarnation of the indexes before the first retraction.
    pub(super) base: u32,
    /// Incarnations and the indexes at which they began, rising in both.
    began: Vec<(u32, u64)>,
    /// The first slot behind the last one that was published.
    pub(super) end: u64,
    /// By group.
    pub(super) groups: BTreeMap<String, Answered>,
}

impl Fold {
    /// The incarnation that an index belongs to.
    fn incarnation(&self, index: u64) -> u32 {
        self.began.iter().rev().find(|(_, from)| *from <= index).map_or(self.base, |(incarnation, _)| *incarnation)
    }

    /// The position of a slot; 0 before anything.
    pub(super) fn position(&self, slot: u64) -> u64 {
        if slot == 0 { 0 } else { u64::from(self.incarnation(slot >> 1)) << 40 | slot }
    }

    /// The slot of a position; 0 before anything.
    pub(super) fn slot(position: u64) -> u64 {
        position & ((1 << 40) - 1)
    }

    /// The slots that an answer to these records settles.
    fn slots(&self, span: &Span) -> (u64, u64) {
        // A retraction wants an answer of its own.
        let behind_retraction = !span.retraction && self.began.iter().any(|(_, from)| *from == span.from);
        // Nothing lies before the first index.
        let from = if span.from == 1 && !behind_retraction { 0 } else { 2 * span.from + u64::from(behind_retraction) };
        (from, 2 * span.to + if span.retraction { 1 } else { 2 })
    }

    /// Takes an answer of a group. What was taken back since is left out.
    pub(super) fn answer(&mut self, group: &str, span: &Span) -> Result<bool, Ignored> {
        if !self.groups.contains_key(group) {
            return Err(Ignored::Foreign);
        }
        let Some((from, to)) = self.standing(span.incarnation) else {
            let newest = self.began.last().map_or(self.base, |(i, _)| *i);
            return Err(if span.incarnation > newest { Ignored::Wrong } else { Ignored::Old });
        };
        let standing = Span { from: span.from.max(from), to: span.to.min(to), ..*span };
        if standing.from > standing.to {
            return Err(Ignored::Old);
        }
        if span.retraction && !self.began.contains(&(span.incarnation, span.from)) {
            return Err(Ignored::Wrong);
        }
        let (from, until) = self.slots(&standing);
        if until > self.end {
            return Err(Ignored::Wrong);
        }
        Ok(self.groups.get_mut(group).is_some_and(|g| g.settle(from, until)))
    }

    /// The indexes that stand as this incarnation's: first and last.
    fn standing(&self, incarnation: u32) -> Option<(u64, u64)> {
        let before = |at: usize| self.began.get(at).map_or(u64::MAX >> 1, |(_, from)| from.saturating_sub(1));
        if let Some(at) = self.began.iter().position(|(i, _)| *i == incarnation) {
            return Some((self.began[at].1, before(at + 1)));
        }
        (incarnation == self.base).then(|| (1, before(0)))
    }

    /// An incarnation began: no answer to what was there from that index on counts any more.
    pub(super) fn retract(&mut self, r: &Retraction) {
        // Known, or told by a State that is older than what is known.
        if self.began.iter().any(|(incarnation, _)| *incarnation >= r.incarnation) {
            return;
        }
        self.began.retain(|(incarnation, from)| *from < r.from && *incarnation < r.incarnation);
        self.began.push((r.incarnation, r.from));
        self.end = self.end.min(2 * r.from);
        for g in self.groups.values_mut() {
            g.void(2 * r.from);
        }
    }

    /// These indexes have their verdict and none of them was published: nobody has to answer them.
    pub(super) fn skip(&mut self, from: u64, to: u64) {
        let (from, until) = (if from == 1 { 0 } else { 2 * from }, 2 * to + 2);
        // A retraction among them wants its answer.
        if self.began.iter().any(|(_, at)| (from..until).contains(&(2 * at))) {
            return;
        }
        self.end = self.end.max(until);
        for g in self.groups.values_mut() {
            g.settle(from, until);
        }
    }

    /// What a group has answered; a membership that is newer than the known one begins at slot `first`.
    pub(super) fn member(&mut self, group: &str, life: u64, first: u64) -> &mut Answered {
        let answered = self.groups.entry(group.to_owned()).or_insert_with(|| Answered::from_slot(first, life));
        if answered.life < life {
            *answered = Answered::from_slot(first, life);
        }
        answered
    }

    /// The slot behind everything that is known to have been published.
    pub(super) fn known_end(&self) -> u64 {
        self.groups.values().map(Answered::top).fold(self.end, u64::max)
    }

    /// The group with the largest ranges, and their bytes.
    pub(super) fn largest(&self) -> Option<(&str, usize)> {
        self.groups.iter().map(|(name, g)| (name.as_str(), g.bytes())).max_by_key(|(_, bytes)| *bytes)
    }
}

/// Ranges as a list of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(ranges: &BTreeMap<u64, u64>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(ranges)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<u64, u64>, D::Error> {
        Ok(Vec::<(u64, u64)>::deserialize(d)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::label::span;
    use super::*;

    /// Records 1 to 20 of incarnation 1 were published; group `g` has answered nothing.
    fn fold() -> Fold {
        let groups = [("g".to_owned(), Answered::from_slot(0, 0))].into();
        let mut fold = Fold { base: 1, groups, ..Fold::default() };
        fold.end = 42;
        fold
    }

    fn answer(fold: &mut Fold, text: &str) -> Result<bool, Ignored> {
        fold.answer("g", &span(text).unwrap())
    }

    fn floor(fold: &Fold) -> u64 {
        fold.groups["g"].floor
    }

    #[test]
    fn answers_in_any_order_join_into_the_floor_and_repeats_change_nothing() {
        let mut f = fold();
        for text in ["1:3", "1:5..7", "1:4", "1:2"] {
            assert_eq!(answer(&mut f, text), Ok(true));
            assert_eq!(answer(&mut f, text), Ok(false));
            assert_eq!(floor(&f), 0);
        }
        assert_eq!(f.groups["g"].bytes(), RANGE_BYTES);
        assert_eq!(answer(&mut f, "1:1"), Ok(true));
        assert_eq!((floor(&f), f.position(16)), (16, 1 << 40 | 16));
    }

    #[test]
    fn what_was_never_published_and_unknown_groups_do_not_count() {
        let mut f = fold();
        assert_eq!(answer(&mut f, "1:20..21"), Err(Ignored::Wrong));
        assert_eq!(answer(&mut f, "2:3"), Err(Ignored::Wrong));
        assert_eq!(answer(&mut f, "1:3:r0"), Err(Ignored::Wrong));
        assert_eq!(f.answer("other", &span("1:1").unwrap()), Err(Ignored::Foreign));
        assert_eq!(floor(&f), 0);
    }

    #[test]
    fn after_a_crash_what_was_taken_back_counts_no_more_and_the_retraction_wants_its_answer() {
        let mut f = fold();
        answer(&mut f, "1:1..18").unwrap();
        f.retract(&Retraction { incarnation: 2, from: 15, to: 20 });
        f.end = 2 * 22 + 2;
        assert_eq!((floor(&f), f.position(30)), (30, 2 << 40 | 30));
        assert_eq!(answer(&mut f, "1:15..20"), Err(Ignored::Old));
        assert_eq!(answer(&mut f, "2:15..22"), Ok(true));
        assert_eq!(floor(&f), 30, "the retraction was not answered");
        assert_eq!(answer(&mut f, "2:15:r0"), Ok(true));
        assert_eq!(floor(&f), 46);
    }

    #[test]
    fn what_stands_of_an_older_incarnation_still_counts() {
        let mut f = fold();
        f.retract(&Retraction { incarnation: 2, from: 15, to: 20 });
        assert_eq!(answer(&mut f, "1:1..20"), Ok(true));
        assert_eq!(floor(&f), 30);
        assert_eq!(f.position(floor(&f)), 2 << 40 | 30);
    }

    #[test]
    fn an_incarnation_that_began_before_another_one_ended_is_void_with_it() {
        let mut f = fold();
        f.retract(&Retraction { incarnation: 2, from: 15, to: 20 });
        f.retract(&Retraction { incarnation: 3, from: 10, to: 20 });
        f.end = 2 * 12 + 2;
        assert_eq!(answer(&mut f, "2:15..20"), Err(Ignored::Old));
        assert_eq!(answer(&mut f, "1:1..9"), Ok(true));
        assert_eq!(answer(&mut f, "3:10:r0"), Ok(true));
        assert_eq!(floor(&f), 21);
    }

    #[test]
    fn of_a_group_that_comes_again_nothing_counts_but_of_one_that_is_only_told_late_everything() {
        let mut f = fold();
        answer(&mut f, "1:1..5").unwrap();
        answer(&mut f, "1:7").unwrap();
        assert_eq!(f.member("g", 8, 42).extent(), (42, 42, 0));
        answer(&mut f, "1:1..20").unwrap();
        for (life, first) in [(8, 50), (7, 60), (0, 0)] {
            assert_eq!(f.member("g", life, first).floor, 42, "{life}");
        }
    }

    #[test]
    fn what_is_written_into_state_is_read_again() {
        let mut f = fold();
        answer(&mut f, "1:5..7").unwrap();
        f.retract(&Retraction { incarnation: 2, from: 15, to: 20 });
        let text = serde_json::to_string(&f).unwrap();
        assert_eq!(serde_json::from_str::<Fold>(&text).unwrap(), f);
    }
}
