//! Order of one consumer of an ordered group, of which one member at a time is served.
//!
//! When that member goes, what it had not acknowledged is delivered again to the next one, but the server does not
//! keep its order there (seen with 2.15.2: the lowest sequence came last). So a member that has just become the one
//! that is served holds back what comes until it has all that is unacknowledged, and hands it out by sequence.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::traits::Consumed;

/// How long an answer about what is unacknowledged is waited on before it is asked for anew: meanwhile somebody else
/// may have acknowledged.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is unacknowledged, as the server says it.
#[derive(Clone, Copy)]
struct Unacknowledged {
    /// Highest sequence that was ever delivered.
    up_to: u64,
    /// How many up to there are not acknowledged.
    count: usize,
}

/// Order of what one consumer delivers to this member.
#[derive(Default)]
pub(super) struct Order {
    /// By which the server tells the member that is served; it makes a new one for each.
    pin: String,
    settled: bool,
    unacknowledged: Option<Unacknowledged>,
    asked: Option<Instant>,
    held: BTreeMap<u64, Consumed>,
}

impl Order {
    /// A message came; returns what may be handed out now.
    pub(super) fn arrived(&mut self, pin: &str, sequence: u64, record: Consumed) -> Vec<Consumed> {
        if self.pin != pin {
            // What was held back for an earlier turn may have been another member's meanwhile; it comes again if not.
            *self = Self { pin: pin.to_owned(), ..Self::default() };
        }
        if self.settled {
            return vec![record];
        }
        self.held.insert(sequence, record);
        self.complete()
    }

    /// Whether the server has to be asked what is unacknowledged.
    pub(super) fn asks(&mut self, now: Instant) -> bool {
        let asks = !self.settled
            && !self.held.is_empty()
            && self.asked.is_none_or(|at| now.saturating_duration_since(at) >= ASK_AGAIN);
        if asks {
            self.asked = Some(now);
        }
        asks
    }

    /// The server's answer: `count` messages up to sequence `up_to` are not acknowledged. Returns what may be handed
    /// out now.
    pub(super) fn told(&mut self, up_to: u64, count: usize) -> Vec<Consumed> {
        self.unacknowledged = Some(Unacknowledged { up_to, count });
        self.complete()
    }

    fn complete(&mut self) -> Vec<Consumed> {
        let Some(all) = self.unacknowledged else { return Vec::new() };
        if self.held.range(..=all.up_to).count() < all.count {
            return Vec::new();
        }
        self.settled = true;
        std::mem::take(&mut self.held).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Position;

    fn record(sequence: u64) -> Consumed {
        let at = Position { partition: 0, offset: sequence };
        Consumed { topic: "t".into(), at, key: None, payload: Vec::new(), retracts: None }
    }

    fn sequences(records: &[Consumed]) -> Vec<u64> {
        records.iter().map(|r| r.at.offset).collect()
    }

    #[test]
    fn what_a_dead_member_had_is_handed_out_by_sequence_when_all_of_it_came() {
        let mut order = Order::default();
        assert!(!order.asks(Instant::now()), "nothing is held back yet");
        assert!(order.arrived("a", 6, record(6)).is_empty());
        assert!(order.asks(Instant::now()) && !order.asks(Instant::now()));
        assert!(order.told(9, 3).is_empty());
        assert!(order.arrived("a", 9, record(9)).is_empty());
        // A new one that overtakes what comes again does not count.
        assert!(order.arrived("a", 12, record(12)).is_empty());
        assert_eq!(sequences(&order.arrived("a", 3, record(3))), [3, 6, 9, 12]);
        assert_eq!(sequences(&order.arrived("a", 15, record(15))), [15]);
    }

    #[test]
    fn a_new_turn_is_put_in_order_anew() {
        let mut order = Order::default();
        assert!(order.arrived("a", 3, record(3)).is_empty());
        assert_eq!(sequences(&order.told(3, 1)), [3]);
        assert!(order.arrived("b", 9, record(9)).is_empty());
        assert!(order.asks(Instant::now()));
        // Somebody else acknowledged the other one meanwhile.
        assert!(order.told(9, 2).is_empty());
        assert_eq!(sequences(&order.told(9, 1)), [9]);
    }
}
