//! A member of a group. It commits only what `done` was called for, and never moves a position back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::super::config::KafkaConfig;
use super::super::context::trace_event;
use super::super::native::{Place, positions};
use super::super::{blocking, client_error, sort, sort_kafka};
use super::{consumed, passing};
use crate::error::SinkError;
use crate::traits::{Batch, Consumer, Subscription};

/// How soon a new topic is noticed, milliseconds.
const METADATA_MS: &str = "2000";
/// How long a member waits for a first position that nobody has written yet: a new MDT's topic is there a moment
/// before the positions are.
const FIRST_POSITION_GRACE: Duration = Duration::from_secs(15);
/// How often it looks for one.
const FIRST_POSITION_LOOK: Duration = Duration::from_millis(500);

/// Longest wait for a poll that is still under way when a member is dropped.
const LEAVING: Duration = Duration::from_secs(2);

/// Lowest offset handed out since each partition was assigned.
type Handed = Arc<Mutex<BTreeMap<Place, u64>>>;

struct Context {
    handed: Handed,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        trace_event(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
            for e in list.elements() {
                handed.remove(&(e.topic().to_owned(), e.partition() as u32));
            }
        }
    }
}

/// A member of a group.
pub(in crate::kafka) struct Member {
    inner: Arc<MemberInner>,
}

struct MemberInner {
    group: String,
    consumer: BaseConsumer<Context>,
    handed: Handed,
    /// Since when a partition without a position is waited for, and the last look.
    waiting: Mutex<Option<(Instant, Instant)>>,
    timeout: Duration,
}

impl Member {
    pub(in crate::kafka) fn new(config: &KafkaConfig, group: &str, what: &Subscription) -> Result<Self, SinkError> {
        let handed = Handed::default();
        let mut c = config.client()?;
        c.set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed");
        for (key, value) in [("topic.metadata.refresh.interval.ms", METADATA_MS), ("fetch.wait.max.ms", "100")] {
            if !config.librdkafka.contains_key(key) {
                c.set(key, value);
            }
        }
        let context = Context { handed: Arc::clone(&handed) };
        let consumer: BaseConsumer<Context> = c.create_with_context(context).map_err(|e| client_error(config, &e))?;
        let pattern = super::pattern(what, config, Some(group));
        consumer
            .subscribe(&[&pattern])
            .map_err(|e| sort_kafka(format!("group {group}: subscribing to {pattern}"), e))?;
        Ok(Self {
            inner: Arc::new(MemberInner {
                group: group.to_owned(),
                consumer,
                handed,
                waiting: Mutex::new(None),
                timeout: config.request_timeout(),
            }),
        })
    }
}

impl Drop for Member {
    /// A `next` that was cancelled still polls on its thread, and the group is left only when that is over. A process
    /// that ended before would keep its partitions from the others for the whole session timeout.
    fn drop(&mut self) {
        let until = Instant::now() + LEAVING;
        while Arc::strong_count(&self.inner) > 1 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl MemberInner {
    fn next(&self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let mut batch = Batch::default();
        let until = Instant::now() + wait;
        while batch.records.len() < max {
            self.look_for_first_positions()?;
            let left =
                if batch.records.is_empty() { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match self.consumer.poll(left.min(FIRST_POSITION_LOOK)) {
                Some(Ok(m)) => {
                    let record = consumed(&m)?;
                    let mut handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
                    handed.entry((record.topic.clone(), record.at.partition)).or_insert(record.at.offset);
                    drop(handed);
                    batch.records.push(record);
                }
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                    let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.get_or_insert((Instant::now(), Instant::now()));
                }
                Some(Err(e)) => passing(&format!("group {}", self.group), e)?,
                None if !batch.records.is_empty() || left.is_zero() => break,
                None => {}
            }
        }
        Ok(batch)
    }

    /// A partition without a position stands still until its first one is written; one whose position lies below the
    /// start of the log has lost records, and that only a command may pass over.
    fn look_for_first_positions(&self) -> Result<(), SinkError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, last)) = waiting.as_mut() else {
            return Ok(());
        };
        if last.elapsed() < FIRST_POSITION_LOOK {
            return Ok(());
        }
        let what = || format!("group {}", self.group);
        *last = Instant::now();
        let standing = self.consumer.position().map_err(|e| sort_kafka(what(), e))?;
        let assigned = self.consumer.assignment().map_err(|e| sort_kafka(what(), e))?;
        let committed = self.consumer.committed_offsets(assigned, self.timeout).map_err(|e| sort_kafka(what(), e))?;
        let mut missing = Vec::new();
        for e in committed.elements() {
            let (topic, partition) = (e.topic(), e.partition());
            let at = standing.find_partition(topic, partition).map(|s| s.offset());
            if matches!(at, Some(Offset::Offset(_))) {
                continue;
            }
            let Offset::Offset(position) = e.offset() else {
                missing.push(format!("{topic} partition {partition}"));
                continue;
            };
            let (low, end) =
                self.consumer.fetch_watermarks(topic, partition, self.timeout).map_err(|e| sort_kafka(what(), e))?;
            if position < low || position > end {
                return Err(SinkError::Mismatch {
                    what: what(),
                    why: format!("its position {position} in {topic} partition {partition} is outside of {low}..{end}"),
                    hint: format!(
                        "`clbridge groups repair {0}` brings back what the MDT still has, `clbridge groups accept {0}` goes on without",
                        self.group
                    ),
                });
            }
            self.consumer
                .seek(topic, partition, Offset::Offset(position), self.timeout)
                .map_err(|e| sort_kafka(what(), e))?;
        }
        if missing.is_empty() {
            *waiting = None;
        } else if since.elapsed() > FIRST_POSITION_GRACE {
            return Err(SinkError::Mismatch {
                what: what(),
                why: format!("has no position in {}", missing.join(", ")),
                hint: format!(
                    "register it by `clbridge groups add {0}`; if it was registered, its position was lost: `clbridge groups repair {0}` or `clbridge groups accept {0}`",
                    self.group
                ),
            });
        }
        Ok(())
    }

    fn done(&self, ends: &[(Place, u64)]) -> Result<(), SinkError> {
        let what = || format!("group {}: committing", self.group);
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        // Behind the last record of the batch: above what was first handed out since the partition became ours.
        let own: Vec<(Place, u64)> =
            ends.iter().filter(|(place, end)| handed.get(place).is_some_and(|first| end > first)).cloned().collect();
        drop(handed);
        if own.is_empty() {
            return Ok(());
        }
        let list: TopicPartitionList = positions(&own).map_err(|e| sort(what(), &e))?;
        match self.consumer.commit(&list, CommitMode::Sync) {
            Err(KafkaError::ConsumerCommit(code)) if rebalancing(code) => {
                tracing::info!(
                    group = self.group,
                    "not acknowledged, since the group is being shared out anew: these records come again"
                );
                Ok(())
            }
            other => other.map_err(|e| sort_kafka(what(), e)),
        }
    }
}

/// Whether a commit was refused because the partitions are being given to members anew: whoever has them next begins
/// behind what was committed before. That is a member's everyday life and must not end it.
fn rebalancing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::UnknownMemberId
            | RDKafkaErrorCode::StaleMemberEpoch
    )
}

/// Positions behind the last record of each partition.
fn ends(batch: &Batch) -> Vec<(Place, u64)> {
    let mut ends: BTreeMap<Place, u64> = BTreeMap::new();
    for r in &batch.records {
        let end = ends.entry((r.topic.clone(), r.at.partition)).or_default();
        *end = (*end).max(r.at.offset + 1);
    }
    ends.into_iter().collect()
}

#[async_trait]
impl Consumer for Member {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.next(max, wait)).await
    }

    async fn done(&mut self, batch: &Batch) -> Result<(), SinkError> {
        let (inner, ends) = (Arc::clone(&self.inner), ends(batch));
        blocking(move || inner.done(&ends)).await
    }
}
