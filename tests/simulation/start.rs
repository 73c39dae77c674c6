//! How a life of a bridge begins, as `pipeline::life` does it: fence, read State and tails, compare, join the groups.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use clbridge::core::ledger::WithoutGroups;
use clbridge::core::ledger::group::GroupProgress;
use clbridge::core::{Core, Found, Plan, Start, Step, Stop};
use clbridge::source::Probe;
use clbridge_schemas::ids::{Digest, RecordId};
use clbridge_sinks::state::{Mark, Owner, State};
use clbridge_sinks::{Position, Registry, Stored, Topic, TopicIx};

use crate::bridge::Life;
use crate::broker::{Broker, Entry, Kind, Message, TOPICS};
use crate::content::{FEEDS, digest, head, mdt_name, settings};
use crate::groups::Group;
use crate::judge::Judge;
use crate::mdt::Mdt;

/// What a start looks at.
pub struct Around<'a> {
    pub mdt: &'a Mdt,
    pub broker: &'a mut Broker,
    pub registry: &'a Registry,
    pub groups: &'a mut [Group],
    pub judge: &'a mut Judge,
    pub without_groups: WithoutGroups,
    pub now: u64,
}

pub fn stored(topic: usize, p: usize, e: &Entry) -> (TopicIx, Stored) {
    let at = Position { partition: p as u32, offset: e.offset };
    (TopicIx(topic as u16), Stored { at, head: head(e.id, e.uid, e.retracts) })
}

fn topics(broker: &Broker) -> Vec<Topic> {
    (0..FEEDS)
        .map(|t| Topic {
            ix: TopicIx(t as u16),
            name: TOPICS[t].into(),
            feed: (t > 0).then(|| "some".into()),
            mdt: mdt_name(),
            id: broker.logs[t].id.clone(),
            partitions: broker.logs[t].partitions.len() as u32,
            created: false,
            replicas: if broker.replicated { 3 } else { 1 },
        })
        .collect()
}

/// The last record by topic and partition. Where nothing can be read back, a position is the record's identity, and
/// State tells of the last that counts.
fn tails(broker: &Broker) -> Vec<Vec<Option<Stored>>> {
    let told = broker.state.as_ref().and_then(|s| s.frontier).map(|f| f.id);
    let counts = |e: &&Entry| broker.kind != Kind::Confirming || told.is_some_and(|f| e.id <= f);
    let tail = |t: usize, p: usize| {
        let entries = &broker.logs[t].partitions[p].entries;
        entries.iter().rev().find(counts).map(|e| stored(t, p, e).1)
    };
    (0..FEEDS).map(|t| (0..broker.logs[t].partitions.len()).map(|p| tail(t, p)).collect()).collect()
}

/// What was published above an index, over all topics.
fn read_back(broker: &Broker, above: u64) -> Vec<Mark> {
    if broker.kind == Kind::Confirming {
        return Vec::new();
    }
    let entries = broker.logs.iter().flat_map(|log| &log.partitions).flat_map(|p| &p.entries);
    let mut published: Vec<Mark> = entries
        .filter(|e| e.retracts.is_none() && e.id.index.get() > above)
        .map(|e| Mark { id: e.id, digest: digest(e.id.index.get(), e.uid) })
        .collect();
    published.sort_unstable_by_key(|m| (m.id.index, m.id.incarnation));
    published
}

/// The plan of a start; `None`: nothing can be decided yet.
fn plan(a: &Around<'_>, tails: &[Vec<Option<Stored>>]) -> Result<Option<Plan>, Stop> {
    if let Some(state) = &a.broker.state {
        for (topic, pinned) in topics(a.broker)
            .iter()
            .zip(TOPICS)
            .filter_map(|(t, name)| state.topics.values().find(|s| s.name == name).map(|s| (t, s)))
        {
            if topic.id != pinned.id {
                let text = format!("{} is another topic now", topic.name);
                return Err(Stop { reason: "topic_changed", text });
            }
        }
    }
    let partitions = || a.broker.logs.iter().flat_map(|log| &log.partitions);
    let mut start = Start::new(Found {
        state: a.broker.state.clone(),
        tails: tails.to_vec(),
        used: partitions().any(|p| p.low > 0 || !p.entries.is_empty()),
        capabilities: a.broker.kind.capabilities(),
    })?;
    loop {
        match start.next() {
            Step::Done => return Ok(start.plan()),
            Step::Probe(i) => start.probed(a.mdt.probe(i.get())),
            Step::Wait(i) => match a.mdt.probe(i.get()) {
                Probe::Nothing if a.mdt.oldest().is_none() => return Ok(None),
                probe => start.probed(probe),
            },
            Step::Oldest => start.oldest(a.mdt.oldest()),
            Step::Compare { above, from, to } => {
                let standing: Vec<(u64, Digest)> = a.mdt.scan(from.get(), to);
                start.compared(&read_back(a.broker, above), &standing)?;
            }
        }
    }
}

impl Life {
    /// A start; `None`: nothing can be decided yet.
    pub fn start(id: u64, owner: &str, a: &mut Around<'_>) -> Result<Option<Self>, Stop> {
        a.broker.fence();
        let tails = tails(a.broker);
        let Some(plan) = plan(a, &tails)? else { return Ok(None) };
        let state = a.broker.state.clone().unwrap_or_else(|| State::first(mdt_name(), owner.into()));
        let t = Duration::from_millis(a.now);
        let by = Owner { name: owner.into(), run: id.to_string() };
        let mut core = Core::new(settings(a.without_groups), by, &state, &plan, topics(a.broker), &tails, t);
        a.judge.registered(a.registry);
        for spec in a.registry.groups.values() {
            let group = a.groups.iter_mut().find(|g| g.name() == spec.name).unwrap();
            let mut progress = match state.groups.get(&spec.name) {
                Some(s) => {
                    GroupProgress::remembered(spec.clone(), s, a.broker.logs[group.topic].partitions.len() as u32)
                }
                None => GroupProgress::registered(spec.clone(), group.join(a.broker, a.judge), 0),
            };
            if let Some(r) = plan.retract {
                progress.voided(r.from);
            }
            core.remember_group(TopicIx(group.topic as u16), progress);
        }
        Ok(Some(Self::begin(id, owner, core, &plan, a)))
    }

    fn begin(id: u64, owner: &str, core: Core, plan: &Plan, a: &Around<'_>) -> Self {
        let mut life = Self {
            id,
            owner: owner.into(),
            epoch: a.broker.epoch,
            kind: a.broker.kind,
            core,
            descriptor: a.mdt.open(plan.resume.map_or(0, NonZeroU64::get)),
            incarnation: plan.incarnation,
            above: plan.above,
            last: plan.frontier.map(|m| (m, 0)),
            ahead: plan.ahead,
            last_read_at: a.now,
            skip: plan.skip.clone(),
            partitions: a.broker.logs.iter().map(|log| log.partitions.len()).collect(),
            retract: plan.retract,
            plan: format!("{plan:?}"),
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            replies_held_until: 0,
            open: Vec::new(),
            waiting: false,
            expected: a.broker.logs.iter().map(|log| (log.partitions[0].end, log.partitions[0].last)).collect(),
            revision: a.broker.revision,
            unconfirmed: VecDeque::new(),
            seals: VecDeque::new(),
            sent: 0,
            confirmed: 0,
            heard_at: a.now,
            dirty: false,
            probes: VecDeque::new(),
            clears: VecDeque::new(),
            answer: None,
            learned: Vec::new(),
            registry_at: a.now,
            registry_seen: 0,
        };
        life.begin_publishing();
        life
    }

    /// A retraction in every partition of every feed comes before all else.
    pub fn begin_publishing(&mut self) {
        if !self.core.may_publish() {
            return;
        }
        if let Some(r) = self.retract.take() {
            let id = RecordId { incarnation: r.incarnation, index: NonZeroU64::new(r.from).unwrap() };
            for topic in 0..FEEDS {
                for partition in 0..self.partitions[topic] {
                    self.publish(Message { topic, partition, id, uid: 0, retracts: Some(r) });
                }
            }
            self.dirty = true;
        }
    }
}
