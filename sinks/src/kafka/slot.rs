//! One partition of one topic as its writer sees it: what waits, what is under way, and what its delivery reports say.
//!
//! A report is believed only if it is the next in line, at an offset that rose: a fallen offset is the only sign of a
//! topic that was recreated or of a broker that lost records.

use std::collections::VecDeque;
use std::sync::Arc;

use clbridge_schemas::ids::RecordId;

use super::native::{Arena, Report};
use crate::topic::TopicIx;

/// The lower bits of a tag count messages of a slot, the upper 16 name it.
pub(super) const SEQ_BITS: u32 = 48;

/// One partition of one topic, as its writer sees it.
pub(super) struct Slot {
    pub(super) topic: TopicIx,
    /// The broker's name of the topic, for errors.
    name: Arc<str>,
    pub(super) partition: u32,
    pub(super) arena: Arena,
    /// Messages published so far.
    pub(super) published: u64,
    /// Messages that the broker has confirmed so far.
    pub(super) delivered: u64,
    /// Memory of what was handed over: message number behind it, and its cost.
    pub(super) handed: VecDeque<(u64, usize)>,
    /// The last confirmed offset.
    pub(super) last_offset: Option<i64>,
    /// The last message published, and whether it is among `samples`.
    pub(super) last: Option<(u64, RecordId)>,
    pub(super) sampled: bool,
    /// The next message begins a batch.
    pub(super) fresh: bool,
    /// Messages to be reported with their place: number and identity.
    pub(super) samples: VecDeque<(u64, RecordId)>,
    /// Those whose place is known and that are not reported yet.
    pub(super) places: Vec<(i64, RecordId)>,
}

/// What a delivery report can say that ends a publisher.
pub(super) enum Wrong {
    Undelivered(rdkafka::error::RDKafkaErrorCode),
    Gap(String),
    Fell(String),
}

impl Slot {
    pub(super) fn new(topic: TopicIx, name: Arc<str>, partition: u32) -> Self {
        Self {
            topic,
            name,
            partition,
            arena: Arena::default(),
            published: 0,
            delivered: 0,
            handed: VecDeque::new(),
            last_offset: None,
            last: None,
            sampled: false,
            fresh: true,
            samples: VecDeque::new(),
            places: Vec::new(),
        }
    }

    /// Takes a delivery report: the next in line, at an offset that rose. Returns the memory that it freed.
    pub(super) fn take(&mut self, r: &Report, transactional: bool) -> Result<usize, Wrong> {
        if let Some(code) = r.error {
            return Err(Wrong::Undelivered(code));
        }
        let seq = r.tag & ((1 << SEQ_BITS) - 1);
        let place = || format!("topic {} partition {}", self.name, self.partition);
        if seq != self.delivered {
            return Err(Wrong::Gap(format!(
                "{}: message {seq} was confirmed where {} was expected",
                place(),
                self.delivered
            )));
        }
        match self.last_offset {
            Some(last) if r.offset <= last => {
                return Err(Wrong::Fell(format!("{}: offset {} was given after {last}", place(), r.offset)));
            }
            // Only transactions leave holes; here another writer's records lie between, so what is there must be
            // read back before anything more is said of it.
            Some(last) if !transactional && r.offset != last + 1 => {
                return Err(Wrong::Gap(format!(
                    "{}: offset {} was given after {last}: another writer's records lie between",
                    place(),
                    r.offset
                )));
            }
            _ => {}
        }
        self.last_offset = Some(r.offset);
        self.delivered += 1;
        if self.samples.front().is_some_and(|(n, _)| *n == seq)
            && let Some((_, id)) = self.samples.pop_front()
        {
            self.places.push((r.offset, id));
        }
        let mut freed = 0;
        while self.handed.front().is_some_and(|(until, _)| *until <= self.delivered) {
            freed += self.handed.pop_front().map_or(0, |(_, cost)| cost);
        }
        Ok(freed)
    }

    /// The batch ends here: its last message is reported too.
    pub(super) fn seal(&mut self) {
        self.fresh = true;
        let Some((seq, id)) = self.last.take().filter(|_| !self.sampled) else {
            return;
        };
        self.sampled = true;
        if seq >= self.delivered {
            self.samples.push_back((seq, id));
        } else if let Some(offset) = self.last_offset {
            self.places.push((offset, id));
        }
    }
}
