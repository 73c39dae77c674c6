//! What a broker must offer to be tested, and the few moves that all sentences are made of.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clbridge_schemas::avro::{Additions, Encoder, Framing, SchemaVersion};
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::lustre::{Fid, Record, RecordType, Time, View};
use clbridge_sinks::{
    Batch, Consumer, Durable, GroupObserver, Head, MdtSelection, Message, Position, Publisher, Recovered, Refused,
    Sink, SinkError, State, Stored, Topic, TopicIx, TopicSpec,
};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, SemaphorePermit};

/// Sentences at once: as many as a small machine bears, however many threads the runner has.
static SEATS: Semaphore = Semaphore::const_new(5);

/// Whose servers a sentence uses.
#[derive(Debug, Clone, Copy)]
pub enum On {
    Kafka,
    Nats,
    Amqp,
    Files,
}

/// What a sentence holds while it runs.
pub type Turn<T> = (T, SemaphorePermit<'static>);

impl On {
    fn turn(self) -> &'static RwLock<()> {
        static TURNS: [RwLock<()>; 4] = [const { RwLock::const_new(()) }; 4];
        &TURNS[self as usize]
    }

    /// A turn beside others.
    pub async fn shared(self) -> Turn<RwLockReadGuard<'static, ()>> {
        // (the seat comes last: who waits for a broker keeps nobody else waiting)
        (self.turn().read().await, seat().await)
    }

    /// A turn alone: the broker will be disturbed.
    pub async fn alone(self) -> Turn<RwLockWriteGuard<'static, ()>> {
        (self.turn().write().await, seat().await)
    }
}

async fn seat() -> SemaphorePermit<'static> {
    SEATS.acquire().await.expect("it is never closed")
}

/// Writes down that this thread's sentence holds, for `tests/lib/campaign contract`; what holds on an old server too is
/// no part of that.
pub fn passed(sentence: &str) {
    if crate::nats::is_old() {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("report");
    std::fs::create_dir_all(&folder).unwrap();
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("sink_contract.passed")).unwrap();
    let how = if APPLIES.get() { "holds" } else { "does not apply" };
    // (in one write: others append at the same moment)
    file.write_all(format!("{sentence} {how}\n").as_bytes()).unwrap();
}

/// A variable that `tests/up run` sets.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run it through tests/up run -- cargo test --release -p clbridge-sinks --test sink_contract"
        )
    })
}

/// A broker under test.
#[async_trait]
pub trait Ground: Send + Sync {
    /// The sink, as another process would make it: it shares nothing with an earlier one.
    fn sink(&self) -> Box<dyn Sink>;
    /// Likewise the observer.
    fn observer(&self) -> Box<dyn GroupObserver>;
    /// A new member of a group that takes these MDTs.
    fn member(&self, group: &str, mdts: MdtSelection) -> Box<dyn Consumer>;
    /// An ephemeral reader of these MDTs.
    fn ephemeral(&self, mdts: MdtSelection) -> Box<dyn Consumer>;
    /// The memory bound that the sink was given, bytes.
    fn memory(&self) -> usize;
    /// Deletes a topic behind our back and, if asked, makes it again as it was.
    async fn delete(&self, topic: &Topic, recreate: bool);
    /// Adds a partition behind our back; asked of a partitioned broker only.
    async fn widen(&self, topic: &Topic);
    /// Gives the topic a retention behind our back; returns the word by which the refusal must name it, `None` if
    /// there is no such setting that anybody could change.
    async fn set_retention(&self, topic: &Topic) -> Option<&'static str>;
    /// Deletes the records below a position behind our back, and no more beyond it than the broker has to.
    async fn evict(&self, topic: &Topic, partition: u32, below: u64);
    /// The schema that is stored under a fingerprint.
    async fn schema(&self, fingerprint: [u8; 8]) -> Option<String>;
    /// Where messages have the header of a retraction, and its value, as a client that is not ours shows it.
    async fn retraction_headers(&self, topic: &Topic) -> Vec<(Position, String)>;
    /// Why nothing can be done to the broker itself here; `None` if it can be stalled and killed.
    fn untouchable(&self) -> Option<String> {
        None
    }
    /// SIGSTOP.
    fn stall(&self);
    /// SIGCONT.
    fn go_on(&self);
    /// Kill -9 and start again on the same data.
    fn kill_and_restart(&self);
}

/// Partitions that all sentences ask for. A broker without partitions makes one.
pub const ASKED_PARTITIONS: u32 = 3;
/// Nothing here takes nearly as long: it only turns a hang into a failure.
pub const HANG: Duration = Duration::from_secs(180);

static COUNT: AtomicU32 = AtomicU32::new(0);

fn unique() -> u32 {
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// An MDT that no other sentence and no earlier run has used.
pub fn new_mdt() -> MdtName {
    let run = (std::process::id() % 46_656) * 46_656 + unique();
    let digits: String = (0..6).map(|i| char::from_digit(run / 36u32.pow(i) % 36, 36).unwrap()).collect();
    format!("t{digits}-MDT0001").parse().unwrap()
}

/// A group that no other sentence and no earlier run has used.
pub fn new_group(what: &str) -> String {
    format!("{what}-{}-{}", std::process::id(), unique())
}

/// The identity of a record of incarnation `incarnation`.
pub fn id_in(incarnation: u32, index: u64) -> RecordId {
    RecordId { incarnation, index: NonZeroU64::new(index).unwrap() }
}

/// The identity of a record of incarnation 1.
pub fn id(index: u64) -> RecordId {
    id_in(1, index)
}

/// The partition that all sentences give a record.
pub fn partition(topic: &Topic, index: u64) -> u32 {
    (index * 7 % u64::from(topic.partitions)) as u32
}

/// The position that the first record of a topic gets, asked of one that was never written.
pub async fn first_position(g: &dyn Ground, untouched: &Topic) -> u64 {
    let progress = g.observer().progress(&[], std::slice::from_ref(untouched)).await.unwrap();
    let (low, end) = (&progress.topics[&untouched.name].low, &progress.topics[&untouched.name].end);
    assert_eq!(low, end);
    assert!(low.iter().all(|first| *first == low[0] && *first <= 1), "{low:?}");
    low[0]
}

thread_local! {
    /// Whether the sentence that this thread runs has something to ask of its broker.
    static APPLIES: Cell<bool> = const { Cell::new(true) };
}

/// Says why a sentence, or a part of it, has nothing to ask of this broker. Only a declared capability may be a reason.
pub fn does_not_apply(why: &str) {
    println!("does not apply: {why}");
    APPLIES.set(false);
}

/// One MDT on a broker: its topics and its publisher.
pub struct Mdt {
    pub name: MdtName,
    pub sink: Box<dyn Sink>,
    pub topics: Vec<Topic>,
    pub publisher: Box<dyn Publisher>,
    pub state: State,
}

/// What became durable, as it was reported.
#[derive(Default, Debug)]
pub struct Seen {
    pub places: Vec<(TopicIx, Position, RecordId)>,
    pub frontier: Option<RecordId>,
    pub state: Option<u64>,
}

impl Seen {
    pub fn note(&mut self, d: Durable) {
        match d {
            Durable::At { topic, at, id } => self.places.push((topic, at, id)),
            Durable::Frontier(f) => self.frontier = Some(f),
            Durable::State(n) => self.state = Some(n),
        }
    }
}

pub fn spec(mdt: &MdtName, feed: Option<&str>) -> TopicSpec {
    TopicSpec {
        mdt: mdt.clone(),
        feed: feed.map(str::to_owned),
        partitions: ASKED_PARTITIONS,
        max_message_bytes: 100_000,
    }
}

impl Mdt {
    /// A new MDT with one topic.
    pub async fn new(g: &dyn Ground) -> Self {
        Self::named(g, new_mdt(), &[None]).await
    }

    pub async fn named(g: &dyn Ground, name: MdtName, feeds: &[Option<&str>]) -> Self {
        let sink = g.sink();
        let specs: Vec<TopicSpec> = feeds.iter().map(|f| spec(&name, *f)).collect();
        let topics = prepared(&*sink, &specs).await;
        let recovered = recovered(&*sink, &name, &topics).await;
        let state = recovered.state.unwrap_or_else(|| State::first(name.clone(), "contract".to_owned()));
        Self { publisher: recovered.publisher, state, name, sink, topics }
    }

    pub fn topic(&self) -> &Topic {
        &self.topics[0]
    }

    pub fn only(&self) -> MdtSelection {
        MdtSelection::List(vec![self.name.clone()])
    }

    /// As after kill -9: the publisher is dropped where it stands, and another process starts.
    pub async fn crash(self, g: &dyn Ground) -> (Recovered, Vec<Topic>) {
        drop(self.publisher);
        let sink = g.sink();
        let recovered = recovered(&*sink, &self.name, &self.topics).await;
        (recovered, self.topics)
    }

    /// Publishes records of incarnation 1; polls while the client is full.
    pub fn publish(&mut self, indexes: RangeInclusive<u64>, seen: &mut Seen) {
        for index in indexes {
            let payload = payload(&self.name, id(index));
            publish_one(&mut *self.publisher, &self.topics[0], id(index), &payload, seen);
        }
    }

    /// Seals up to `index` with State and waits until both are durable, in the way that this broker has.
    pub fn seal(&mut self, index: u64, seen: &mut Seen) {
        self.state.number += 1;
        self.state.frontier =
            Some(clbridge_sinks::Mark { id: id(index), digest: clbridge_schemas::ids::Digest(index) });
        let atomic = self.sink.capabilities().atomic_state;
        retry(&mut *self.publisher, seen, |p| p.seal(Some(id(index)), atomic.then_some(&self.state)));
        wait_for(&mut *self.publisher, seen, |s| s.frontier == Some(id(index)));
        if !atomic {
            retry(&mut *self.publisher, seen, |p| p.store(&self.state));
        }
        wait_for(&mut *self.publisher, seen, |s| s.state == Some(self.state.number));
    }

    /// Publishes, seals and waits.
    pub fn write(&mut self, indexes: RangeInclusive<u64>) -> Seen {
        let (mut seen, end) = (Seen::default(), *indexes.end());
        self.publish(indexes, &mut seen);
        self.seal(end, &mut seen);
        seen
    }

    /// Everything that can be read of the first topic, by partition.
    pub async fn read_all(&self) -> Vec<Vec<Stored>> {
        read_all(&*self.sink, self.topic()).await
    }
}

/// What was asked for; `None` where the broker cannot answer now.
pub fn unless_unavailable<T>(answer: Result<T, SinkError>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(e @ SinkError::Unavailable { .. }) => {
            println!("{e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// What is asked for, asked again while the broker cannot answer, as a bridge does.
pub async fn answered<T, F: Future<Output = Result<T, SinkError>>>(mut ask: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = unless_unavailable(ask().await) {
            return answer;
        }
        assert!(began.elapsed() < HANG, "the broker never answers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The topics of a start.
async fn prepared(sink: &dyn Sink, specs: &[TopicSpec]) -> Vec<Topic> {
    answered(|| sink.prepare(specs, None)).await
}

/// A start.
pub async fn recovered(sink: &dyn Sink, name: &MdtName, topics: &[Topic]) -> Recovered {
    answered(|| sink.recover(name, topics)).await
}

pub async fn read_all(sink: &dyn Sink, topic: &Topic) -> Vec<Vec<Stored>> {
    let mut all = vec![Vec::new(); topic.partitions as usize];
    sink.read_back(topic, 0, 0, &mut |s| all[s.at.partition as usize].push(s)).await.unwrap();
    all
}

/// What the given group has, once that is `enough`: an acknowledgement counts as soon as the broker is sure of it.
pub async fn positions(
    observer: &dyn GroupObserver,
    group: &str,
    topics: &[Topic],
    enough: impl Fn(&[Option<u64>]) -> bool,
) -> Vec<Option<u64>> {
    let began = Instant::now();
    loop {
        let progress = observer.progress(&[group.to_owned()], topics).await.unwrap();
        let all: Vec<_> = topics.iter().flat_map(|t| progress.topics[&t.name].groups[group].clone()).collect();
        if enough(&all) {
            return all;
        }
        assert!(began.elapsed() < HANG, "still {all:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn index_of(s: &Stored) -> u64 {
    s.head.id().index.get()
}

/// The indexes of `all`, which must rise within each partition; sorted.
pub fn indexes(all: &[Vec<Stored>]) -> Vec<u64> {
    let mut flat = Vec::new();
    for partition in all {
        assert!(partition.windows(2).all(|w| w[0].at.offset < w[1].at.offset), "offsets do not rise");
        let order: Vec<(u32, u64)> = partition.iter().map(|s| (s.head.id().incarnation, index_of(s))).collect();
        assert!(order.windows(2).all(|w| w[0] < w[1]), "records do not rise: {order:?}");
        flat.extend(partition.iter().map(index_of));
    }
    flat.sort_unstable();
    flat
}

pub fn message<'a>(topic: &Topic, id: RecordId, payload: &'a [u8]) -> Message<'a> {
    Message {
        topic: topic.ix,
        id,
        partition: partition(topic, id.index.get()),
        kind: RecordType(1),
        time_ns: 1_700_000_000_000_000_000,
        key: Some(b"[0x200000402:0x1:0x0]"),
        payload,
        retracts: None,
    }
}

pub fn publish_one(p: &mut dyn Publisher, topic: &Topic, id: RecordId, payload: &[u8], seen: &mut Seen) {
    let m = message(topic, id, payload);
    retry(p, seen, |p| p.publish(&m));
}

/// Repeats a call while the client is full.
pub fn retry(p: &mut dyn Publisher, seen: &mut Seen, mut call: impl FnMut(&mut dyn Publisher) -> Result<(), Refused>) {
    let began = Instant::now();
    loop {
        match call(p) {
            Ok(()) => return,
            Err(Refused::Full) => p.poll(Duration::from_millis(10), &mut |d| seen.note(d)).unwrap(),
            Err(Refused::Dead(e)) => panic!("{e}"),
        }
        assert!(began.elapsed() < HANG, "full for ever");
    }
}

pub fn wait_for(p: &mut dyn Publisher, seen: &mut Seen, until: impl Fn(&Seen) -> bool) {
    let began = Instant::now();
    while !until(seen) {
        p.poll(Duration::from_millis(50), &mut |d| seen.note(d)).unwrap();
        assert!(began.elapsed() < HANG, "never durable: {seen:?}");
    }
}

/// Takes batches until `enough`, done or not.
pub async fn take(
    c: &mut dyn Consumer,
    done: bool,
    mut enough: impl FnMut(&[(String, Stored)]) -> bool,
) -> Vec<(String, Stored)> {
    let mut all = Vec::new();
    let began = Instant::now();
    while !enough(&all) {
        let batch = c.next(500, Duration::from_millis(500)).await.unwrap();
        all.extend(heads(&batch));
        if done {
            c.done(&batch).await.unwrap();
        }
        assert!(began.elapsed() < HANG, "only {} records came", all.len());
    }
    all
}

pub fn heads(batch: &Batch) -> Vec<(String, Stored)> {
    let head = |payload: &[u8]| Head::of(&clbridge_schemas::avro::Head::decode(payload).unwrap()).unwrap();
    batch
        .records
        .iter()
        .map(|r| {
            let stored = Stored { at: r.at, head: head(&r.payload) };
            (r.topic.clone(), stored)
        })
        .collect()
}

/// How many of each index came.
pub fn counts(all: &[(String, Stored)]) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for (_, s) in all {
        *counts.entry(index_of(s)).or_default() += 1;
    }
    counts
}

/// The text of a refusal, which must be a contradiction that an operator has to look at.
pub fn mismatch<T>(result: Result<T, SinkError>) -> String {
    match result {
        Err(e @ SinkError::Mismatch { .. }) => e.to_string(),
        Err(e) => panic!("not a mismatch: {e}"),
        Ok(_) => panic!("was accepted"),
    }
}

/// A record as the bridge would publish it.
pub fn payload(mdt: &MdtName, id: RecordId) -> Vec<u8> {
    let tfid = Fid { seq: 0x2_0000_0402, oid: id.index.get() as u32, ver: 0 };
    let time = Time::from_nanos(1_700_000_000_000_000_000 + id.index.get() as i64);
    let (mut raw, mut out) = (Vec::new(), Vec::new());
    Record::new(id.index.get(), RecordType::CREAT, time, tfid).write(&mut raw).unwrap();
    let encoder = Encoder::new(mdt, SchemaVersion::V5, Framing::SingleObject);
    encoder.encode(&View::new(&raw, 0).unwrap(), id.incarnation, Additions::default(), &mut out);
    out
}
