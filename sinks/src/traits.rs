//! The contract between clbridge and a broker.
//!
//! Threads: a [`Publisher`] lives on its MDT's own thread and never blocks it for long; everything else is async and
//! runs beside it. Several bridges may run at once: the fence taken in [`Sink::recover`] decides which of them writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use clbridge_schemas::avro::Retracts;
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::lustre::RecordType;

use crate::error::{Refused, SinkError};
use crate::registry::{MdtSelection, Registry, StartAt};
use crate::state::{Retraction, State};
use crate::topic::{Position, Stored, Topic, TopicIx, TopicSpec};

/// What a position is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Positions {
    /// Each partition counts its own offsets.
    Offsets,
    /// One sequence over all partitions of a topic, which therefore can be trimmed at its beginning only.
    Sequence,
    /// It follows from the record's identity: incarnation, index, and that a retraction stands before the record of
    /// the same index, see [`Position::of_identity`].
    Identity,
}

/// What a broker can do. The core and the contract tests go by these, never by a broker's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// A sealed batch and State become durable together or not at all.
    pub atomic_state: bool,
    /// What was published can be read back. Where it cannot, nothing is kept that all groups have: a group begins behind
    /// the newest record only, and there is nothing to trim, to evict or to repair from.
    pub read_back: bool,
    /// A restart publishes nothing twice and leaves no hole (invariant 4).
    pub exactly_once: bool,
    /// A topic has as many partitions as are asked for; else it has one, whatever is asked for.
    pub partitioned: bool,
    /// What a position is.
    pub positions: Positions,
}

/// One record, ready to be published.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Topic among those of the MDT.
    pub topic: TopicIx,
    /// Identity.
    pub id: RecordId,
    /// Partition, below the topic's pinned number.
    pub partition: u32,
    /// Changelog type, for brokers that route by it.
    pub kind: RecordType,
    /// Time of the record, nanoseconds since the epoch.
    pub time_ns: i64,
    /// Key, if the feed has one.
    pub key: Option<&'a [u8]>,
    /// Framed Avro.
    pub payload: &'a [u8],
    /// Set on a retraction; goes beside the payload too, which below schema version 5 cannot say it.
    pub retracts: Option<Retraction>,
}

/// What became durable, reported in the order of publishing within a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    /// Record `id` lies at `at`. Reported at least for the first and the last record of each partition of a batch.
    At {
        /// Topic among those of the MDT.
        topic: TopicIx,
        /// Its place.
        at: Position,
        /// Its identity.
        id: RecordId,
    },
    /// Every message published before the seal of this frontier is durable. Reported after its [`Durable::At`]s.
    Frontier(RecordId),
    /// The State of this number is durable.
    State(u64),
}

/// Writes one MDT's records and State. One writer, one thread; the order of calls is the order within a partition.
pub trait Publisher: Send {
    /// The message is *accepted* when this returns Ok (it was copied). [`Refused::Full`]: `poll`, then call again with
    /// the same message. Never blocks. Messages that are not yet sealed may become durable only with a later seal.
    fn publish(&mut self, m: &Message<'_>) -> Result<(), Refused>;

    /// Ends a batch: everything up to `frontier` has its verdict. With [`Capabilities::atomic_state`] `state` becomes
    /// durable together with the batch (State's own frontier is then this one); without, it must be `None`.
    /// Never blocks; completion is reported by `poll`. Calling it with no message published since the last seal is
    /// right: it makes dropped records count (and with State, writes State).
    fn seal(&mut self, frontier: Option<RecordId>, state: Option<&State>) -> Result<(), Refused>;

    /// Without [`Capabilities::atomic_state`]: writes State on its own, after everything that is durable now.
    /// With it: as `seal` with the last frontier. Completion is reported by `poll` as [`Durable::State`].
    fn store(&mut self, state: &State) -> Result<(), Refused>;

    /// Drives the client and reports what became durable. Waits at most `wait` if nothing is to be reported.
    /// After an `Err` this publisher is dead: drop it and start the MDT's pipeline again.
    fn poll(&mut self, wait: Duration, durable: &mut dyn FnMut(Durable)) -> Result<(), SinkError>;

    /// Whether `seal` and `store` would be taken now. While a commit is under way they would not; `publish` still is,
    /// until buffers are full.
    fn ready(&self) -> bool;

    /// Whether a State that tells a newer frontier should be written before long: where the publisher bounds what State
    /// does not tell of, it would else have to refuse records until there is one.
    fn wants_state(&self) -> bool {
        false
    }

    /// Accepted and not yet durable: (messages, bytes).
    fn in_flight(&self) -> (u64, u64);
}

/// What a start finds in the broker, read after older writers were fenced.
pub struct Recovered {
    /// The only writer from here on.
    pub publisher: Box<dyn Publisher>,
    /// State, if one was ever written.
    pub state: Option<State>,
    /// For each topic (by [`TopicIx`]) and partition the last durable record, `None` where none is readable.
    pub tails: Vec<Vec<Option<Stored>>>,
    /// True if any partition of any topic holds a durable record, or held one (its low mark is above 0). What only an
    /// aborted batch left behind does not count: a bridge killed in its very first batch starts as the first time.
    pub used: bool,
}

/// A broker.
#[async_trait]
pub trait Sink: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Creates the topics of one MDT, or checks those that exist (settings, partitions, identity against `pinned`);
    /// never widens one. Also makes what State needs.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] if a topic is not what `pinned` says or its settings break a guarantee.
    async fn prepare(&self, want: &[TopicSpec], pinned: Option<&State>) -> Result<Vec<Topic>, SinkError>;

    /// Reads State without fencing anyone; `None` if none was ever written.
    async fn peek_state(&self, mdt: &MdtName) -> Result<Option<State>, SinkError>;

    /// Fences every older writer of this MDT first, then tells what is there.
    async fn recover(&self, mdt: &MdtName, topics: &[Topic]) -> Result<Recovered, SinkError>;

    /// For each position the first record at or behind it; `None` where there is none before the end.
    async fn read_at(&self, topic: &Topic, at: &[Position]) -> Result<Vec<Option<Stored>>, SinkError>;

    /// Calls `each` for every durable record with an index above `above`, or of an incarnation above `incarnation`,
    /// in order within a partition. Starts where that is sure to be complete, so it may also show older ones.
    async fn read_back(
        &self,
        topic: &Topic,
        incarnation: u32,
        above: u64,
        each: &mut (dyn FnMut(Stored) + Send),
    ) -> Result<(), SinkError>;

    /// Forgets records below the given position of each partition, and those that are older than `keep` only.
    /// Never the last record of a partition; with [`Positions::Sequence`] of the topic. Returns the new low marks.
    async fn trim(&self, topic: &Topic, below: &[u64], keep: Duration) -> Result<Vec<u64>, SinkError>;

    /// Makes the Avro schema readable for consumers by its fingerprint.
    async fn publish_schema(&self, fingerprint: [u8; 8], json: &str) -> Result<(), SinkError>;

    /// Publishes records of a repair to the group's own repair topic (created if need be, the group's first position in
    /// it written before) and waits until they are durable; returns that topic with the positions behind the last
    /// record of each partition.
    async fn repair(
        &self,
        topic: &Topic,
        group: &str,
        records: &[(RecordId, Vec<u8>, Vec<u8>)],
    ) -> Result<(Topic, Vec<u64>), SinkError>;
}

/// Committed position by partition; `None`: the group has none there.
pub type Offsets = Vec<Option<u64>>;

/// Where a topic begins and ends, and what every asked group has committed. The groups are asked first, so a
/// committed position above `end` is truly beyond the end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TopicProgress {
    /// First position that is still there, by partition.
    pub low: Vec<u64>,
    /// Position behind the last record, by partition.
    pub end: Vec<u64>,
    /// Identity of the topic's life, as it is now.
    pub id: String,
    /// By group.
    pub groups: BTreeMap<String, Offsets>,
    /// Groups that are not at the end although the broker has held nothing for them for some seconds, in which nobody
    /// read for them either: what they have not acknowledged never will be. Only a word for `status`: it may be wrong.
    pub drained: BTreeSet<String>,
}

/// An answer about all groups, by topic name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// By topic name.
    pub topics: BTreeMap<String, TopicProgress>,
}

/// What the broker says of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupInfo {
    /// Group id.
    pub name: String,
    /// Live members.
    pub members: usize,
}

/// Sees what groups have done, and writes their first positions.
#[async_trait]
pub trait GroupObserver: Send + Sync {
    /// What the given groups have committed on the given topics, and where these begin and end.
    async fn progress(&self, groups: &[String], topics: &[Topic]) -> Result<Progress, SinkError>;

    /// Groups that the broker knows, with their number of members.
    async fn list(&self) -> Result<Vec<GroupInfo>, SinkError>;

    /// Writes the group's first position in every partition of `topic` where it has none, and returns all of them.
    /// A partition stays `None` where the position cannot be written safely: the group has live members and the
    /// topic already holds records, so that a written position might jump over what a member is just processing.
    async fn register(&self, group: &str, topic: &Topic, from: StartAt) -> Result<Offsets, SinkError>;

    /// Moves the group's positions that lie below the start of their partition to that start, so that its members find
    /// a record there. False if some could not be moved, since the group has live members.
    async fn skip_deleted(&self, group: &str, topic: &Topic) -> Result<bool, SinkError>;

    /// The registry of groups; the empty one with version 0 if none was ever written.
    async fn registry(&self) -> Result<Registry, SinkError>;

    /// Changes the registry: reads it, lets `change` alter it, writes it with the next version. No change by another
    /// writer in between is lost. Returns what was written.
    async fn change_registry(
        &self,
        change: &mut (dyn for<'r> FnMut(&'r mut Registry) + Send),
    ) -> Result<Registry, SinkError>;
}

/// One record handed to a consumer.
#[derive(Clone, Debug)]
pub struct Consumed {
    /// Topic name.
    pub topic: String,
    /// Where it lies.
    pub at: Position,
    /// Key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Framed Avro.
    pub payload: Vec<u8>,
    /// On a retraction what it makes void, as it stands beside the payload.
    pub retracts: Option<Retracts>,
}

/// Records taken together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In order within each partition.
    pub records: Vec<Consumed>,
}

/// What a consumer takes. MDTs that appear later are taken too, within some seconds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subscription {
    /// The MDTs.
    pub mdts: MdtSelection,
    /// The feed; `None` is the default feed.
    pub feed: Option<String>,
}

/// A broker as the bridge and its commands use it: sink, observer of groups, and maker of consumers. Making one asks
/// the broker nothing; what is wrong shows at the first use. Some clients block for a moment when they are made or
/// dropped, so neither belongs on an async task.
pub trait Broker: Sink + GroupObserver {
    /// A new member of `group`.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`] if the client cannot be made.
    fn consumer(&self, group: &str, what: &Subscription) -> Result<Box<dyn Consumer>, SinkError>;

    /// A reader that sees what comes from now on and leaves nothing behind. With `uncommitted` it does not wait for
    /// what may still be taken back, where the broker makes that difference: sooner, but records of an aborted batch
    /// are seen too.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`] if the client cannot be made.
    fn ephemeral(&self, what: &Subscription, uncommitted: bool) -> Result<Box<dyn Consumer>, SinkError>;
}

/// A member of a group, or an ephemeral reader.
#[async_trait]
pub trait Consumer: Send {
    /// Up to `max` records; an empty batch after `wait` without any.
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError>;

    /// Everything in `batch` is done: commits the positions behind it. Nothing for an ephemeral reader.
    async fn done(&mut self, batch: &Batch) -> Result<(), SinkError>;
}

#[cfg(all(test, feature = "kafka", feature = "nats", feature = "amqp", feature = "files"))]
mod tests;
