//! The writer of one MDT: records as chains of messages, one a topic, and State by revision.
//!
//! The MDT's thread copies records into parts and keeps the account; a task beside it, the [`courier`], hands the parts
//! to the client and takes the answers. The place of a message is known when it is published, since the server refuses
//! it anywhere else. Every hundredth message and the last before a seal ask for an answer, which proves all before it;
//! any refusal, silence or lost connection ends this publisher, and a start finds out what arrived.

mod chain;
mod courier;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clbridge_schemas::ids::{MdtName, RecordId};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::config::NatsConfig;
use super::link::Link;
use crate::error::{Refused, SinkError};
use crate::state::State;
use crate::topic::Topic;
use crate::traits::{Durable, Message, Publisher};
use chain::Chain;
use courier::{Answer, Courier, Job};

/// Memory of one message beside its bytes: its place in a part, and its headers in the client.
const MESSAGE_OVERHEAD: usize = 400;

/// Where a publisher begins.
pub(super) struct Begin {
    pub(super) mdt: MdtName,
    pub(super) topics: Vec<Topic>,
    /// The sequence that the next message of each topic gets.
    pub(super) ends: Vec<u64>,
    /// Revision of State, 0 if there is none.
    pub(super) revision: u64,
}

/// A sealed batch that is not durable yet.
struct Sealed {
    frontier: Option<RecordId>,
    /// By topic the sequence behind its last message.
    until: Vec<u64>,
    /// Messages and their bytes.
    size: (u64, u64),
}

/// The NATS [`Publisher`].
pub(super) struct NatsPublisher {
    what: String,
    /// Names this writer in every message: no other one ever had this name.
    writer: String,
    chains: Vec<Chain>,
    sealed: VecDeque<Sealed>,
    /// Messages and bytes accepted and not durable, and the part of it that is not sealed.
    undurable: (u64, u64),
    open_size: (u64, u64),
    /// Memory of what is not answered, and its bound.
    cost: usize,
    limit: usize,
    max_message: usize,
    /// Number of the State that is being written.
    storing: Option<u64>,
    jobs: UnboundedSender<Job>,
    answers: Receiver<Answer>,
    task: JoinHandle<()>,
    dead: Option<Death>,
}

/// What a dead publisher remembers.
enum Death {
    Fenced,
    Other(String),
}

impl NatsPublisher {
    /// The writer that goes on where `begin` says, over a connection of its own.
    pub(super) fn new(config: &NatsConfig, link: Link, begin: Begin) -> Self {
        let (jobs, todo) = unbounded_channel();
        let (answered, answers) = channel();
        let chains: Vec<Chain> = begin
            .topics
            .iter()
            .zip(&begin.ends)
            .map(|(topic, end)| Chain::new(topic, config.topic_root(topic), *end))
            .collect();
        let max_message = link.client.max_payload();
        let what = format!("publishing {}", begin.mdt);
        let courier = Courier::new(config, link, &what, &begin);
        let task = tokio::spawn(async move { courier.run(todo, answered).await });
        Self {
            writer: writer(begin.revision),
            what,
            chains,
            sealed: VecDeque::new(),
            undurable: (0, 0),
            open_size: (0, 0),
            cost: 0,
            // What waits in the client exists twice for a moment.
            limit: config.memory_bytes / 2,
            max_message,
            storing: None,
            jobs,
            answers,
            task,
            dead: None,
        }
    }

    fn ensure_alive(&self) -> Result<(), SinkError> {
        match &self.dead {
            None => Ok(()),
            Some(Death::Fenced) => Err(SinkError::Fenced { what: self.what.clone(), owner: None }),
            Some(Death::Other(why)) => Err(SinkError::Unavailable { what: self.what.clone(), why: why.clone() }),
        }
    }

    /// Remembers that nothing can be done any more: every later call fails in the same way.
    fn fail(&mut self, e: SinkError) -> SinkError {
        self.dead = Some(match &e {
            SinkError::Fenced { .. } => Death::Fenced,
            other => Death::Other(other.to_string()),
        });
        self.task.abort();
        e
    }

    fn submit(&mut self, job: Job) -> Result<(), SinkError> {
        if self.jobs.send(job).is_err() {
            return Err(self.gone());
        }
        Ok(())
    }

    fn gone(&mut self) -> SinkError {
        // What ended the task may still lie among its answers.
        while let Ok(answer) = self.answers.try_recv() {
            if let Answer::Failed(e) = answer {
                return self.fail(e);
            }
        }
        let e = SinkError::Unavailable { what: self.what.clone(), why: "the runtime is shutting down".to_owned() };
        self.fail(e)
    }

    /// Hands over what waits in one chain, or in all; with `answer` the last message asks for one.
    fn hand_over(&mut self, chain: usize, answer: bool) -> Result<(), SinkError> {
        match self.chains.get_mut(chain).and_then(|c| c.take(answer)) {
            Some(part) => self.submit(Job::Records(chain, part)),
            None => Ok(()),
        }
    }

    fn hand_over_all(&mut self, answer: bool) -> Result<(), SinkError> {
        (0..self.chains.len()).try_for_each(|chain| self.hand_over(chain, answer))
    }

    fn taken(&mut self, answer: Answer, durable: &mut dyn FnMut(Durable)) -> Result<(), SinkError> {
        match answer {
            Answer::Acked { topic, sequence } => {
                if let Some(chain) = self.chains.get_mut(topic) {
                    self.cost -= chain.acked(sequence, durable);
                }
                self.report(durable);
                Ok(())
            }
            Answer::Stored => {
                if let Some(number) = self.storing.take() {
                    durable(Durable::State(number));
                }
                Ok(())
            }
            Answer::Failed(e) => Err(self.fail(e)),
        }
    }

    /// Sealed batches of which every message was confirmed.
    fn report(&mut self, durable: &mut dyn FnMut(Durable)) -> bool {
        let mut any = false;
        let done = |chains: &[Chain], s: &Sealed| chains.iter().zip(&s.until).all(|(c, until)| c.durable() >= *until);
        while self.sealed.front().is_some_and(|s| done(&self.chains, s)) {
            let Some(batch) = self.sealed.pop_front() else { break };
            self.undurable.0 -= batch.size.0;
            self.undurable.1 -= batch.size.1;
            if let Some(frontier) = batch.frontier {
                durable(Durable::Frontier(frontier));
            }
            any = true;
        }
        any
    }

    fn fault(&self, why: String) -> SinkError {
        SinkError::Mismatch {
            what: self.what.clone(),
            why,
            hint: "this is a fault of clbridge: please report it".to_owned(),
        }
    }
}

/// A writer begins with a State that nobody else begins with; without one, with a number that nobody else draws.
fn writer(revision: u64) -> String {
    if revision > 0 {
        return revision.to_string();
    }
    let drawn = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("0{drawn:x}")
}

impl Drop for NatsPublisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Publisher for NatsPublisher {
    fn publish(&mut self, m: &Message<'_>) -> Result<(), Refused> {
        self.ensure_alive()?;
        let at = usize::from(m.topic.0);
        let known = self.chains.get(at).is_some_and(|c| c.has(m.partition));
        if !known {
            let why = format!("record {} is for topic {at} partition {}, which it has not", m.id.index, m.partition);
            return Err(Refused::Dead(self.fault(why)));
        }
        let bytes = m.payload.len();
        if bytes + 1024 > self.max_message {
            return Err(Refused::Dead(SinkError::Mismatch {
                what: format!("{}: record {}", self.what, m.id.index),
                why: format!("has {bytes} bytes, the server takes {} with headers", self.max_message),
                hint: "raise max_payload in the server's configuration".to_owned(),
            }));
        }
        let cost = bytes + MESSAGE_OVERHEAD;
        if self.cost > 0 && self.cost + cost > self.limit {
            // What waits is answered only if something asks for it.
            self.hand_over_all(true)?;
            return Err(Refused::Full);
        }
        let Some(chain) = self.chains.get_mut(at) else { return Ok(()) };
        let full = chain.push(m, &self.writer, cost);
        self.cost += cost;
        for size in [&mut self.undurable, &mut self.open_size] {
            size.0 += 1;
            size.1 += bytes as u64;
        }
        if full {
            self.hand_over(at, false)?;
        }
        Ok(())
    }

    fn seal(&mut self, frontier: Option<RecordId>, state: Option<&State>) -> Result<(), Refused> {
        self.ensure_alive()?;
        if state.is_some() {
            return Err(Refused::Dead(self.fault("State was given with a batch".to_owned())));
        }
        self.chains.iter_mut().for_each(Chain::seal);
        self.sealed.push_back(Sealed {
            frontier,
            until: self.chains.iter().map(Chain::next).collect(),
            size: std::mem::take(&mut self.open_size),
        });
        Ok(self.hand_over_all(true)?)
    }

    fn store(&mut self, state: &State) -> Result<(), Refused> {
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
        self.hand_over_all(false)?;
        let until = Instant::now() + wait;
        let mut any = self.report(durable);
        for chain in &mut self.chains {
            any |= chain.report(durable);
        }
        loop {
            while let Ok(answer) = self.answers.try_recv() {
                self.taken(answer, durable)?;
                any = true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if any || left.is_zero() {
                return Ok(());
            }
            match self.answers.recv_timeout(left) {
                Ok(answer) => {
                    self.taken(answer, durable)?;
                    any = true;
                }
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
            }
        }
    }

    fn ready(&self) -> bool {
        self.storing.is_none()
    }

    fn in_flight(&self) -> (u64, u64) {
        self.undurable
    }
}
