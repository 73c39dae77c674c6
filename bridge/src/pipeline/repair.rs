//! `groups repair`: records that were deleted from a topic before a group had read them are read again from the MDT
//! and published into the group's own repair topic, a part at a time, so that a large repair takes no more memory than
//! a small one. What the MDT no longer has is a counted gap.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use clbridge_schemas::avro::{Additions, Encoder};
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::key::{self, KeyKind};
use clbridge_schemas::lustre::records;
use clbridge_sinks::{Position, Sink, SinkError, Topic};
use thiserror::Error;
use tokio::sync::mpsc;
use tracing::warn;

use super::{FeedSettings, Shared, clock};
use crate::core::Event;
use crate::source::{Source, SourceError, SourceFactory};

/// Nothing more is readable when a fresh look at the log brought nothing for this long.
const QUIET: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 1 << 20;
/// Bytes of a part: each is published by a producer of its own, which takes some time to begin.
const PART_BYTES: usize = 4 << 20;
/// Parts that were read and not yet published.
const PARTS: usize = 1;

/// Why a repair did not come about.
#[derive(Debug, Error)]
pub enum RepairError {
    /// The MDT cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The broker refuses.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The reading thread panicked.
    #[error("reading for the repair panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// One group's repair.
pub struct Repair {
    /// The group.
    pub group: String,
    /// Number of the command.
    pub number: u64,
    /// The topic that lost records.
    pub topic: Topic,
    /// How the feed is published.
    pub feed: FeedSettings,
    /// Everything up to here was read by the group.
    pub floor: u64,
    /// Partition, first missing position, first position that is there.
    pub evicted: Vec<(u32, u64, u64)>,
    /// Incarnation to publish under.
    pub incarnation: u32,
    /// Everything up to here is durable.
    pub frontier: u64,
}

/// A record to be published again: identity, key, payload.
type Again = (RecordId, Vec<u8>, Vec<u8>);

impl Repair {
    /// Carries it out and tells the core.
    ///
    /// # Errors
    /// See [`RepairError`]; it is tried again with the next reading of the registry.
    pub async fn run(
        self,
        mdt: &MdtName,
        user: &str,
        sources: std::sync::Arc<dyn SourceFactory>,
        sink: &dyn Sink,
        shared: &Shared,
    ) -> Result<(), RepairError> {
        let at: Vec<Position> =
            self.evicted.iter().map(|&(partition, _, low)| Position { partition, offset: low }).collect();
        let first_there = sink.read_at(&self.topic, &at).await?;
        // By partition: indexes below this one were evicted.
        let bounds: Vec<(u32, u64)> = self
            .evicted
            .iter()
            .zip(first_there)
            .map(|(&(partition, ..), there)| (partition, there.map_or(self.frontier + 1, |s| s.head.id().index.get())))
            .collect();
        let (name, user) = (mdt.clone(), user.to_owned());
        let (parts, mut arriving) = mpsc::channel(PARTS);
        let reading = tokio::task::spawn_blocking({
            let (topic, feed, floor, incarnation) =
                (self.topic.clone(), self.feed.clone(), self.floor, self.incarnation);
            move || -> Result<_, SourceError> {
                let (mut source, _clearer) = sources.open(&name, &user)?;
                Reading { mdt: name, topic, feed, floor, incarnation, bounds }.read(source.as_mut(), &parts)
            }
        });
        // Made in any case: the group has to see an end, also where nothing could be republished.
        let (mut topic, mut end) = sink.repair(&self.topic, &self.group, &[]).await?;
        let mut republished = 0;
        while let Some(part) = arriving.recv().await {
            republished += part.len() as u64;
            (topic, end) = sink.repair(&self.topic, &self.group, &part).await?;
        }
        let whole = reading.await??;
        // Positions include holes, so where the MDT lacks records the gap is told rather too large than too small.
        let positions: u64 = self.evicted.iter().map(|(_, at, low)| low - at).sum();
        let missing = if whole { 0 } else { positions.saturating_sub(republished) };
        warn!(%mdt, group = self.group, topic = topic.name, republished, missing, "repaired");
        let event = Event::GroupRepaired { group: &self.group, number: self.number, topic: topic.name, end, missing };
        shared.core().on(event, clock::now());
        Ok(())
    }
}

/// The half of a repair that reads the MDT.
struct Reading {
    mdt: MdtName,
    topic: Topic,
    feed: FeedSettings,
    floor: u64,
    incarnation: u32,
    /// By partition: indexes below this one were evicted.
    bounds: Vec<(u32, u64)>,
}

impl Reading {
    /// Sends what was evicted, in order; true if the MDT still has everything behind the floor.
    fn read(&self, source: &mut dyn Source, parts: &mpsc::Sender<Vec<Again>>) -> Result<bool, SourceError> {
        let mut whole = false;
        let last = self.bounds.iter().map(|(_, bound)| *bound).max().unwrap_or(0);
        let Some(from) = NonZeroU64::new(self.floor + 1) else { return Ok(whole) };
        source.seek(from)?;
        let encoder = Encoder::new(&self.mdt, self.feed.version, self.feed.framing);
        let partitions = NonZeroU32::new(self.topic.partitions).unwrap_or(NonZeroU32::MIN);
        let (mut buf, mut key) = (Vec::with_capacity(READ_BYTES), Vec::new());
        let (mut part, mut bytes, mut over) = (Vec::new(), 0, false);
        let mut heard = Instant::now();
        while !over && heard.elapsed() < QUIET {
            buf.clear();
            if source.read(&mut buf, READ_BYTES, Duration::from_millis(50))?.bytes > 0 {
                heard = Instant::now();
            }
            for view in records(&buf, 0) {
                let view = view.map_err(|source| SourceError::Malformed { mdt: self.mdt.clone(), source })?;
                whole |= view.index() == from.get();
                if view.index() >= last {
                    over = true;
                    break;
                }
                let Some(index) = NonZeroU64::new(view.index()).filter(|_| self.feed.types.takes(view.rtype())) else {
                    continue;
                };
                key.clear();
                key::key(self.feed.key, &view, &self.mdt, &mut key);
                let partition = partition_of(self.feed.key, &key, index, partitions);
                if self.bounds.iter().any(|(p, bound)| *p == partition && index.get() < *bound) {
                    let mut payload = Vec::new();
                    encoder.encode(&view, self.incarnation, Additions::default(), &mut payload);
                    bytes += key.len() + payload.len();
                    part.push((RecordId { incarnation: self.incarnation, index }, key.clone(), payload));
                }
            }
            if bytes >= PART_BYTES {
                bytes = 0;
                if parts.blocking_send(std::mem::take(&mut part)).is_err() {
                    // Nobody takes it: the repair has failed, and that error is the one to be told.
                    return Ok(whole);
                }
            }
        }
        if !part.is_empty() {
            let _ = parts.blocking_send(part);
        }
        Ok(whole)
    }
}

/// The partition of a record: by its key, without a key spread by its index, so that a restart chooses the same.
#[must_use]
pub fn partition_of(kind: KeyKind, key: &[u8], index: NonZeroU64, partitions: NonZeroU32) -> u32 {
    if kind == KeyKind::None {
        // Below the number of partitions, so it fits.
        (index.get() % u64::from(partitions.get())) as u32
    } else {
        key::partition(key, partitions)
    }
}
