//! The ledger: what is published where, what each group has, and so what may be cleared.
//!
//! Per topic and partition it remembers sparsely which record lies at which position ([`samples`]), per group what
//! is committed and what of that cannot be believed ([`group`]). From both follows each group's *floor*, and from the
//! floors and the frontier what may be cleared. A partition that a group has fully read does not constrain. What is
//! not known never counts as acknowledged: the floor then stands still.

mod clearable;
pub mod group;
pub mod samples;

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use clbridge_schemas::ids::RecordId;
use clbridge_sinks::state::Retraction;
use clbridge_sinks::{Position, Progress, Stored, Topic, TopicIx};

use super::mutations::{Mutation, wrong};
pub use clbridge_sinks::state::Hold;
pub use clearable::Clearable;
use group::GroupProgress;
use samples::{FirstUnread, Samples};

/// A void record counts as the index where the incarnation that voided it began: it cannot be cleared past, and what
/// comes behind it in the partition is the retraction with just that index.
#[must_use]
pub fn effective(id: RecordId, retractions: &[Retraction]) -> u64 {
    let voids = |r: &&Retraction| r.incarnation > id.incarnation && !wrong(Mutation::VoidRecordsKeepTheirIndex);
    retractions.iter().filter(voids).map(|r| r.from).fold(id.index.get(), u64::min)
}

/// One topic's part of the ledger.
#[derive(Debug)]
pub struct TopicLedger {
    /// The topic.
    pub topic: Topic,
    partitions: Vec<Samples>,
    /// Lows and ends as last seen.
    low: Vec<u64>,
    end: Vec<u64>,
    groups: BTreeMap<String, GroupProgress>,
}

/// What is published where, what each group has, and so what may be cleared, for one MDT.
#[derive(Debug)]
pub struct Ledger {
    topics: Vec<TopicLedger>,
    retractions: Vec<Retraction>,
    /// Everything up to here has its verdict, durably.
    frontier: u64,
    without_groups: WithoutGroups,
}

/// What may be cleared while no persistent group is registered for an MDT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WithoutGroups {
    /// Nothing.
    #[default]
    Hold,
    /// What is durable in the broker; the operator chose it.
    Durable,
}

impl Ledger {
    /// The ledger as a start finds it. `tails`: the last durable record by topic and partition.
    #[must_use]
    pub fn new(
        topics: Vec<Topic>,
        tails: &[Vec<Option<Stored>>],
        retractions: Vec<Retraction>,
        frontier: u64,
        without_groups: WithoutGroups,
    ) -> Self {
        let topics = topics
            .into_iter()
            .zip(tails)
            .map(|(topic, tails)| TopicLedger {
                partitions: tails
                    .iter()
                    .map(|t| {
                        Samples::with_tail(t.as_ref().map(|t| (t.at.offset, effective(t.head.id(), &retractions))))
                    })
                    .collect(),
                low: Vec::new(),
                end: Vec::new(),
                groups: BTreeMap::new(),
                topic,
            })
            .collect();
        Self { topics, retractions, frontier, without_groups }
    }

    /// Adds a group, or replaces its specification while its progress is kept.
    pub fn add_group(&mut self, topic: TopicIx, group: GroupProgress) {
        if let Some(t) = self.topics.get_mut(usize::from(topic.0)) {
            t.groups.insert(group.spec.name.clone(), group);
        }
    }

    /// Removes a group from every topic: it no longer holds anything back.
    pub fn remove_group(&mut self, name: &str) {
        self.topics.iter_mut().for_each(|t| {
            t.groups.remove(name);
        });
    }

    /// A record became durable.
    ///
    /// # Panics
    /// If the broker gave positions that go back, see [`Samples::push`].
    pub fn durable_at(&mut self, topic: TopicIx, at: Position, id: RecordId) {
        let index = effective(id, &self.retractions);
        if let Some(s) = self.samples(topic, at.partition) {
            s.push(at.offset, index);
        }
    }

    /// Everything up to here has its verdict, durably.
    ///
    /// # Panics
    /// If it goes back.
    pub fn set_frontier(&mut self, index: u64) {
        assert!(index >= self.frontier, "the frontier went back from {} to {index}", self.frontier);
        self.frontier = index;
    }

    /// The first record at or behind `at`, as read from the topic; `None`: there is none.
    pub fn learn(&mut self, topic: TopicIx, at: Position, found: Option<(u64, RecordId)>) {
        let Some((_, id)) = found else { return };
        let index = effective(id, &self.retractions);
        if let Some(s) = self.samples(topic, at.partition) {
            s.learn(at.offset, index);
        }
    }

    /// Takes the broker's answer about all groups and raises the floors. `read`: the newest record that was given to
    /// the publisher by now.
    pub fn observe(&mut self, progress: &Progress, read: u64) {
        let frontier = self.frontier;
        // With nothing on its way, every record that the broker had when it answered is known here.
        let settled = frontier >= read;
        for t in &mut self.topics {
            for g in t.groups.values_mut() {
                if let Some(name) = g.repair_topic().map(str::to_owned)
                    && let Some(committed) = progress.topics.get(&name).and_then(|p| p.groups.get(&g.spec.name))
                {
                    g.observe_repair(&name, committed);
                }
            }
            let Some(p) = progress.topics.get(&t.topic.name) else { continue };
            t.low.clone_from(&p.low);
            t.end.clone_from(&p.end);
            let partitions = &t.partitions;
            for g in t.groups.values_mut() {
                g.drained = p.drained.contains(&g.spec.name);
                if let Some(committed) = p.groups.get(&g.spec.name) {
                    g.observe(committed, &p.low, &p.end, |p, offset| {
                        settled && partitions[p].last_offset().is_some_and(|last| last < offset)
                    });
                    let accept = g.spec.accept;
                    if accept > g.applied().0 {
                        g.accept(accept, &p.low, &p.end);
                    }
                }
            }
        }
        self.raise_floors(frontier);
    }

    fn raise_floors(&mut self, frontier: u64) {
        for t in &mut self.topics {
            for g in t.groups.values_mut() {
                if !g.frozen()
                    && let Some(floor) = floor_of(&t.partitions, g.believed(), frontier)
                {
                    g.floor = g.floor.max(floor);
                }
            }
            for (p, samples) in t.partitions.iter_mut().enumerate() {
                let lowest = t.groups.values().map(|g| g.believed().get(p).copied().flatten().unwrap_or(0)).min();
                if let Some(lowest) = lowest {
                    samples.forget_below(lowest);
                }
            }
        }
    }

    /// Positions whose record would tell a floor more exactly, at most `max`: unknown ones, and those of partitions
    /// that hold a group's floor and lie between two samples.
    #[must_use]
    pub fn wanted_reads(&self, max: usize) -> Vec<(TopicIx, Position)> {
        let mut out = Vec::new();
        for t in &self.topics {
            for g in t.groups.values().filter(|g| !g.frozen()) {
                for (partition, (samples, at)) in (0u32..).zip(t.partitions.iter().zip(g.believed())) {
                    let Some(offset) = *at else { continue };
                    let wanted = match samples.first_at(offset) {
                        FirstUnread::Unknown => true,
                        FirstUnread::AtLeast(index) => index.saturating_sub(1) <= g.floor,
                        FirstUnread::None | FirstUnread::Exactly(_) => false,
                    };
                    let read = (t.topic.ix, Position { partition, offset });
                    if wanted && !out.contains(&read) {
                        out.push(read);
                    }
                    if out.len() >= max {
                        return out;
                    }
                }
            }
        }
        out
    }

    /// Applies `release` policies: `released(backlog, age)` gives the index up to which a group may be let go.
    pub fn release(&mut self, mut released: impl FnMut(&GroupProgress) -> u64) {
        let frontier = self.frontier;
        for t in self.topics.iter_mut().filter(|t| t.topic.replicas >= 2 || wrong(Mutation::ReleasedUnreplicated)) {
            for g in t.groups.values_mut() {
                g.released = g.released.max(released(g).min(frontier));
            }
        }
    }

    /// What groups allow to be cleared: the highest index such that it and all before it are durable (or dropped),
    /// and acknowledged by, or released for, every persistent group of every topic.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        let groups = self.topics.iter().map(|t| t.groups.len()).sum::<usize>();
        if groups == 0 && self.without_groups == WithoutGroups::Hold {
            return 0;
        }
        self.groups().map(|(_, g)| g.floor.max(g.released)).fold(self.frontier, u64::min)
    }

    /// What may be cleared when `stable` is the highest index that an MDT crash cannot take back.
    #[must_use]
    pub fn clearable(&self, stable: u64) -> Option<Clearable> {
        NonZeroU64::new(self.acknowledged().min(stable)).map(Clearable::new)
    }

    /// The value of the last clear that was issued, by this process or a dead one: it may be repeated.
    #[must_use]
    pub fn repeatable(issued: u64) -> Option<Clearable> {
        NonZeroU64::new(issued).map(Clearable::new)
    }

    /// Positions below which nothing is needed any more, by partition: read by every group, released ones included,
    /// and cleared on the MDT. Never behind the last record.
    #[must_use]
    pub fn trimmable(&self, topic: TopicIx, cleared: u64) -> Vec<u64> {
        let Some(t) = self.topics.get(usize::from(topic.0)) else { return Vec::new() };
        t.partitions
            .iter()
            .enumerate()
            .map(|(p, samples)| {
                let left_out = |g: &GroupProgress| wrong(Mutation::TrimReleased) && g.released > g.floor;
                let read = t
                    .groups
                    .values()
                    .filter(|g| !left_out(g))
                    .map(|g| if g.frozen() { 0 } else { g.believed()[p].unwrap_or(0) })
                    .min();
                let read = read.unwrap_or(u64::MAX);
                read.min(samples.offset_up_to(cleared)).min(samples.last_offset().unwrap_or(0))
            })
            .collect()
    }

    /// Topics and their parts of the ledger.
    #[must_use]
    pub fn topics(&self) -> &[TopicLedger] {
        &self.topics
    }

    /// Every group on every topic.
    pub fn groups(&self) -> impl Iterator<Item = (&Topic, &GroupProgress)> {
        self.topics.iter().flat_map(|t| t.groups.values().map(move |g| (&t.topic, g)))
    }

    /// Every group on every topic, to be changed.
    pub fn groups_mut(&mut self) -> impl Iterator<Item = (&Topic, &mut GroupProgress)> {
        self.topics.iter_mut().flat_map(|t| {
            let topic = &t.topic;
            t.groups.values_mut().map(move |g| (topic, g))
        })
    }

    /// Everything up to here has its verdict, durably.
    #[must_use]
    pub fn frontier(&self) -> u64 {
        self.frontier
    }

    /// Memory held by samples, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.topics.iter().flat_map(|t| &t.partitions).map(Samples::bytes).sum()
    }

    fn samples(&mut self, topic: TopicIx, partition: u32) -> Option<&mut Samples> {
        self.topics.get_mut(usize::from(topic.0))?.partitions.get_mut(partition as usize)
    }
}

impl TopicLedger {
    /// Positions between what a group committed and the end, over all partitions (holes count, as in Kafka's tools).
    #[must_use]
    pub fn lag_positions(&self, g: &GroupProgress) -> u64 {
        let low = |p: usize| self.low.get(p).copied().unwrap_or(0);
        g.seen().iter().zip(&self.end).enumerate().map(|(p, (c, e))| e.saturating_sub(c.unwrap_or(low(p)))).sum()
    }

    /// Whether the group has read every record of this topic that is known here.
    #[must_use]
    pub fn caught_up(&self, g: &GroupProgress) -> bool {
        self.partitions.iter().zip(g.believed()).all(|(s, at)| at.is_some_and(|at| s.first_at(at) == FirstUnread::None))
    }
}

/// The highest index such that it and all before it were read; `None` if that cannot be told.
fn floor_of(partitions: &[Samples], believed: &[Option<u64>], frontier: u64) -> Option<u64> {
    let mut floor = frontier;
    for (samples, at) in partitions.iter().zip(believed) {
        match samples.first_at((*at)?) {
            FirstUnread::None => {}
            FirstUnread::Exactly(index) | FirstUnread::AtLeast(index) if wrong(Mutation::FloorOneTooHigh) => {
                floor = floor.min(index);
            }
            FirstUnread::Exactly(index) | FirstUnread::AtLeast(index) => floor = floor.min(index.saturating_sub(1)),
            FirstUnread::Unknown => return None,
        }
    }
    Some(floor)
}
