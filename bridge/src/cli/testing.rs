//! A broker in memory, as far as commands need one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use clbridge_schemas::avro;
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::lustre::{Fid, Time};
use clbridge_sinks::{
    Capabilities, Durable, GroupInfo, GroupObserver, Head, Message, Offsets, Position, Positions, Progress, Publisher,
    Recovered, Refused, Registry, Sink, SinkError, StartAt, State, Stored, Topic, TopicIx, TopicProgress, TopicSpec,
    TopicState,
};

/// Every topic ends at 100 in each partition and begins at 10.
const END: u64 = 100;
const LOW: u64 = 10;

#[derive(Default)]
struct Inner {
    registry: Registry,
    positions: BTreeMap<(String, String), Offsets>,
    live: bool,
    names: Vec<String>,
    log: Vec<String>,
    written: Vec<State>,
}

/// One MDT, `fs-MDT0000`, with its default topic or none.
pub(crate) struct FakeBroker {
    inner: std::sync::Arc<Mutex<Inner>>,
    pub(crate) state: Option<State>,
    replicas: u32,
    /// Records by partition.
    pub(crate) records: Vec<Vec<Stored>>,
}

impl FakeBroker {
    pub(crate) fn empty() -> Self {
        Self { inner: Default::default(), state: None, replicas: 0, records: Vec::new() }
    }

    pub(crate) fn with_topic(partitions: u32, replicas: u32) -> Self {
        let mdt: MdtName = "fs-MDT0000".parse().unwrap();
        let mut state = State::first(mdt, "bridge-a".into());
        state
            .topics
            .insert(String::new(), TopicState { name: "lustre.fs-MDT0000".into(), id: "life-1".into(), partitions });
        Self { state: Some(state), replicas, records: vec![Vec::new(); partitions as usize], ..Self::empty() }
    }

    /// Groups that the broker knows.
    pub(crate) fn exists(&self, names: &[&str]) {
        self.inner.lock().unwrap().names = names.iter().map(|n| (*n).to_owned()).collect();
    }

    pub(crate) fn members_are_live(&self) {
        self.inner.lock().unwrap().live = true;
    }

    /// What was written, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        self.inner.lock().unwrap().log.clone()
    }

    /// States that were sealed or stored.
    pub(crate) fn states(&self) -> Vec<State> {
        self.inner.lock().unwrap().written.clone()
    }

    pub(crate) fn commit(&self, group: &str, topic: &str, offsets: Offsets) {
        self.inner.lock().unwrap().positions.insert((group.into(), topic.into()), offsets);
    }
}

#[async_trait]
impl GroupObserver for FakeBroker {
    async fn progress(&self, groups: &[String], topics: &[Topic]) -> Result<Progress, SinkError> {
        let inner = self.inner.lock().unwrap();
        let mut progress = Progress::default();
        for topic in topics {
            let of = |g: &String| {
                let none = vec![None; topic.partitions as usize];
                (g.clone(), inner.positions.get(&(g.clone(), topic.name.clone())).cloned().unwrap_or(none))
            };
            progress.topics.insert(
                topic.name.clone(),
                TopicProgress {
                    low: vec![LOW; topic.partitions as usize],
                    end: vec![END; topic.partitions as usize],
                    id: topic.id.clone(),
                    groups: groups.iter().map(of).collect(),
                    ..TopicProgress::default()
                },
            );
        }
        Ok(progress)
    }

    async fn list(&self) -> Result<Vec<GroupInfo>, SinkError> {
        let inner = self.inner.lock().unwrap();
        Ok(inner.names.iter().map(|name| GroupInfo { name: name.clone(), members: 1 }).collect())
    }

    async fn register(&self, group: &str, topic: &Topic, from: StartAt) -> Result<Offsets, SinkError> {
        let mut inner = self.inner.lock().unwrap();
        inner.log.push(format!("register {group} {}", topic.name));
        let at = match from {
            StartAt::Newest => END,
            StartAt::Oldest => LOW,
        };
        let offsets = vec![(!inner.live).then_some(at); topic.partitions as usize];
        inner.positions.insert((group.into(), topic.name.clone()), offsets.clone());
        Ok(offsets)
    }

    async fn skip_deleted(&self, group: &str, topic: &Topic) -> Result<bool, SinkError> {
        let mut inner = self.inner.lock().unwrap();
        inner.log.push(format!("skip deleted {group} {}", topic.name));
        Ok(!inner.live)
    }

    async fn registry(&self) -> Result<Registry, SinkError> {
        Ok(self.inner.lock().unwrap().registry.clone())
    }

    async fn change_registry(
        &self,
        change: &mut (dyn for<'r> FnMut(&'r mut Registry) + Send),
    ) -> Result<Registry, SinkError> {
        let mut inner = self.inner.lock().unwrap();
        let before = inner.registry.clone();
        change(&mut inner.registry);
        if inner.registry != before {
            inner.registry.version += 1;
            let version = inner.registry.version;
            inner.log.push(format!("registry {version}"));
        }
        Ok(inner.registry.clone())
    }
}

#[async_trait]
impl Sink for FakeBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_state: true,
            read_back: true,
            exactly_once: true,
            partitioned: true,
            positions: Positions::Offsets,
        }
    }

    async fn prepare(&self, want: &[TopicSpec], _: Option<&State>) -> Result<Vec<Topic>, SinkError> {
        let topic = |(ix, spec): (usize, &TopicSpec)| Topic {
            ix: TopicIx(u16::try_from(ix).unwrap()),
            name: format!("lustre.{}", spec.mdt),
            feed: spec.feed.clone(),
            mdt: spec.mdt.clone(),
            id: "life-1".into(),
            partitions: spec.partitions,
            created: false,
            replicas: self.replicas,
        };
        Ok(want.iter().enumerate().map(topic).collect())
    }

    async fn peek_state(&self, _: &MdtName) -> Result<Option<State>, SinkError> {
        Ok(self.state.clone())
    }

    async fn recover(&self, _: &MdtName, _: &[Topic]) -> Result<Recovered, SinkError> {
        let tails: Vec<_> = self.records.iter().map(|p| p.last().cloned()).collect();
        Ok(Recovered {
            publisher: Box::new(FakePublisher { inner: self.inner.clone(), done: None }),
            state: self.state.clone(),
            used: tails.iter().any(Option::is_some),
            tails: vec![tails],
        })
    }

    async fn read_at(&self, _: &Topic, at: &[Position]) -> Result<Vec<Option<Stored>>, SinkError> {
        let first = |p: &Position| self.records[p.partition as usize].iter().find(|s| s.at.offset >= p.offset).cloned();
        Ok(at.iter().map(first).collect())
    }

    async fn read_back(&self, _: &Topic, _: u32, _: u64, _: &mut (dyn FnMut(Stored) + Send)) -> Result<(), SinkError> {
        Ok(())
    }

    async fn trim(&self, _: &Topic, below: &[u64], _: Duration) -> Result<Vec<u64>, SinkError> {
        Ok(below.to_vec())
    }

    async fn publish_schema(&self, _: [u8; 8], _: &str) -> Result<(), SinkError> {
        Ok(())
    }

    async fn repair(
        &self,
        topic: &Topic,
        _: &str,
        _: &[(RecordId, Vec<u8>, Vec<u8>)],
    ) -> Result<(Topic, Vec<u64>), SinkError> {
        Ok((topic.clone(), Vec::new()))
    }
}

/// A record at an offset; `retraction`: a retraction with that identity.
pub(crate) fn stored(partition: u32, offset: u64, incarnation: u32, index: u64, retraction: bool) -> Stored {
    let head = avro::Head {
        version: avro::SchemaVersion::V5,
        mdt: "fs-MDT0000",
        index,
        incarnation,
        type_code: 1,
        time: Time::from_nanos(1),
        tfid: Fid::ZERO,
        retracts: retraction.then_some(avro::Retracts { incarnation: incarnation - 1, from: index, to: index + 1 }),
    };
    Stored { at: Position { partition, offset }, head: Head::of(&head).unwrap() }
}

struct FakePublisher {
    inner: std::sync::Arc<Mutex<Inner>>,
    done: Option<u64>,
}

impl Publisher for FakePublisher {
    fn publish(&mut self, _: &Message<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn seal(&mut self, _: Option<RecordId>, state: Option<&State>) -> Result<(), Refused> {
        state.map_or(Ok(()), |s| self.store(s))
    }

    fn store(&mut self, state: &State) -> Result<(), Refused> {
        self.inner.lock().unwrap().written.push(state.clone());
        self.done = Some(state.number);
        Ok(())
    }

    fn poll(&mut self, _: Duration, durable: &mut dyn FnMut(Durable)) -> Result<(), SinkError> {
        if let Some(number) = self.done.take() {
            durable(Durable::State(number));
        }
        Ok(())
    }

    fn ready(&self) -> bool {
        true
    }

    fn in_flight(&self) -> (u64, u64) {
        (0, 0)
    }
}
