//! Where batches end, which of them are durable, and how much of it a start would publish again.
//!
//! Nobody can read back what stands behind State's frontier, so a start publishes it again. How much that may be is
//! bounded: what was accepted and is not told by a durable State is counted, and a publisher with too much of it is full.

use std::collections::VecDeque;

use clbridge_schemas::ids::RecordId;

use crate::state::State;

/// So many durable frontiers are kept: State tells the newest one, or one that it was about to write just before.
const KEPT: usize = 64;

/// How far everything had come at a frontier.
#[derive(Clone)]
pub(super) struct Reached {
    /// Position of the last record of each topic.
    pub(super) tails: Vec<Option<u64>>,
    /// Records of this life that were accepted up to there.
    accepted: u64,
}

/// A sealed batch that is not durable yet.
struct Sealed {
    /// Number of messages before the seal.
    until: u64,
    frontier: Option<RecordId>,
    reached: Reached,
}

/// See the module.
pub(super) struct Frontiers {
    sealed: VecDeque<Sealed>,
    /// The frontiers that are durable: where State's frontier may be.
    durable: VecDeque<(RecordId, Reached)>,
    topics: usize,
    /// Records accepted in this life; what goes to several topics counts once.
    accepted: u64,
    newest: Option<RecordId>,
    /// So many of them the last durable State tells of.
    told: u64,
    most_repeated: u64,
    /// The State on its way: its number, and how many accepted records it tells of.
    storing: Option<(u64, u64)>,
}

impl Frontiers {
    /// Of a life that begins at `frontier`, with what State told of tails there.
    pub(super) fn new(frontier: Option<RecordId>, tails: &[Option<u64>], topics: usize, most_repeated: u32) -> Self {
        Self {
            sealed: VecDeque::new(),
            durable: frontier.map(|f| (f, Reached { tails: tails.to_vec(), accepted: 0 })).into_iter().collect(),
            topics,
            accepted: 0,
            newest: None,
            told: 0,
            most_repeated: u64::from(most_repeated),
            storing: None,
        }
    }

    /// Whether this record can be taken. One that a topic has goes to the others too: what is sealed is whole records.
    pub(super) fn takes(&self, id: RecordId) -> bool {
        self.newest == Some(id) || self.accepted - self.told < self.most_repeated
    }

    pub(super) fn accept(&mut self, id: RecordId) {
        if self.newest.replace(id) != Some(id) {
            self.accepted += 1;
        }
    }

    /// A batch ends behind so many messages. `tail`: the position of a topic's last record in this life.
    pub(super) fn seal(&mut self, until: u64, frontier: Option<RecordId>, tail: impl Fn(usize) -> Option<u64>) {
        let before = self.sealed.back().map(|s| &s.reached).or(self.durable.back().map(|(_, r)| r));
        let before = |topic: usize| before.and_then(|b| b.tails.get(topic).copied().flatten());
        let tails = (0..self.topics).map(|topic| tail(topic).or_else(|| before(topic))).collect();
        self.sealed.push_back(Sealed { until, frontier, reached: Reached { tails, accepted: self.accepted } });
    }

    /// The next batch that is durable now that so many messages are confirmed: its frontier.
    pub(super) fn next_durable(&mut self, confirmed: u64) -> Option<Option<RecordId>> {
        let sealed = self.sealed.front().is_some_and(|s| s.until <= confirmed).then(|| self.sealed.pop_front())??;
        if let Some(frontier) = sealed.frontier {
            self.durable.push_back((frontier, sealed.reached));
            while self.durable.len() > KEPT {
                self.durable.pop_front();
            }
        }
        Some(sealed.frontier)
    }

    /// Half of what State may leave untold is untold: records can go on being taken while the next one is written.
    pub(super) fn wants_state(&self) -> bool {
        self.storing.is_none() && (self.accepted - self.told) * 2 >= self.most_repeated
    }

    /// A State is on its way.
    pub(super) fn is_storing(&self) -> bool {
        self.storing.is_some()
    }

    /// State goes out: the tails at its frontier.
    pub(super) fn store(&mut self, state: &State) -> Vec<Option<u64>> {
        // The next incarnation begins at the frontier of the one before, with the same index.
        let index = state.frontier.map(|f| f.id.index);
        let known = index.and_then(|index| self.durable.iter().rev().find(|(f, _)| f.index <= index));
        let at = known.map_or_else(|| Reached { tails: vec![None; self.topics], accepted: 0 }, |(_, r)| r.clone());
        self.storing = Some((state.number, at.accepted));
        at.tails
    }

    /// The State of this number is durable.
    pub(super) fn stored(&mut self, number: u64) {
        if let Some((_, told)) = self.storing.take_if(|(storing, _)| *storing == number) {
            self.told = told;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZeroU64;

    use clbridge_schemas::ids::MdtName;

    use super::*;

    #[test]
    fn state_is_wanted_before_records_are_refused_and_not_while_one_is_on_its_way() {
        let id = |index: u64| RecordId { incarnation: 1, index: NonZeroU64::new(index).unwrap() };
        let mut frontiers = Frontiers::new(None, &[], 1, 10);
        (1..=4).for_each(|index| frontiers.accept(id(index)));
        assert!(!frontiers.wants_state());
        frontiers.accept(id(5));
        assert!(frontiers.wants_state() && frontiers.takes(id(6)));
        let state = State::first("fs-MDT0000".parse::<MdtName>().unwrap(), "bridge".to_owned());
        frontiers.store(&state);
        assert!(!frontiers.wants_state());
        // one that tells of nothing is no help
        frontiers.stored(state.number);
        assert!(frontiers.wants_state());
        (6..=10).for_each(|index| frontiers.accept(id(index)));
        assert!(!frontiers.takes(id(11)));
    }
}
