//! `groups repair`: records that were deleted from a topic before a group had read them are read again from the MDT
//! and published into the group's own repair topic. What the MDT no longer has is a counted gap.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::{Duration, Instant};

use clbridge_schemas::avro::{Additions, Encoder};
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::key::{self, KeyKind};
use clbridge_schemas::lustre::records;
use clbridge_sinks::{Position, Sink, SinkError, Topic};
use thiserror::Error;
use tracing::warn;

use super::{FeedSettings, Shared, clock};
use crate::core::Event;
use crate::source::{Source, SourceError, SourceFactory};

/// Nothing more is readable when a fresh look at the log brought nothing for this long.
const QUIET: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 1 << 20;

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
        let (repair, records) = tokio::task::spawn_blocking(move || -> Result<_, SourceError> {
            let (mut source, _clearer) = sources.open(&name, &user)?;
            let records = self.collect(&name, source.as_mut(), &bounds)?;
            Ok((self, records))
        })
        .await??;
        let positions: u64 = repair.evicted.iter().map(|(_, at, low)| low - at).sum();
        // Positions include holes, so this errs towards a larger gap.
        let missing = positions.saturating_sub(records.len() as u64);
        let (topic, end) = sink.repair(&repair.topic, &repair.group, &records).await?;
        warn!(%mdt, group = repair.group, topic = topic.name, republished = records.len(), missing, "repaired");
        let event =
            Event::GroupRepaired { group: &repair.group, number: repair.number, topic: topic.name, end, missing };
        shared.core().on(event, clock::now());
        Ok(())
    }

    fn collect(
        &self,
        mdt: &MdtName,
        source: &mut dyn Source,
        bounds: &[(u32, u64)],
    ) -> Result<Vec<Again>, SourceError> {
        let mut out = Vec::new();
        let last = bounds.iter().map(|(_, bound)| *bound).max().unwrap_or(0);
        let Some(from) = NonZeroU64::new(self.floor + 1) else { return Ok(out) };
        source.seek(from)?;
        let encoder = Encoder::new(mdt, self.feed.version, self.feed.framing);
        let partitions = NonZeroU32::new(self.topic.partitions).unwrap_or(NonZeroU32::MIN);
        let (mut buf, mut key) = (Vec::with_capacity(READ_BYTES), Vec::new());
        let mut heard = Instant::now();
        while heard.elapsed() < QUIET {
            buf.clear();
            if source.read(&mut buf, READ_BYTES, Duration::from_millis(50))?.bytes > 0 {
                heard = Instant::now();
            }
            for view in records(&buf, 0) {
                let view = view.map_err(|source| SourceError::Malformed { mdt: mdt.clone(), source })?;
                if view.index() >= last {
                    return Ok(out);
                }
                let Some(index) = NonZeroU64::new(view.index()).filter(|_| self.feed.types.takes(view.rtype())) else {
                    continue;
                };
                key.clear();
                key::key(self.feed.key, &view, mdt, &mut key);
                let partition = partition_of(self.feed.key, &key, index, partitions);
                if bounds.iter().any(|(p, bound)| *p == partition && index.get() < *bound) {
                    let mut payload = Vec::new();
                    encoder.encode(&view, self.incarnation, Additions::default(), &mut payload);
                    out.push((RecordId { incarnation: self.incarnation, index }, key.clone(), payload));
                }
            }
        }
        Ok(out)
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
