//! The model broker: atomic batches with State inside, fencing, offset holes after every commit and abort, groups
//! with positions that can be bent.

use std::collections::BTreeMap;

use clbridge_schemas::ids::RecordId;
use clbridge_sinks::state::{Retraction, State};
use clbridge_sinks::{Progress, TopicProgress};

pub const TOPIC: &str = "lustre.sim-MDT0000";
pub const TOPIC_ID: &str = "life-1";

/// One durable record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub offset: u64,
    pub id: RecordId,
    /// Content; 0 for a retraction.
    pub uid: u64,
    pub retracts: Option<Retraction>,
}

/// See the module.
pub struct Broker {
    pub partitions: Vec<Vec<Entry>>,
    /// What was trimmed, for the judge.
    pub trimmed: Vec<Vec<Entry>>,
    /// More than one broker holds every record, so a `release` is no lie.
    pub replicated: bool,
    pub end: Vec<u64>,
    pub low: Vec<u64>,
    pub state: Option<State>,
    pub groups: BTreeMap<String, Vec<Option<u64>>>,
}

/// A batch on its way.
#[derive(Clone, Default)]
pub struct Batch {
    pub messages: Vec<(usize, RecordId, u64, Option<Retraction>)>,
    pub frontier: Option<RecordId>,
    pub state: Option<State>,
}

impl Broker {
    pub fn new(partitions: usize, replicated: bool) -> Self {
        Self {
            trimmed: vec![Vec::new(); partitions],
            replicated,
            partitions: vec![Vec::new(); partitions],
            end: vec![0; partitions],
            low: vec![0; partitions],
            state: None,
            groups: BTreeMap::new(),
        }
    }

    /// Commits a batch: positions of its records, by partition; a control record follows in each partition touched.
    pub fn commit(&mut self, batch: &Batch) -> Vec<(usize, u64, RecordId)> {
        let mut at = Vec::new();
        let mut touched = vec![false; self.end.len()];
        for &(p, id, uid, retracts) in &batch.messages {
            let offset = self.end[p];
            self.end[p] += 1;
            self.partitions[p].push(Entry { offset, id, uid, retracts });
            touched[p] = true;
            at.push((p, offset, id));
        }
        self.control_records(&touched);
        if let Some(state) = &batch.state {
            self.state = Some(state.clone());
        }
        at
    }

    /// Aborts a batch: its records leave holes.
    pub fn abort(&mut self, batch: &Batch) {
        let mut touched = vec![false; self.end.len()];
        for &(p, ..) in &batch.messages {
            self.end[p] += 1;
            touched[p] = true;
        }
        self.control_records(&touched);
    }

    fn control_records(&mut self, touched: &[bool]) {
        for (end, _) in self.end.iter_mut().zip(touched).filter(|(_, t)| **t) {
            *end += 1;
        }
    }

    /// Trims below these positions; what went.
    pub fn trim(&mut self, below: &[u64]) -> Vec<Entry> {
        let mut gone = Vec::new();
        for (p, below) in below.iter().enumerate().filter(|(_, below)| **below > 0) {
            let n = self.partitions[p].partition_point(|e| e.offset < *below);
            self.low[p] = self.low[p].max(*below);
            gone.extend(self.partitions[p].drain(..n));
            let from = gone.len() - n;
            self.trimmed[p].extend(&gone[from..]);
        }
        gone
    }

    /// All that ever stood in a partition.
    pub fn ever(&self, p: usize) -> impl Iterator<Item = &Entry> {
        self.trimmed[p].iter().chain(&self.partitions[p])
    }

    pub fn first_at(&self, p: usize, offset: u64) -> Option<Entry> {
        let at = self.partitions[p].partition_point(|e| e.offset < offset);
        self.partitions[p].get(at).copied()
    }

    pub fn progress(&self) -> Progress {
        let topic = TopicProgress {
            low: self.low.clone(),
            end: self.end.clone(),
            id: TOPIC_ID.into(),
            groups: self.groups.clone(),
        };
        Progress { topics: BTreeMap::from([(TOPIC.to_owned(), topic)]) }
    }
}
