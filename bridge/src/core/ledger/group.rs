//! What one group has done on one topic, and what about it cannot be believed.

use clbridge_sinks::state::{GroupState, Hold};
use clbridge_sinks::{GroupSpec, Offsets};

use crate::core::mutations::{Mutation, wrong};

/// One group on one topic.
#[derive(Clone, Debug)]
pub struct GroupProgress {
    /// Its specification as registered.
    pub spec: GroupSpec,
    /// Position by partition that counts; `None` until a first position is known.
    believed: Vec<Option<u64>>,
    /// What the broker last said, for `status`.
    seen: Offsets,
    holds: Vec<Option<Hold>>,
    accepted: u64,
    repaired: u64,
    /// Highest index such that it and all before it are done for this group.
    pub(super) floor: u64,
    /// Set by a `release` policy: up to here the group no longer holds the MDT back.
    pub(super) released: u64,
    /// The topic with repaired records that the group has still to read, and the position behind its last record.
    repair: Option<(String, Vec<u64>)>,
    /// The broker holds nothing for it any more, and nobody reads for it.
    pub(super) drained: bool,
    /// Positions skipped by `groups accept` after an eviction, in total.
    pub gaps: u64,
}

impl GroupProgress {
    /// A group as registered now, with the first positions just written (or found) in the broker. `floor`: everything
    /// that was published before it came is not its concern.
    #[must_use]
    pub fn registered(spec: GroupSpec, first: Offsets, floor: u64) -> Self {
        let holds = first
            .iter()
            .zip(0..)
            .map(|(o, partition)| o.is_none().then_some(Hold::NoFirstPosition { partition }))
            .collect();
        let (accepted, repaired) = (spec.accept, spec.repair);
        Self {
            spec,
            seen: first.clone(),
            believed: first,
            holds,
            accepted,
            repaired,
            floor,
            released: 0,
            repair: None,
            drained: false,
            gaps: 0,
        }
    }

    /// A group as State remembers it.
    #[must_use]
    pub fn remembered(spec: GroupSpec, s: &GroupState, partitions: u32) -> Self {
        let mut believed = s.committed.clone();
        believed.resize(partitions as usize, None);
        let mut g = Self::registered(spec, believed, s.floor);
        g.accepted = s.accepted;
        g.repaired = s.repaired;
        g.repair = s.repair.clone();
        g.holds.iter_mut().zip(&s.holding).for_each(|(h, kept)| *h = kept.or(*h));
        g
    }

    /// For State.
    #[must_use]
    pub fn remember(&self) -> GroupState {
        GroupState {
            feed: self.spec.feed.clone().unwrap_or_default(),
            committed: self.believed.clone(),
            floor: self.floor,
            accepted: self.accepted,
            repaired: self.repaired,
            repair: self.repair.clone(),
            holding: self.holds.iter().map(|h| h.filter(|h| !h.heals())).collect(),
        }
    }

    /// Takes the broker's answer: this group's committed positions with the topic's low marks and ends, which were
    /// asked for after the positions. `ended(partition, offset)`: that partition certainly never held a record at or
    /// behind this offset when the low marks were asked for.
    pub fn observe(&mut self, committed: &Offsets, low: &[u64], end: &[u64], ended: impl Fn(usize, u64) -> bool) {
        self.seen = committed.clone();
        for (p, partition) in (0..self.believed.len()).zip(0u32..) {
            let now = committed.get(p).copied().flatten();
            let low = low.get(p).copied().unwrap_or(0);
            let end = end.get(p).copied().unwrap_or(0);
            let now = now.or_else(|| wrong(Mutation::VanishedPositionIsTheEnd).then_some(end));
            let was = self.believed[p];
            // Once what is believed is not below the start, a position below it stands for the start: there the group
            // goes on reading.
            let now = if was.is_some_and(|was| was >= low) { now.map(|now| now.max(low)) } else { now };
            // Only a command ends these: what happened meanwhile does not show in the positions.
            if self.holds[p].is_some_and(|h| !h.heals()) {
                continue;
            }
            let hold = match (was, now) {
                // Deleted up to the end, a partition starts behind control records that no group ever commits.
                (Some(was), Some(_)) if was < low && ended(p, was) => None,
                (Some(was), _) if was < low => Some(Hold::Evicted { partition, at: was, low }),
                (None, None) => Some(Hold::NoFirstPosition { partition }),
                (Some(was), None) => Some(Hold::PositionsVanished { partition, was }),
                (_, Some(now)) if now > end && wrong(Mutation::PositionBeyondEndBelieved) => None,
                (_, Some(now)) if now > end => Some(Hold::BeyondEnd { partition, at: now, end }),
                (Some(was), Some(now)) if now < was => Some(Hold::WentBack { partition, was, now }),
                (_, Some(_)) => None,
            };
            if hold.is_none() {
                self.believed[p] = now.map(|now| now.max(was.map_or(0, |_| low)));
            }
            self.holds[p] = hold;
        }
    }

    /// `groups accept`: what is committed now is believed; skipped records are counted. A position that is still
    /// beyond the end cannot be believed, since records to come would count as done: it has to be put right first.
    pub fn accept(&mut self, number: u64, low: &[u64], end: &[u64]) {
        self.accepted = number;
        for p in 0..self.believed.len() {
            let (low, end) = (low.get(p).copied().unwrap_or(0), end.get(p).copied().unwrap_or(0));
            if let Some(Hold::Evicted { at, low, .. }) = self.holds[p] {
                self.gaps += low - at;
            }
            if self.holds[p].is_some()
                && let Some(now) = self.seen.get(p).copied().flatten().filter(|now| *now <= end)
            {
                self.believed[p] = Some(now.max(low));
                self.holds[p] = None;
            }
        }
    }

    /// `groups repair` was carried out: what the MDT still had of the evicted records now stands in the group's repair
    /// topic up to `end`; `missing` positions could not be had any more.
    pub fn repaired(&mut self, number: u64, topic: String, end: Vec<u64>, missing: u64) {
        self.repaired = number;
        self.gaps += missing;
        self.repair = Some((topic, end));
        for p in 0..self.believed.len() {
            if let Some(Hold::Evicted { low, .. }) = self.holds[p] {
                self.believed[p] = Some(low);
                self.holds[p] = None;
            }
        }
    }

    /// The group's positions on its repair topic: once it has passed the end, the repair is over.
    pub fn observe_repair(&mut self, topic: &str, committed: &Offsets) {
        let over = self.repair.as_ref().is_some_and(|(name, end)| {
            name == topic && end.iter().zip(committed).all(|(e, c)| c.is_some_and(|c| c >= *e))
        });
        if over {
            self.repair = None;
        }
    }

    /// The MDT took back everything from index `from` on: no acknowledgement of it counts any more.
    pub fn voided(&mut self, from: u64) {
        if wrong(Mutation::OldAcknowledgementsStand) {
            return;
        }
        self.floor = self.floor.min(from.saturating_sub(1));
        self.released = self.released.min(from.saturating_sub(1));
    }

    /// The repair topic that the group has still to read.
    #[must_use]
    pub fn repair_topic(&self) -> Option<&str> {
        self.repair.as_ref().map(|(name, _)| name.as_str())
    }

    /// Numbers of the last `accept` and `repair` that were applied.
    #[must_use]
    pub fn applied(&self) -> (u64, u64) {
        (self.accepted, self.repaired)
    }

    /// Evicted ranges by partition: (partition, first missing position, first position that is there).
    pub fn evicted(&self) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
        self.holds.iter().filter_map(|h| match *h {
            Some(Hold::Evicted { partition, at, low }) => Some((partition, at, low)),
            _ => None,
        })
    }

    /// The first reason why this group's floor stands still, other than an unread repair topic.
    #[must_use]
    pub fn hold(&self) -> Option<Hold> {
        self.holds.iter().copied().flatten().next()
    }

    /// Whether the floor stands still whatever is committed.
    pub(super) fn frozen(&self) -> bool {
        self.repair.is_some() || self.hold().is_some()
    }

    /// Position by partition that counts.
    #[must_use]
    pub fn believed(&self) -> &[Option<u64>] {
        &self.believed
    }

    /// The broker says that nothing is left that the group could still acknowledge.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// What the broker last said.
    #[must_use]
    pub fn seen(&self) -> &Offsets {
        &self.seen
    }

    /// Highest index such that it and all before it are done for this group.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Up to here a `release` policy let the MDT forget.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.released
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clbridge_sinks::{MdtSelection, Policy, StartAt};

    fn unknown(_partition: usize, _offset: u64) -> bool {
        false
    }

    /// A group that has committed 100 of a partition whose records below 150 were deleted since; it has no members.
    fn evicted() -> GroupProgress {
        let spec = GroupSpec {
            name: "lake".into(),
            mdts: MdtSelection::default(),
            feed: None,
            from: StartAt::Oldest,
            policy: Policy::Hold,
            accept: 0,
            repair: 0,
            by_pattern: false,
        };
        let mut group = GroupProgress::registered(spec, vec![Some(0)], 0);
        group.observe(&vec![Some(100)], &[0], &[200], unknown);
        assert_eq!(group.hold(), None);
        group.observe(&vec![Some(100)], &[150], &[200], unknown);
        assert_eq!(group.hold(), Some(Hold::Evicted { partition: 0, at: 100, low: 150 }));
        group
    }

    #[test]
    fn after_a_repair_a_group_that_has_not_come_back_yet_does_not_count_as_gone_back() {
        let mut group = evicted();
        group.repaired(1, "repair".into(), vec![50], 0);
        group.observe(&vec![Some(100)], &[150], &[200], unknown);
        assert_eq!((group.hold(), group.believed()), (None, &[Some(150)][..]));
        assert!(group.frozen(), "its repair topic is unread");
        group.observe_repair("repair", &vec![Some(50)]);
        group.observe(&vec![Some(180)], &[150], &[200], unknown);
        assert_eq!((group.frozen(), group.believed(), group.gaps), (false, &[Some(180)][..], 0));
    }

    #[test]
    fn after_an_accept_a_group_that_has_not_come_back_yet_does_not_count_as_gone_back() {
        let mut group = evicted();
        group.accept(1, &[150], &[200]);
        group.observe(&vec![Some(100)], &[150], &[200], unknown);
        assert_eq!((group.hold(), group.believed(), group.gaps), (None, &[Some(150)][..], 50));
    }

    #[test]
    fn what_is_deleted_after_a_repair_is_evicted_again() {
        let mut group = evicted();
        group.repaired(1, "repair".into(), vec![50], 0);
        group.observe(&vec![Some(100)], &[170], &[200], unknown);
        assert_eq!(group.hold(), Some(Hold::Evicted { partition: 0, at: 150, low: 170 }));
    }

    #[test]
    fn a_group_that_had_read_every_record_misses_nothing_when_all_are_deleted() {
        let mut group = evicted();
        group.accept(1, &[150], &[200]);
        group.observe(&vec![Some(198)], &[150], &[200], unknown);
        group.observe(&vec![Some(198)], &[200], &[200], |_, offset| offset >= 198);
        assert_eq!((group.hold(), group.believed()), (None, &[Some(200)][..]));
        group.observe(&vec![Some(198)], &[200], &[210], unknown);
        assert_eq!(group.hold(), None);
    }
}
