//! The writer of one MDT: records go into blocks, blocks to a thread that packs them, and on to one that writes, syncs
//! and commits.
//!
//! The MDT's thread never waits for the disk here; while the disk is slow or full, records are taken until the memory
//! bound. While one batch is synced, the blocks of the next one are packed. Blocks are written as they become full, and
//! mean nothing until the commit that names where the topic ends.

mod packer;
mod repair;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use clbridge_schemas::avro::{Framing, SchemaVersion, framing_of};
use clbridge_schemas::ids::{MdtName, RecordId};

use super::config::FilesConfig;
use super::slots::Slots;
use super::stand::Stand;
use crate::error::{Refused, SinkError};
use crate::retraction::header_of;
use crate::state::State;
use crate::topic::{Position, Topic};
use crate::traits::{Durable, Message, Publisher};
use packer::Packer;
pub(super) use repair::container_of;
use writer::Writer;

/// Every so many records one is reported with its place.
const SAMPLE: u64 = 256;

/// What a publisher begins with.
pub(super) struct Begin {
    pub(super) mdt: MdtName,
    pub(super) topics: Vec<Topic>,
    pub(super) slots: Slots,
    pub(super) stand: Stand,
}

/// Records of one topic that are written together.
struct Block {
    topic: usize,
    /// The first one.
    first: RecordId,
    position: u64,
    count: u64,
    version: SchemaVersion,
    /// The text that a retraction's file has in its header.
    retracts: Option<String>,
    /// Bodies, one behind the other.
    bodies: Vec<u8>,
}

/// What the two threads are asked for, in this order.
enum Job {
    Block(Block),
    Commit(Commit),
}

/// The end of a batch.
struct Commit {
    /// State as it is to be kept from here on; `None`: as it was.
    state: Option<Vec<u8>>,
    /// What is durable with it.
    says: Vec<Durable>,
    /// Messages and bytes of it.
    size: (u64, u64),
    /// Nothing was published and no State given: it waits for nothing but its turn.
    empty: bool,
}

/// A topic as its publisher sees it.
struct Lane {
    /// The position of the next record.
    next: u64,
    block: Option<Block>,
    /// Places to be reported with the batch.
    places: Vec<Durable>,
    /// The last record, unless it is among them.
    last: Option<Durable>,
}

/// The files [`Publisher`].
pub(super) struct FilesPublisher {
    mdt: MdtName,
    lanes: Vec<Lane>,
    block_bytes: usize,
    memory: usize,
    jobs: Sender<Job>,
    answers: Receiver<Result<Commit, SinkError>>,
    /// Bytes handed over and not written.
    waiting: Arc<AtomicUsize>,
    abandoned: Arc<AtomicBool>,
    /// Messages and bytes accepted and not durable.
    undurable: (u64, u64),
    /// The part of it that is not sealed.
    unsealed: (u64, u64),
    committing: bool,
    last_frontier: Option<RecordId>,
    dead: Option<String>,
    fenced: bool,
}

impl FilesPublisher {
    pub(super) fn new(config: &FilesConfig, begin: Begin) -> Result<Self, SinkError> {
        let lane = |topic: &Topic| Lane {
            next: begin.stand.end_of(&topic.name, &topic.id).map_or(0, |end| end.end),
            block: None,
            places: Vec::new(),
            last: None,
        };
        let (lanes, mdt) = (begin.topics.iter().map(lane).collect(), begin.mdt.clone());
        let (jobs, taken) = channel();
        let (say, answers) = channel();
        let (waiting, abandoned) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let writer = Writer::new(config, begin, Arc::clone(&waiting), Arc::clone(&abandoned));
        let (pass_on, packed) = channel();
        let packer = Packer { codec: config.codec, abandoned: Arc::clone(&abandoned) };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
            spawned.map_err(|e| SinkError::Unavailable { what: format!("publishing {mdt}"), why: e.to_string() })
        };
        spawn("files-packer", Box::new(move || packer.run(&taken, &pass_on)))?;
        spawn("files-writer", Box::new(move || writer.run(&packed, &say)))?;
        Ok(Self {
            mdt,
            lanes,
            block_bytes: config.block_bytes as usize,
            memory: config.memory_bytes / 2,
            jobs,
            answers,
            waiting,
            abandoned,
            undurable: (0, 0),
            unsealed: (0, 0),
            committing: false,
            last_frontier: None,
            dead: None,
            fenced: false,
        })
    }

    fn what(&self) -> String {
        format!("publishing {}", self.mdt)
    }

    fn ensure_alive(&self) -> Result<(), SinkError> {
        match &self.dead {
            Some(_) if self.fenced => Err(SinkError::Fenced { what: self.what(), owner: None }),
            Some(why) => Err(SinkError::Unavailable { what: self.what(), why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Remembers that nothing can be done any more: every later call fails in the same way.
    fn fail(&mut self, e: SinkError) -> SinkError {
        self.fenced = matches!(e, SinkError::Fenced { .. });
        self.dead = Some(e.to_string());
        e
    }

    fn submit(&mut self, job: Job) -> Result<(), SinkError> {
        if let Job::Block(block) = &job {
            self.waiting.fetch_add(block.bodies.len(), Ordering::Relaxed);
        }
        if self.jobs.send(job).is_ok() {
            return Ok(());
        }
        // The thread has said why it ended.
        let why = self.answers.try_iter().find_map(Result::err);
        let gone = || SinkError::Unavailable { what: self.what(), why: "the writing thread is gone".to_owned() };
        let why = why.unwrap_or_else(gone);
        Err(self.fail(why))
    }

    fn fault(&self, m: &Message<'_>, why: String, hint: &str) -> Refused {
        let what = format!("{}: record {}", self.what(), m.id);
        Refused::Dead(SinkError::Mismatch { what, why, hint: hint.to_owned() })
    }

    fn answered(
        &mut self,
        answer: Result<Commit, SinkError>,
        durable: &mut dyn FnMut(Durable),
    ) -> Result<(), SinkError> {
        let commit = answer.map_err(|e| self.fail(e))?;
        self.committing = false;
        self.undurable.0 -= commit.size.0;
        self.undurable.1 -= commit.size.1;
        commit.says.into_iter().for_each(durable);
        Ok(())
    }
}

impl Drop for FilesPublisher {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Publisher for FilesPublisher {
    fn publish(&mut self, m: &Message<'_>) -> Result<(), Refused> {
        self.ensure_alive()?;
        let ix = usize::from(m.topic.0);
        if m.partition != 0 || ix >= self.lanes.len() {
            let why = format!("is for topic {} partition {}, which it has not", m.topic.0, m.partition);
            return Err(self.fault(m, why, "this is a fault of clbridge: please report it"));
        }
        let (version, start) = match framing_of(m.payload) {
            Ok((Framing::SingleObject, Some(version), start)) => (version, start),
            Ok(_) => {
                let why = "has the framing of a schema registry, which files have no place for".to_owned();
                return Err(self.fault(m, why, "set the feed's framing to single-object: each file has its schema"));
            }
            Err(e) => return Err(self.fault(m, e.to_string(), "this is a fault of clbridge: please report it")),
        };
        let body = &m.payload[start..];
        if self.waiting.load(Ordering::Relaxed) + body.len() > self.memory {
            return Err(Refused::Full);
        }
        let retracts = m.retracts.as_ref().map(header_of);
        let alone = retracts.is_some();
        let other = self.lanes[ix].block.as_ref().is_some_and(|b| alone || b.version != version);
        if other && let Some(block) = self.lanes[ix].block.take() {
            self.submit(Job::Block(block))?;
        }
        let lane = &mut self.lanes[ix];
        let position = lane.next;
        let block = lane.block.get_or_insert_with(|| Block {
            topic: ix,
            first: m.id,
            position,
            count: 0,
            version,
            retracts,
            bodies: Vec::with_capacity(self.block_bytes + body.len()),
        });
        block.bodies.extend_from_slice(body);
        block.count += 1;
        lane.next += 1;
        let at = Durable::At { topic: m.topic, at: Position { partition: 0, offset: position }, id: m.id };
        lane.last = Some(at);
        if lane.places.is_empty() || position.is_multiple_of(SAMPLE) {
            lane.places.push(at);
            lane.last = None;
        }
        let full = alone || block.bodies.len() >= self.block_bytes;
        for size in [&mut self.undurable, &mut self.unsealed] {
            size.0 += 1;
            size.1 += m.payload.len() as u64;
        }
        if full && let Some(block) = self.lanes[ix].block.take() {
            self.submit(Job::Block(block))?;
        }
        Ok(())
    }

    fn seal(&mut self, frontier: Option<RecordId>, state: Option<&State>) -> Result<(), Refused> {
        self.ensure_alive()?;
        if self.committing {
            return Err(Refused::Full);
        }
        let written = state.map(|s| s.write(&self.what())).transpose()?;
        let mut says = Vec::new();
        for ix in 0..self.lanes.len() {
            if let Some(block) = self.lanes[ix].block.take() {
                self.submit(Job::Block(block))?;
            }
            let lane = &mut self.lanes[ix];
            says.append(&mut lane.places);
            says.extend(lane.last.take());
        }
        says.extend(frontier.map(Durable::Frontier));
        says.extend(state.map(|s| Durable::State(s.number)));
        let size = std::mem::take(&mut self.unsealed);
        self.last_frontier = frontier.or(self.last_frontier);
        let empty = size.0 == 0 && written.is_none();
        self.submit(Job::Commit(Commit { state: written, says, size, empty }))?;
        self.committing = true;
        Ok(())
    }

    fn store(&mut self, state: &State) -> Result<(), Refused> {
        self.seal(self.last_frontier, Some(state))
    }

    fn poll(&mut self, wait: Duration, durable: &mut dyn FnMut(Durable)) -> Result<(), SinkError> {
        self.ensure_alive()?;
        let until = Instant::now() + wait;
        match self.answers.try_recv() {
            Ok(answer) => return self.answered(answer, durable),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(self.gone()),
        }
        match self.answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(answer) => self.answered(answer, durable),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(self.gone()),
        }
    }

    fn ready(&self) -> bool {
        !self.committing
    }

    fn in_flight(&self) -> (u64, u64) {
        self.undurable
    }
}

impl FilesPublisher {
    fn gone(&mut self) -> SinkError {
        let why = SinkError::Unavailable { what: self.what(), why: "the writing thread is gone".to_owned() };
        self.fail(why)
    }
}
