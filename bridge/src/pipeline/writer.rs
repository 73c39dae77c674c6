//! The MDT's own thread: read, view in place, filter, partition, encode, publish, seal.
//!
//! Nothing behind a break (a pause, a jump of time, a reopened descriptor) is published before the record in front
//! of it was seen again.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, TryRecvError, sync_channel};
use std::time::Duration;

use clbridge_schemas::avro::{Additions, Encoder, Retraction as RetractionRecord, Retracts};
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::key::{self, KeyKind};
use clbridge_schemas::lustre::{Time, View, records};
use clbridge_sinks::state::{Mark, Retraction};
use clbridge_sinks::{Capabilities, Durable, Message, Publisher, Refused, SinkError, Topic, TopicIx};
use thiserror::Error;
use tracing::{info, warn};

use super::clearing::Request;
use super::repair::partition_of;
use super::{BatchSettings, FeedSettings, Shared, clock};
use crate::core::{Event, Now, Plan, Stop};
use crate::failpoint;
use crate::source::{Break, Breaks, Probe, Read, Source, SourceError};

mod sealing;

/// Bytes asked for in one read.
const READ_BYTES: usize = 1 << 20;
/// Longest wait for records while nothing else is to be done.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// Longest wait while something is in flight.
const BUSY_WAIT: Duration = Duration::from_millis(1);

/// Why the writer ended.
#[derive(Debug, Error)]
pub enum WriterError {
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The broker failed.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// An MDT crash is suspected: the next start compares.
    #[error("{0}")]
    Suspect(String),
    /// An operator has to act.
    #[error("{}", .0.text)]
    Stop(Stop),
}

struct Feed {
    topic: TopicIx,
    partitions: NonZeroU32,
    types: crate::modules::TypeSet,
    key: KeyKind,
    encoder: Encoder,
    skip: Vec<Option<RecordId>>,
}

/// See the module.
pub struct Writer {
    mdt: MdtName,
    source: Box<dyn Source>,
    publisher: Box<dyn Publisher>,
    capabilities: Capabilities,
    shared: Arc<Shared>,
    clearing: Sender<Request>,
    feeds: Vec<Feed>,
    batch: BatchSettings,
    incarnation: u32,
    above: u64,
    breaks: Breaks,
    /// See [`Plan::ahead`].
    ahead: Option<Mark>,
    /// Newest record with a verdict.
    last: Option<Mark>,
    /// Bytes and time since the last seal.
    unsealed: Option<(u64, Now)>,
    sealed_at: Now,
    /// Anything read since the last seal, published or dropped.
    dirty: bool,
    payload: Vec<u8>,
    key: Vec<u8>,
    durable: Vec<Durable>,
}

/// Records of a chunk that have their verdict, and of which the core was not told yet.
#[derive(Default)]
struct Untold<'a> {
    last: Option<View<'a>>,
    count: u64,
    dropped: u64,
}

/// What a writer is made of.
pub struct Parts {
    /// The MDT.
    pub mdt: MdtName,
    /// Its records.
    pub source: Box<dyn Source>,
    /// Its only writer.
    pub publisher: Box<dyn Publisher>,
    /// What the broker can do.
    pub capabilities: Capabilities,
    /// Joined by all threads.
    pub shared: Arc<Shared>,
    /// To the clearing thread.
    pub clearing: Sender<Request>,
}

impl Writer {
    /// Joins the parts with what a start has found.
    #[must_use]
    pub fn new(parts: Parts, feeds: &[FeedSettings], topics: &[Topic], batch: BatchSettings, plan: &Plan) -> Self {
        let feeds = feeds
            .iter()
            .zip(topics)
            .zip(&plan.skip)
            .map(|((f, t), skip)| Feed {
                topic: t.ix,
                partitions: NonZeroU32::new(t.partitions).unwrap_or(NonZeroU32::MIN),
                types: f.types,
                key: f.key,
                encoder: Encoder::new(&parts.mdt, f.version, f.framing),
                skip: skip.clone(),
            })
            .collect();
        Self {
            mdt: parts.mdt,
            source: parts.source,
            publisher: parts.publisher,
            capabilities: parts.capabilities,
            shared: parts.shared,
            clearing: parts.clearing,
            feeds,
            batch,
            incarnation: plan.incarnation,
            above: plan.above,
            // An MDT may also crash between the start's look at it and the first record.
            breaks: Breaks::new(plan.frontier.filter(|_| plan.stands).map(|f| (f.id.index.get(), f.digest, None))),
            ahead: plan.ahead,
            last: plan.frontier,
            unsealed: None,
            sealed_at: Now::ZERO,
            dirty: false,
            payload: Vec::with_capacity(1024),
            key: Vec::with_capacity(64),
            durable: Vec::new(),
        }
    }

    /// Runs until the life is over or drained.
    ///
    /// # Errors
    /// What ended it.
    pub fn run(mut self, plan: &Plan) -> Result<(), WriterError> {
        while !self.shared.core().may_publish() {
            self.seal_if_due(true)?;
            self.poll(BUSY_WAIT)?;
            if self.shared.is_over() {
                return Ok(());
            }
        }
        if let Some(retraction) = plan.retract {
            self.retract(retraction)?;
        }
        if let Some(index) = plan.resume {
            self.source.seek(index)?;
        }
        let mut buf = Vec::with_capacity(READ_BYTES + 1024);
        loop {
            self.poll(Duration::ZERO)?;
            if self.shared.is_over() {
                return Ok(());
            }
            if self.shared.draining.load(Ordering::Acquire) {
                return self.drain();
            }
            let wait = if self.unsealed.is_some() || self.publisher.in_flight().0 > 0 { BUSY_WAIT } else { IDLE_WAIT };
            buf.clear();
            let read = self.source.read(&mut buf, READ_BYTES, wait)?;
            if read.bytes > 0 {
                self.take(&buf, read)?;
            }
            if self.publisher.wants_state() {
                self.shared.core().wants_state();
            }
            self.seal_if_due(read.bytes == 0)?;
        }
    }

    /// Gives every record of a chunk its verdict.
    fn take(&mut self, buf: &[u8], read: Read) -> Result<(), WriterError> {
        failpoint::hit("before_publish");
        let mut untold = Untold::default();
        let mut doubt = read.in_doubt();
        for view in records(buf, 0) {
            let view = view.map_err(|source| SourceError::Malformed { mdt: self.mdt.clone(), source })?;
            if let Some(b) = self.breaks.before(&view, std::mem::take(&mut doubt)) {
                self.tell(&mut untold);
                self.verify(&b)?;
            }
            let Some(index) = NonZeroU64::new(view.index()).filter(|i| i.get() > self.above) else {
                return Err(WriterError::Stop(Stop {
                    reason: "stopped_reset",
                    text: format!(
                        "{}: record {} is not above {}: the changelog began anew",
                        self.mdt,
                        view.index(),
                        self.above
                    ),
                }));
            };
            self.above = index.get();
            if !self.publish(&view, RecordId { incarnation: self.incarnation, index }, &mut untold)? {
                untold.dropped += 1;
            }
            untold.count += 1;
            untold.last = Some(view);
        }
        self.tell(&mut untold);
        Ok(())
    }

    /// Tells the core what was read.
    fn tell(&mut self, untold: &mut Untold<'_>) {
        let Untold { last, count, dropped } = std::mem::take(untold);
        let Some((view, index)) = last.and_then(|v| Some((v, NonZeroU64::new(v.index())?))) else { return };
        let mark = Mark { id: RecordId { incarnation: self.incarnation, index }, digest: view.digest() };
        self.last = Some(mark);
        self.dirty = true;
        self.shared.core().on(Event::Read { last: mark, records: count, dropped }, clock::now());
    }

    /// Publishes one record to every feed that takes it; false if none does. `before`: those in front of it.
    fn publish(&mut self, view: &View<'_>, id: RecordId, before: &mut Untold<'_>) -> Result<bool, WriterError> {
        let mut taken = false;
        let mut sent = false;
        for f in 0..self.feeds.len() {
            let feed = &self.feeds[f];
            if !feed.types.takes(view.rtype()) {
                continue;
            }
            taken = true;
            self.key.clear();
            key::key(feed.key, view, &self.mdt, &mut self.key);
            let keyed = feed.key != KeyKind::None;
            let partition = partition_of(feed.key, &self.key, id.index, feed.partitions);
            if feed.skip.get(partition as usize).copied().flatten().is_some_and(|upto| id <= upto) {
                continue;
            }
            self.payload.clear();
            feed.encoder.encode(view, id.incarnation, Additions::default(), &mut self.payload);
            let topic = feed.topic;
            loop {
                let message = Message {
                    topic,
                    id,
                    partition,
                    kind: view.rtype(),
                    time_ns: view.time().nanos(),
                    key: keyed.then_some(self.key.as_slice()),
                    payload: &self.payload,
                    retracts: None,
                };
                match self.publisher.publish(&message) {
                    Ok(()) => break,
                    Err(Refused::Full) => self.wait_for_room((!sent).then_some(&mut *before))?,
                    Err(Refused::Dead(e)) => return Err(e.into()),
                }
            }
            sent = true;
            let bytes = (self.payload.len() + self.key.len()) as u64;
            match &mut self.unsealed {
                Some((b, _)) => *b += bytes,
                None => self.unsealed = Some((bytes, clock::now())),
            }
        }
        if self.unsealed.is_some_and(|(b, _)| b >= self.batch.max_bytes) {
            // The frontier of a seal in mid-chunk is the record just published.
            self.last = Some(Mark { id, digest: view.digest() });
            self.dirty = true;
            self.seal()?;
        }
        Ok(taken)
    }

    /// The publisher is full, and nothing more is read until it is not. Where State is written beside the batches it may
    /// be waiting for State, or for the seal that State can tell of: batches are sealed by their age as ever. `before`:
    /// the records in front of the one that is refused, unless a feed has that one already.
    fn wait_for_room(&mut self, before: Option<&mut Untold<'_>>) -> Result<(), WriterError> {
        self.poll(BUSY_WAIT)?;
        if self.shared.is_over() {
            return Err(WriterError::Suspect("ended while the broker was stalled".into()));
        }
        if let Some(before) = before.filter(|_| !self.capabilities.atomic_state) {
            self.tell(before);
            if self.publisher.in_flight().0 == 0 {
                self.shared.core().wants_state();
            }
            self.seal_if_due(false)?;
        }
        Ok(())
    }

    /// Nothing behind a break goes out before the record in front of it was seen again on a fresh descriptor.
    fn verify(&mut self, b: &Break) -> Result<(), WriterError> {
        let ahead = self.ahead.filter(|a| a.id.index.get() > b.verify.0).map(|a| (a.id.index.get(), a.digest));
        let (verify, digest) = ahead.unwrap_or(b.verify);
        let Some(index) = NonZeroU64::new(verify) else { return Ok(()) };
        let (answer, answered) = sync_channel(1);
        if self.clearing.send(Request::Verify(index, answer)).is_err() {
            return Err(WriterError::Suspect("the clearing thread is gone".into()));
        }
        let probe = loop {
            self.poll(BUSY_WAIT)?;
            if self.shared.is_over() {
                return Err(WriterError::Suspect("ended while a break was verified".into()));
            }
            match answered.try_recv() {
                Ok(probe) => break probe?,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    return Err(WriterError::Suspect("the clearing thread is gone".into()));
                }
            }
        };
        match probe {
            Probe::Found(d) if d == digest => Ok(()),
            // It could be forgotten, so it was stable; what comes behind it goes on.
            Probe::Gone { .. } | Probe::Nothing if index.get() <= self.shared.core().last_clear() => Ok(()),
            _ => {
                warn!(mdt = %self.mdt, %index, why = ?b.why, "a record that was read no longer stands");
                Err(WriterError::Suspect(format!(
                    "record {index} no longer stands as it was read ({:?}): an MDT crash is suspected",
                    b.why
                )))
            }
        }
    }

    /// A retraction in every partition of every feed, durable with the State that begins the incarnation.
    fn retract(&mut self, r: Retraction) -> Result<(), WriterError> {
        let Some(index) = NonZeroU64::new(r.from) else { return Ok(()) };
        let id = RecordId { incarnation: r.incarnation, index };
        let time_ns = i64::try_from(clock::wall().as_nanos()).unwrap_or(i64::MAX);
        for f in 0..self.feeds.len() {
            let feed = &self.feeds[f];
            self.payload.clear();
            let record = RetractionRecord {
                at: id,
                time: Time::from_nanos(time_ns),
                void: Retracts { incarnation: r.incarnation - 1, from: r.from, to: r.to },
            };
            feed.encoder.encode_retraction(&record, &mut self.payload);
            let (topic, partitions) = (feed.topic, feed.partitions.get());
            let mut partition = 0;
            while partition < partitions {
                let message = Message {
                    topic,
                    id,
                    partition,
                    kind: clbridge_schemas::lustre::RecordType::MARK,
                    time_ns,
                    key: None,
                    payload: &self.payload,
                    retracts: Some(r),
                };
                match self.publisher.publish(&message) {
                    Ok(()) => partition += 1,
                    Err(Refused::Full) => self.wait_for_room(None)?,
                    Err(Refused::Dead(e)) => return Err(e.into()),
                }
            }
        }
        info!(mdt = %self.mdt, incarnation = r.incarnation, from = r.from, to = r.to, "retracted: the MDT took these back");
        self.dirty = true;
        self.seal()
    }
}

#[cfg(test)]
mod tests;
