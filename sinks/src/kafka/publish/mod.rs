//! The writer of one MDT: batches of records and State, sealed into transactions (or, in idempotent mode, records as
//! they come and State by a second, transactional producer).
//!
//! The MDT's thread never waits for the broker here: commits run on a thread of their own, because one that meets a
//! stalled broker blocks for as long as the stall lasts, and meanwhile records are still taken until the memory bound.
//! Records wait in one arena a partition, since handing them over in one call a partition costs half of one call a
//! record. Nothing is reported durable from a delivery report alone unless the mode has no transactions.

mod durable;
mod handover;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use clbridge_schemas::ids::RecordId;

use super::commit::{Answers, Job, STATE_KEY, STATE_TAG, spawn};
use super::config::{Delivery, KafkaConfig, MESSAGE_OVERHEAD};
use super::native::{Arena, NativeError, Producer};
use super::slot::{SEQ_BITS, Slot};
use super::sort;
use crate::error::{Refused, SinkError};
use crate::retraction::{RETRACTS_HEADER, header_of};
use crate::state::State;
use crate::topic::Topic;
use crate::traits::{Durable, Message, Publisher};
use durable::Sealed;

/// Records of one partition that are handed over together at once; fewer only when the caller polls.
const HAND_OVER: usize = 256;
/// Every so many records of a partition one is reported with its place.
const SAMPLE: u64 = 256;

/// Where the transaction stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// None is open.
    Idle,
    /// Records go in.
    Open,
    /// Sealed; outstanding messages are awaited.
    Flushing,
    /// The commit was asked for.
    Committing,
}

/// The Kafka [`Publisher`].
pub(super) struct KafkaPublisher {
    what: String,
    records: Arc<Producer>,
    transactional: bool,
    slots: Vec<Slot>,
    /// First slot of each topic.
    first_slot: Vec<usize>,
    state_arena: Arena,
    /// Index of the State topic among the producer's.
    state_topic: usize,
    phase: Phase,
    sealed: VecDeque<Sealed>,
    last_frontier: Option<RecordId>,
    /// Slots that have something in their arena, in the order in which it came.
    waiting: VecDeque<usize>,
    in_arenas: usize,
    handed: usize,
    /// Messages handed over and not reported.
    outstanding: u64,
    arena_limit: usize,
    handed_limit: usize,
    max_message: usize,
    /// Messages and bytes accepted and not durable.
    undurable: (u64, u64),
    /// The part of it that is not sealed.
    open_size: (u64, u64),
    /// A part of the sealed batch still waits to be handed over: nothing may be mixed with it.
    sealing: bool,
    /// In idempotent mode the number of the State that is being written.
    storing: Option<u64>,
    jobs: Sender<Job>,
    answers: Answers,
    dead: Option<String>,
    abandoned: Arc<AtomicBool>,
}

impl KafkaPublisher {
    /// The writer for `topics`, on producers that have taken the fence already. In transactional mode `records` and
    /// `states` are the same.
    pub(super) fn new(
        config: &KafkaConfig,
        what: String,
        topics: &[Topic],
        records: Arc<Producer>,
        states: Arc<Producer>,
    ) -> Result<Self, SinkError> {
        let transactional = config.delivery == Delivery::Transactional;
        let mut slots = Vec::new();
        let mut first_slot = Vec::new();
        for topic in topics {
            first_slot.push(slots.len());
            let name: Arc<str> = topic.name.as_str().into();
            for partition in 0..topic.partitions {
                slots.push(Slot::new(topic.ix, Arc::clone(&name), partition));
            }
        }
        let state_topic = topics.len();
        let abandoned = Arc::new(AtomicBool::new(false));
        let (jobs, answers) = spawn(states, Arc::clone(&abandoned))
            .map_err(|e| SinkError::Unavailable { what: what.clone(), why: format!("no thread for commits: {e}") })?;
        Ok(Self {
            what,
            records,
            transactional,
            slots,
            first_slot,
            state_arena: Arena::default(),
            state_topic,
            phase: Phase::Idle,
            sealed: VecDeque::new(),
            last_frontier: None,
            waiting: VecDeque::new(),
            in_arenas: 0,
            handed: 0,
            outstanding: 0,
            // An arena that is being handed over exists twice for a moment, hence the quarter.
            arena_limit: config.memory_bytes / 4,
            handed_limit: config.memory_bytes / 2,
            max_message: config.max_message_bytes(),
            undurable: (0, 0),
            open_size: (0, 0),
            sealing: false,
            storing: None,
            jobs,
            answers,
            dead: None,
            abandoned,
        })
    }

    fn slot_of(&self, m: &Message<'_>) -> Result<usize, SinkError> {
        let first = self.first_slot.get(usize::from(m.topic.0)).copied();
        let slot = first.map(|f| f + m.partition as usize);
        match slot.and_then(|s| self.slots.get(s).map(|found| (s, found))) {
            Some((s, found)) if found.topic == m.topic && found.partition == m.partition => Ok(s),
            _ => Err(SinkError::Mismatch {
                what: self.what.clone(),
                why: format!(
                    "record {} is for topic {} partition {}, which it has not",
                    m.id.index, m.topic.0, m.partition
                ),
                hint: "this is a fault of clbridge: please report it".to_owned(),
            }),
        }
    }

    fn ensure_alive(&self) -> Result<(), SinkError> {
        match &self.dead {
            None => Ok(()),
            Some(why) => Err(self.died(why)),
        }
    }

    fn died(&self, why: &str) -> SinkError {
        if why == FENCED {
            SinkError::Fenced { what: self.what.clone(), owner: None }
        } else {
            SinkError::Unavailable { what: self.what.clone(), why: why.to_owned() }
        }
    }

    /// Remembers that nothing can be done any more: every later call fails in the same way.
    fn fail(&mut self, e: SinkError) -> SinkError {
        self.dead = Some(match &e {
            SinkError::Fenced { .. } => FENCED.to_owned(),
            other => other.to_string(),
        });
        e
    }

    fn native(&mut self, doing: &str, e: &NativeError) -> SinkError {
        let e = self.records.fatal().unwrap_or_else(|| e.clone());
        let sorted = sort(format!("{}: {doing}", self.what), &e);
        self.fail(sorted)
    }
}

/// How a publisher that was fenced remembers it.
const FENCED: &str = "fenced";

impl Drop for KafkaPublisher {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Publisher for KafkaPublisher {
    fn publish(&mut self, m: &Message<'_>) -> Result<(), Refused> {
        self.ensure_alive()?;
        let slot = self.slot_of(m)?;
        let bytes = m.payload.len() + m.key.map_or(0, <[u8]>::len);
        if bytes + 1024 > self.max_message {
            return Err(Refused::Dead(SinkError::Mismatch {
                what: format!("{}: record {}", self.what, m.id.index),
                why: format!("has {bytes} bytes, at most {} can be published", self.max_message - 1024),
                hint: "raise kafka.batch_bytes and the topic's max.message.bytes".to_owned(),
            }));
        }
        let cost = bytes + MESSAGE_OVERHEAD;
        if self.sealing {
            return Err(Refused::Full);
        }
        if self.in_arenas > 0
            && self.in_arenas + cost > self.arena_limit
            && (!self.may_hand_over() || !self.hand_over_all()?)
        {
            return Err(Refused::Full);
        }
        let s = &mut self.slots[slot];
        if s.arena.is_empty() {
            self.waiting.push_back(slot);
        }
        s.arena.push(((slot as u64) << SEQ_BITS) | s.published, m.key, m.payload);
        if let Some(retraction) = &m.retracts {
            // Its bytes are not counted: a retraction is one message a partition after an MDT crash.
            s.arena
                .head_last(RETRACTS_HEADER, header_of(retraction))
                .map_err(|e| sort(format!("{}: retraction {}", self.what, m.id), &e))?;
        }
        s.sampled = s.fresh || s.published.is_multiple_of(SAMPLE);
        if s.sampled {
            s.samples.push_back((s.published, m.id));
        }
        s.fresh = false;
        s.last = Some((s.published, m.id));
        s.published += 1;
        let full = s.arena.len() >= HAND_OVER;
        self.in_arenas += cost;
        for size in [&mut self.undurable, &mut self.open_size] {
            size.0 += 1;
            size.1 += bytes as u64;
        }
        if full && self.may_hand_over() && self.hand_over(slot)? {
            self.waiting.retain(|w| *w != slot);
        }
        Ok(())
    }

    fn seal(&mut self, frontier: Option<RecordId>, state: Option<&State>) -> Result<(), Refused> {
        self.ensure_alive()?;
        if self.transactional && !self.sealed.is_empty() {
            return Err(Refused::Full);
        }
        if !self.transactional && state.is_some() {
            return Err(Refused::Dead(SinkError::Mismatch {
                what: self.what.clone(),
                why: "State was given with a batch in idempotent mode".to_owned(),
                hint: "this is a fault of clbridge: please report it".to_owned(),
            }));
        }
        if let Some(state) = state {
            let bytes = state.write(&self.what)?;
            self.state_arena.push(STATE_TAG, Some(STATE_KEY), &bytes);
        }
        self.slots.iter_mut().for_each(Slot::seal);
        self.last_frontier = frontier.or(self.last_frontier);
        let commits = self.transactional
            && (!self.waiting.is_empty() || !self.state_arena.is_empty() || self.phase == Phase::Open);
        self.sealed.push_back(Sealed {
            frontier,
            state: state.map(|s| s.number),
            size: std::mem::take(&mut self.open_size),
            committed: !commits,
            until: self.slots.iter().map(|s| s.published).collect(),
        });
        if commits {
            self.begin()?;
            self.phase = Phase::Flushing;
            self.sealing = true;
        }
        self.advance()?;
        Ok(())
    }

    fn store(&mut self, state: &State) -> Result<(), Refused> {
        if self.transactional {
            return self.seal(self.last_frontier, Some(state));
        }
        self.ensure_alive()?;
        if self.storing.is_some() {
            return Err(Refused::Full);
        }
        let bytes = state.write(&self.what)?;
        self.submit(Job::State(bytes))?;
        self.storing = Some(state.number);
        Ok(())
    }

    fn poll(&mut self, wait: Duration, durable: &mut dyn FnMut(Durable)) -> Result<(), SinkError> {
        self.ensure_alive()?;
        let until = Instant::now() + wait;
        loop {
            self.serve(0)?;
            self.advance()?;
            if self.phase == Phase::Committing && self.answered(Duration::ZERO)? {
                self.committed();
            }
            let mut any = self.report(durable);
            if self.storing.is_some()
                && self.answered(Duration::ZERO)?
                && let Some(number) = self.storing.take()
            {
                durable(Durable::State(number));
                any = true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if any || left.is_zero() {
                // The next batch's arenas need not wait for the caller's next poll.
                return self.advance();
            }
            match self.phase {
                Phase::Committing => {
                    if self.answered(left)? {
                        self.committed();
                    }
                }
                Phase::Flushing => {
                    self.records.hurry();
                    self.serve(1)?;
                }
                Phase::Idle | Phase::Open => {
                    // State's answer does not come over this queue.
                    let most = if self.storing.is_some() { 2 } else { 100 };
                    self.serve((left.as_millis() as u32).clamp(1, most))?;
                }
            }
        }
    }

    fn ready(&self) -> bool {
        if self.transactional { self.sealed.is_empty() } else { self.storing.is_none() }
    }

    fn in_flight(&self) -> (u64, u64) {
        self.undurable
    }
}
