//! The model brokers. All keep topics of partitions, groups' positions and one State; they differ in how they confirm.
//!
//! * atomic: a batch and State become durable together; a start fences whoever wrote before; every commit and abort
//!   leaves a hole in the positions
//! * ordered: one log a topic, each message names the sequence and the message that it expects to be the last (see
//!   docs/decisions/ordered-brokers-chain-messages.md), State the revision
//! * confirming: messages and State are only confirmed, from a leased connection; nothing can be read back, and a
//!   position is nothing but the record's identity

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use clbridge_schemas::ids::RecordId;
use clbridge_sinks::state::{Retraction, State};
use clbridge_sinks::{Capabilities, Offsets, Position, Positions, Progress, StartAt, TopicProgress};

use crate::content::{FEEDS, mdt_name};
use crate::judge::Judge;
use crate::mdt::Mdt;

pub const TOPICS: [&str; FEEDS] = ["lustre.sim-MDT0000", "lustre.sim-MDT0000.some"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Atomic,
    Ordered,
    Confirming,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Atomic, Self::Ordered, Self::Confirming];

    pub fn capabilities(self) -> Capabilities {
        Capabilities {
            atomic_state: self == Self::Atomic,
            read_back: self != Self::Confirming,
            exactly_once: self != Self::Confirming,
            partitioned: true,
            positions: if self == Self::Confirming { Positions::Identity } else { Positions::Offsets },
        }
    }
}

/// One record on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    pub topic: usize,
    pub partition: usize,
    pub id: RecordId,
    /// Content; 0 for a retraction.
    pub uid: u64,
    pub retracts: Option<Retraction>,
}

/// One durable record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub offset: u64,
    pub id: RecordId,
    pub uid: u64,
    pub retracts: Option<Retraction>,
}

/// The sequence that a message will get, and the message before it: its writer and its identity.
pub type Expected = (u64, Option<(u64, RecordId)>);

/// What a bridge asks of the broker.
#[derive(Clone, Debug)]
pub enum Request {
    Batch { messages: Vec<Message>, frontier: Option<RecordId>, state: Box<State> },
    Message { writer: u64, expected: Expected, message: Message },
    State { revision: u64, state: Box<State> },
}

/// What the broker answers.
#[derive(Clone, Debug)]
pub enum Reply {
    Committed { at: Vec<(usize, usize, u64, RecordId)>, frontier: Option<RecordId>, state: u64 },
    Stored { message: Message, offset: u64 },
    State(u64),
    Refused,
}

#[derive(Default)]
pub struct Partition {
    pub entries: VecDeque<Entry>,
    pub low: u64,
    pub end: u64,
    /// The last message that was ever stored.
    pub last: Option<(u64, RecordId)>,
}

impl Partition {
    /// Place of the first record at or behind `offset`.
    pub fn place(&self, offset: u64) -> usize {
        self.entries.partition_point(|e| e.offset < offset)
    }

    /// Forgets everything below `offset`; what went.
    pub fn forget(&mut self, offset: u64) -> Vec<Entry> {
        let n = self.place(offset);
        self.low = self.low.max(offset);
        self.entries.drain(..n).collect()
    }
}

pub struct Log {
    pub id: String,
    pub partitions: Vec<Partition>,
    pub positions: BTreeMap<String, Offsets>,
}

/// A group's repair topic: one partition of contents.
pub struct RepairLog {
    pub topic: usize,
    pub uids: Vec<u64>,
    pub committed: u64,
}

pub struct Broker {
    pub kind: Kind,
    /// More than one broker holds every record, so a `release` is no lie.
    pub replicated: bool,
    pub logs: Vec<Log>,
    pub repairs: BTreeMap<String, RepairLog>,
    pub state: Option<State>,
    pub revision: u64,
    /// When State was last written.
    pub state_at: u64,
    /// Rises when a writer takes the lease or fences the others.
    pub epoch: u64,
}

impl Broker {
    pub fn new(kind: Kind, partitions: [usize; FEEDS], replicated: bool) -> Self {
        let log = |n: usize| Log {
            id: "life-1".into(),
            partitions: (0..n).map(|_| Partition::default()).collect(),
            positions: BTreeMap::new(),
        };
        Self {
            kind,
            replicated,
            logs: partitions.into_iter().map(log).collect(),
            repairs: BTreeMap::new(),
            state: None,
            revision: 0,
            state_at: 0,
            epoch: 0,
        }
    }

    /// Ends what older writers may still have on its way: records, or State, which is written anew as it is.
    pub fn fence(&mut self) {
        match self.kind {
            Kind::Ordered => self.revision += 1,
            Kind::Atomic | Kind::Confirming => self.epoch += 1,
        }
    }

    /// Carries out a request of a writer with this epoch.
    pub fn handle(&mut self, epoch: u64, r: Request, judge: &mut Judge, mdt: &Mdt, now: u64) -> Result<Reply, String> {
        if self.kind != Kind::Ordered && epoch != self.epoch {
            if let Request::Batch { messages, .. } = r {
                self.abort(&messages);
            }
            return Ok(Reply::Refused);
        }
        Ok(match r {
            Request::Batch { messages, frontier, state } => {
                let mut at = Vec::new();
                for m in &messages {
                    at.push((m.topic, m.partition, self.append(m, judge, mdt)?, m.id));
                }
                self.control_records(&messages);
                let number = state.number;
                self.store(*state, judge, mdt, now)?;
                Reply::Committed { at, frontier, state: number }
            }
            Request::Message { writer, expected, message } => {
                let partition = &self.logs[message.topic].partitions[message.partition];
                if self.kind == Kind::Ordered && expected != (partition.end, partition.last) {
                    return Ok(Reply::Refused);
                }
                let offset = self.append(&message, judge, mdt)?;
                self.logs[message.topic].partitions[message.partition].last = Some((writer, message.id));
                Reply::Stored { message, offset }
            }
            Request::State { revision, state } => {
                if self.kind == Kind::Ordered && revision != self.revision {
                    return Ok(Reply::Refused);
                }
                let number = state.number;
                self.store(*state, judge, mdt, now)?;
                Reply::State(number)
            }
        })
    }

    fn append(&mut self, m: &Message, judge: &mut Judge, mdt: &Mdt) -> Result<u64, String> {
        let partition = &mut self.logs[m.topic].partitions[m.partition];
        let offset = if self.kind == Kind::Confirming {
            let identity = Position::of_identity(m.partition as u32, m.id, m.retracts.is_some());
            identity.ok_or("an identity too large for a position")?.offset
        } else {
            partition.end
        };
        let entry = Entry { offset, id: m.id, uid: m.uid, retracts: m.retracts };
        partition.end = offset + 1;
        partition.entries.push_back(entry);
        judge.appended(m.topic, m.partition, &entry, mdt)?;
        Ok(offset)
    }

    fn store(&mut self, state: State, judge: &mut Judge, mdt: &Mdt, now: u64) -> Result<(), String> {
        judge.stored(&state, mdt, now)?;
        self.state = Some(state);
        self.revision += 1;
        self.state_at = now;
        Ok(())
    }

    /// An aborted batch: its records leave holes.
    pub fn abort(&mut self, messages: &[Message]) {
        for m in messages {
            self.logs[m.topic].partitions[m.partition].end += 1;
        }
        self.control_records(messages);
    }

    fn control_records(&mut self, messages: &[Message]) {
        for (t, log) in self.logs.iter_mut().enumerate() {
            for (p, partition) in log.partitions.iter_mut().enumerate() {
                partition.end += u64::from(messages.iter().any(|m| m.topic == t && m.partition == p));
            }
        }
    }

    /// Writes a group's first positions where it has none. A group with members in a used topic gets none.
    pub fn register(&mut self, name: &str, topic: usize, from: StartAt, members: bool) -> Offsets {
        let log = &mut self.logs[topic];
        let used = log.partitions.iter().any(|p| p.end > 0);
        let positions = log.positions.entry(name.to_owned()).or_insert_with(|| vec![None; log.partitions.len()]);
        for (at, p) in positions.iter_mut().zip(&log.partitions).filter(|_| !(members && used)) {
            *at = at.or(Some(if from == StartAt::Newest { p.end } else { p.low }));
        }
        positions.clone()
    }

    pub fn first_at(&self, topic: usize, p: usize, offset: u64) -> Option<Entry> {
        let partition = &self.logs[topic].partitions[p];
        partition.entries.get(partition.place(offset)).copied()
    }

    /// A point read. Where nothing can be read back, the position itself tells what cannot lie before it.
    pub fn look(&self, topic: usize, p: usize, offset: u64) -> Option<Entry> {
        if self.kind != Kind::Confirming {
            return self.first_at(topic, p, offset);
        }
        let (id, _) = Position { partition: p as u32, offset }.identity()?;
        Some(Entry { offset, id, uid: 0, retracts: None })
    }

    /// Groups of which it is said, now and then, that nothing is left for them. The model loses nothing, so it is never
    /// true: whatever is said, nothing may follow from it but a word.
    fn drained(&self, log: &Log) -> BTreeSet<String> {
        let said = self.kind == Kind::Confirming && log.partitions.iter().map(|p| p.end).sum::<u64>() % 5 == 3;
        log.positions.keys().filter(|_| said).cloned().collect()
    }

    pub fn progress(&self) -> Progress {
        let of = |f: fn(&Partition) -> u64, log: &Log| log.partitions.iter().map(f).collect();
        let topics = self.logs.iter().zip(TOPICS).map(|(log, name)| {
            let topic = TopicProgress {
                low: of(|p| p.low, log),
                end: of(|p| p.end, log),
                id: log.id.clone(),
                groups: log.positions.clone(),
                drained: self.drained(log),
            };
            (name.to_owned(), topic)
        });
        let repairs = self.repairs.iter().map(|(group, r)| {
            let topic = TopicProgress {
                low: vec![0],
                end: vec![r.uids.len() as u64],
                id: String::new(),
                groups: BTreeMap::from([(group.clone(), vec![Some(r.committed)])]),
                ..TopicProgress::default()
            };
            (repair_name(group, r.topic), topic)
        });
        Progress { topics: topics.chain(repairs).collect() }
    }
}

pub fn repair_name(group: &str, topic: usize) -> String {
    format!("{}.repair.{group}.{}", TOPICS[topic], mdt_name())
}
