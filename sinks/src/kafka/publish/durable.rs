//! Sealed batches until they are durable, and what is said of them then.

use clbridge_schemas::ids::RecordId;

use super::{KafkaPublisher, Phase};
use crate::topic::Position;
use crate::traits::Durable;

/// A sealed batch that is not durable yet.
pub(super) struct Sealed {
    pub(super) frontier: Option<RecordId>,
    pub(super) state: Option<u64>,
    /// Messages and their bytes.
    pub(super) size: (u64, u64),
    /// In transactional mode: nothing is left to be committed.
    pub(super) committed: bool,
    /// Number of messages published before the seal, by slot.
    pub(super) until: Vec<u64>,
}

impl KafkaPublisher {
    fn delivered_until(&self, batch: &Sealed) -> bool {
        self.slots.iter().zip(&batch.until).all(|(s, until)| s.delivered >= *until)
    }

    pub(super) fn committed(&mut self) {
        self.phase = Phase::Idle;
        if let Some(batch) = self.sealed.front_mut() {
            batch.committed = true;
        }
    }

    /// Reports what the last answer or the last delivery reports made durable; true if there was anything.
    pub(super) fn report(&mut self, durable: &mut dyn FnMut(Durable)) -> bool {
        let mut any = false;
        if !self.transactional {
            any |= self.report_places(durable);
        }
        while let Some(batch) = self.sealed.front() {
            let done = if self.transactional { batch.committed } else { self.delivered_until(batch) };
            if !done {
                break;
            }
            if self.transactional {
                self.report_places(durable);
            }
            let Some(batch) = self.sealed.pop_front() else {
                break;
            };
            self.undurable.0 -= batch.size.0;
            self.undurable.1 -= batch.size.1;
            if let Some(frontier) = batch.frontier {
                durable(Durable::Frontier(frontier));
            }
            if let Some(number) = batch.state {
                durable(Durable::State(number));
            }
            any = true;
        }
        any
    }

    fn report_places(&mut self, durable: &mut dyn FnMut(Durable)) -> bool {
        let mut any = false;
        for s in &mut self.slots {
            for (offset, id) in s.places.drain(..) {
                any = true;
                durable(Durable::At {
                    topic: s.topic,
                    at: Position { partition: s.partition, offset: offset as u64 },
                    id,
                });
            }
        }
        any
    }
}
