//! One topic as its writer sees it: the messages that wait, the places that they will have, and what was confirmed.

use std::collections::{BTreeMap, VecDeque};

use async_nats::Subject;
use bytes::Bytes;
use clbridge_schemas::ids::RecordId;
use clbridge_schemas::lustre::RecordType;

use super::super::names::type_token;
use crate::retraction::header_of;
use crate::topic::{Position, Topic, TopicIx};
use crate::traits::{Durable, Message};

/// Messages that are handed over together at once; fewer only when the caller polls.
const HAND_OVER: usize = 256;
/// Every so many messages one asks for an answer: all answers cost half of the rate, none would leave the memory full.
const ANSWER: u64 = 100;
/// Every so many records of a partition one is reported with its place.
const SAMPLE: u64 = 256;

/// One message of a part.
pub(super) struct Item {
    pub(super) subject: Subject,
    /// Its payload's end in the part; it begins where the one before ends.
    pub(super) end: usize,
    /// The sequence that it must get.
    pub(super) sequence: u64,
    /// Its identity, which contains its writer.
    pub(super) id: String,
    /// The identity of the message before it, if this writer wrote it.
    pub(super) after: Option<String>,
    /// It asks for an answer.
    pub(super) answer: bool,
    /// Value of the header of a retraction.
    pub(super) retracts: Option<String>,
}

/// Messages that follow each other, and their payloads.
pub(super) struct Part {
    pub(super) items: Vec<Item>,
    pub(super) payloads: Bytes,
}

/// One partition: what of it is to be reported with its place.
#[derive(Default)]
struct Slot {
    published: u64,
    /// The last message published, and whether it is among `samples`.
    last: Option<(u64, RecordId)>,
    sampled: bool,
    /// The next message does not follow on another one of the same batch.
    joined: bool,
    samples: VecDeque<(u64, RecordId)>,
}

/// One topic's chain of messages.
pub(super) struct Chain {
    topic: TopicIx,
    root: String,
    subjects: BTreeMap<(u32, RecordType), Subject>,
    slots: Vec<Slot>,
    /// The sequence that the next message will get.
    next: u64,
    /// The sequence behind the last one that was confirmed.
    durable: u64,
    last_id: Option<String>,
    waiting: Vec<Item>,
    payloads: Vec<u8>,
    /// Memory of messages by the sequence that frees it.
    costs: VecDeque<(u64, usize)>,
    /// Memory of messages behind the last of `costs`.
    cost: usize,
}

impl Chain {
    pub(super) fn new(topic: &Topic, root: String, end: u64) -> Self {
        Self {
            topic: topic.ix,
            root,
            subjects: BTreeMap::new(),
            slots: (0..topic.partitions).map(|_| Slot::default()).collect(),
            next: end,
            durable: end,
            last_id: None,
            waiting: Vec::new(),
            payloads: Vec::new(),
            costs: VecDeque::new(),
            cost: 0,
        }
    }

    pub(super) fn has(&self, partition: u32) -> bool {
        (partition as usize) < self.slots.len()
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    /// Adds a message; true if enough wait to be handed over.
    pub(super) fn push(&mut self, m: &Message<'_>, writer: &str, cost: usize) -> bool {
        let root = &self.root;
        let subject = self
            .subjects
            .entry((m.partition, m.kind))
            .or_insert_with(|| Subject::from(format!("{root}.{}.{}", m.partition, type_token(m.kind))))
            .clone();
        // A retraction has the index of a record that follows, and stands once in each partition.
        let id = match m.retracts {
            None => format!("{writer}:{}:{}", m.id.incarnation, m.id.index),
            Some(_) => format!("{writer}:{}:{}:r{}", m.id.incarnation, m.id.index, m.partition),
        };
        let sequence = self.next;
        self.next += 1;
        self.payloads.extend_from_slice(m.payload);
        self.cost += cost;
        // The first one goes alone, so that a refusal is answered with its reason.
        let answer = self.last_id.is_none() || sequence.is_multiple_of(ANSWER);
        self.waiting.push(Item {
            subject,
            end: self.payloads.len(),
            sequence,
            after: self.last_id.replace(id.clone()),
            id,
            answer,
            retracts: m.retracts.as_ref().map(header_of),
        });
        if answer {
            self.costs.push_back((sequence, std::mem::take(&mut self.cost)));
        }
        if let Some(slot) = self.slots.get_mut(m.partition as usize) {
            slot.sampled = !slot.joined || slot.published.is_multiple_of(SAMPLE);
            if slot.sampled {
                slot.samples.push_back((sequence, m.id));
            }
            slot.joined = true;
            slot.last = Some((sequence, m.id));
            slot.published += 1;
        }
        self.waiting.len() > HAND_OVER
    }

    /// The batch ends here: the last message of each partition is reported too.
    pub(super) fn seal(&mut self) {
        for slot in &mut self.slots {
            slot.joined = false;
            if let Some(last) = slot.last.take()
                && !slot.sampled
            {
                slot.sampled = true;
                slot.samples.push_back(last);
            }
        }
    }

    /// What waits, all but the last message, which a seal may want an answer of; with `answer` all of it, and the last
    /// message asks for one.
    pub(super) fn take(&mut self, answer: bool) -> Option<Part> {
        if !answer && self.waiting.len() < 2 || self.waiting.is_empty() {
            return None;
        }
        let mut items = std::mem::take(&mut self.waiting);
        let mut payloads = std::mem::take(&mut self.payloads);
        if answer {
            if let Some(last) = items.last_mut().filter(|last| !last.answer) {
                last.answer = true;
                self.costs.push_back((last.sequence, std::mem::take(&mut self.cost)));
            }
        } else if let Some(mut last) = items.pop() {
            let from = items.last().map_or(0, |item| item.end);
            self.payloads = payloads.split_off(from);
            last.end = self.payloads.len();
            self.waiting.push(last);
        }
        Some(Part { items, payloads: payloads.into() })
    }

    /// Every message up to `sequence` is stored. Returns the memory that it frees.
    pub(super) fn acked(&mut self, sequence: u64, durable: &mut dyn FnMut(Durable)) -> usize {
        self.durable = self.durable.max(sequence + 1);
        let mut freed = 0;
        while self.costs.front().is_some_and(|(at, _)| *at < self.durable) {
            freed += self.costs.pop_front().map_or(0, |(_, cost)| cost);
        }
        self.report(durable);
        freed
    }

    /// Reports places that are known to be durable; true if there was any.
    pub(super) fn report(&mut self, durable: &mut dyn FnMut(Durable)) -> bool {
        let mut any = false;
        for (partition, slot) in (0..).zip(&mut self.slots) {
            while let Some((offset, id)) = slot.samples.front().copied().filter(|(at, _)| *at < self.durable) {
                slot.samples.pop_front();
                durable(Durable::At { topic: self.topic, at: Position { partition, offset }, id });
                any = true;
            }
        }
        any
    }
}
