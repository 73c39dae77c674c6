#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Instant;

use clbridge_schemas::avro::{Framing, SchemaVersion};
use clbridge_schemas::lustre::{Fid, Record, RecordType};
use clbridge_sinks::state::Owner;
use clbridge_sinks::{Positions, State, TopicIx};

use super::*;
use crate::core::clears::ClearSettings;
use crate::core::ledger::WithoutGroups;
use crate::core::{Core, Now, Settings};
use crate::modules::TypeSet;

/// Only turns a hang into a failure.
const HANG: Duration = Duration::from_secs(60);

/// A publisher to which everything is durable at once, and that takes no more than so many records that State does not
/// tell of.
struct Bounded {
    most: u64,
    published: u64,
    told: u64,
    durable: Vec<Durable>,
    /// Every frontier that State told, in order.
    states: Arc<Mutex<Vec<u64>>>,
}

impl Publisher for Bounded {
    fn publish(&mut self, m: &Message<'_>) -> Result<(), Refused> {
        if self.published - self.told >= self.most {
            return Err(Refused::Full);
        }
        self.published += 1;
        assert_eq!(m.id.index.get(), self.published);
        Ok(())
    }

    fn seal(&mut self, frontier: Option<RecordId>, _: Option<&State>) -> Result<(), Refused> {
        self.durable.extend(frontier.map(Durable::Frontier));
        Ok(())
    }

    fn store(&mut self, state: &State) -> Result<(), Refused> {
        self.told = state.frontier.map_or(0, |f| f.id.index.get());
        self.states.lock().unwrap().push(self.told);
        self.durable.push(Durable::State(state.number));
        Ok(())
    }

    fn poll(&mut self, _: Duration, durable: &mut dyn FnMut(Durable)) -> Result<(), SinkError> {
        self.durable.drain(..).for_each(durable);
        Ok(())
    }

    fn ready(&self) -> bool {
        true
    }

    fn in_flight(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// One chunk of records from 1 on, and then nothing.
struct Once(u64);

impl Source for Once {
    fn read(&mut self, buf: &mut Vec<u8>, _: usize, _: Duration) -> Result<Read, SourceError> {
        for index in 1..=std::mem::take(&mut self.0) {
            let fid = Fid { seq: 0x2_0000_0402, oid: 1, ver: 0 };
            Record::new(index, RecordType::CREAT, Time::from_nanos(1), fid).write(buf).unwrap();
        }
        Ok(Read { bytes: buf.len(), ..Read::default() })
    }

    fn seek(&mut self, _: NonZeroU64) -> Result<(), SourceError> {
        Ok(())
    }
}

fn plan() -> Plan {
    Plan { incarnation: 1, skip: vec![vec![None]], ..Plan::default() }
}

/// What State told while one chunk of so many records went to a publisher that waits for State every `most` records.
fn states_told(records: u64, most: u64, max_bytes: u64) -> Vec<u64> {
    const NEVER: Now = Duration::from_secs(3600);
    let mdt: MdtName = "fs-MDT0000".parse().unwrap();
    let clears =
        ClearSettings { batch: 1, every: NEVER, heartbeat: NEVER, state_fresh: NEVER, retry: Duration::from_secs(1) };
    let settings = Settings {
        min_age: NEVER,
        clears,
        without_groups: WithoutGroups::Hold,
        // Nobody but the publisher asks for State.
        state_every: NEVER,
        answers_fresh: NEVER,
        reads: 1,
    };
    let topic = Topic {
        ix: TopicIx(0),
        name: "lustre.fs-MDT0000".into(),
        feed: None,
        mdt: mdt.clone(),
        id: "1".into(),
        partitions: 1,
        created: true,
        replicas: 1,
    };
    let owner = Owner { name: "bridge".into(), run: "1".into() };
    let (state, plan, topics) = (State::first(mdt.clone(), "bridge".into()), plan(), vec![topic]);
    let core = Core::new(settings, owner, &state, &plan, topics.clone(), &[vec![None]], clock::now());
    let shared = Arc::new(Shared::new(core));
    let (clearing, _requests) = channel();
    let states = Arc::new(Mutex::new(Vec::new()));
    let publisher = Bounded { most, published: 0, told: 0, durable: Vec::new(), states: states.clone() };
    let parts = Parts {
        mdt,
        source: Box::new(Once(records)),
        publisher: Box::new(publisher),
        capabilities: Capabilities {
            atomic_state: false,
            read_back: false,
            exactly_once: false,
            partitioned: false,
            positions: Positions::Identity,
        },
        shared: shared.clone(),
        clearing,
    };
    let feed = FeedSettings {
        name: None,
        version: SchemaVersion::V5,
        framing: Framing::SingleObject,
        key: KeyKind::None,
        types: TypeSet::ALL,
        partitions: 1,
    };
    let batch = BatchSettings { max_bytes, max_age: Duration::from_millis(1), min_age: Duration::ZERO };
    let writer = Writer::new(parts, &[feed], &topics, batch, &plan);
    let thread = std::thread::spawn(move || writer.run(&plan));
    let began = Instant::now();
    while shared.core().frontier().is_none_or(|f| f.index.get() < records) {
        assert!(
            began.elapsed() < HANG && !thread.is_finished(),
            "it stands still behind {:?}",
            shared.core().frontier()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    shared.over.store(true, Ordering::Release);
    thread.join().unwrap().unwrap();
    states.lock().unwrap().clone()
}

#[test]
fn a_publisher_that_waits_for_state_in_the_middle_of_a_chunk_gets_the_seal_and_the_state_that_it_waits_for() {
    // whether batches are sealed by their age only, or by their size before
    for max_bytes in [1 << 30, 500] {
        let told = states_told(1000, 64, max_bytes);
        assert!(told.len() >= 15 && told.windows(2).all(|w| w[0] <= w[1]), "{told:?}");
    }
}

#[test]
fn one_record_between_two_states_is_enough_to_go_on() {
    let told = states_told(50, 1, 1 << 30);
    assert!((1..=49).all(|index| told.contains(&index)), "{told:?}");
}
