//! The other side: members of groups, and ephemeral readers.
//!
//! A member commits only what `done` was called for, and never moves a position back: records of a partition that
//! was taken away meanwhile are somebody else's by then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use clbridge_schemas::ids::MdtName;

use super::config::KafkaConfig;
use super::native::{Place, positions};
use super::{client_error, sort, sort_kafka};
use crate::error::SinkError;
use crate::registry::MdtSelection;
use crate::topic::Position;
use crate::traits::{Batch, Consumed, Consumer};

/// What a consumer takes. MDTs that appear later are taken too, within some seconds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subscription {
    /// The MDTs.
    pub mdts: MdtSelection,
    /// The feed; `None` is the default feed.
    pub feed: Option<String>,
}

impl Subscription {
    /// The topics as a pattern of librdkafka; with `group` those of its repairs too.
    fn pattern(&self, config: &KafkaConfig, group: Option<&str>) -> String {
        let mdts = match &self.mdts {
            MdtSelection::All => "[A-Za-z0-9_-]+-MDT[0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f]".to_owned(),
            MdtSelection::List(l) => {
                format!("({})", l.iter().map(MdtName::as_str).map(escape).collect::<Vec<_>>().join("|"))
            }
        };
        let feed = self.feed.as_deref().map(|f| format!("\\.{}", escape(f))).unwrap_or_default();
        let repair = group.map(|g| format!("(\\.repair\\.{})?", escape(g))).unwrap_or_default();
        format!("^{}\\.{mdts}{feed}{repair}$", escape(&config.topic_prefix))
    }

    /// Whether a topic is among them.
    fn takes(&self, config: &KafkaConfig, topic: &str) -> bool {
        let rest = topic.strip_prefix(&config.topic_prefix).and_then(|r| r.strip_prefix('.'));
        let Some(rest) = rest else { return false };
        let (mdt, feed) = rest.split_once('.').map_or((rest, None), |(m, f)| (m, Some(f)));
        feed == self.feed.as_deref() && mdt.parse::<MdtName>().is_ok_and(|m| self.mdts.takes(&m))
    }
}

fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| (!c.is_ascii_alphanumeric() && c != '_' && c != '-').then_some('\\').into_iter().chain([c]))
        .collect()
}

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

impl ClientContext for Context {}

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
pub(super) struct Member {
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
    pub(super) fn new(config: &KafkaConfig, group: &str, what: &Subscription) -> Result<Self, SinkError> {
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
        let pattern = what.pattern(config, Some(group));
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
                    let record = consumed(&m);
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

/// A reader that belongs to no group.
pub(super) struct Ephemeral {
    inner: Arc<Mutex<EphemeralInner>>,
}

struct EphemeralInner {
    config: KafkaConfig,
    what: Subscription,
    consumer: BaseConsumer,
    assigned: BTreeMap<String, usize>,
    looked: Option<Instant>,
}

impl Ephemeral {
    pub(super) fn new(config: &KafkaConfig, what: &Subscription, uncommitted: bool) -> Result<Self, SinkError> {
        let mut c = config.reader(!uncommitted)?;
        // What lies before a partition's start is not for this reader, so it may begin wherever there is something.
        c.set("enable.partition.eof", "false").set("auto.offset.reset", "earliest");
        let mut inner = EphemeralInner {
            config: config.clone(),
            what: what.clone(),
            consumer: c.create().map_err(|e| client_error(config, &e))?,
            assigned: BTreeMap::new(),
            looked: None,
        };
        inner.look()?;
        Ok(Self { inner: Arc::new(Mutex::new(inner)) })
    }
}

impl EphemeralInner {
    /// Takes what is there from its end on, and what has come since from its beginning.
    fn look(&mut self) -> Result<(), SinkError> {
        let what = "ephemeral reader";
        if self.looked.is_some_and(|l| l.elapsed() < Duration::from_secs(2)) {
            return Ok(());
        }
        let first = self.looked.replace(Instant::now()).is_none();
        let metadata = match self.consumer.fetch_metadata(None, self.config.request_timeout()) {
            Ok(m) => m,
            Err(e) if first => return Err(sort_kafka(what, e)),
            // The client goes on trying by itself; new topics are noticed afterwards.
            Err(_) => return Ok(()),
        };
        let mut places = Vec::new();
        for topic in metadata.topics().iter().filter(|t| self.what.takes(&self.config, t.name())) {
            let known = self.assigned.entry(topic.name().to_owned()).or_default();
            for p in *known..topic.partitions().len() {
                let from = if first {
                    let end = self
                        .consumer
                        .fetch_watermarks(topic.name(), p as i32, self.config.request_timeout())
                        .map_err(|e| sort_kafka(what, e))?
                        .1;
                    u64::try_from(end).unwrap_or(0)
                } else {
                    0
                };
                places.push(((topic.name().to_owned(), p as u32), from));
            }
            *known = topic.partitions().len().max(*known);
        }
        if !places.is_empty() {
            let list = positions(&places).map_err(|e| sort(what, &e))?;
            self.consumer.incremental_assign(&list).map_err(|e| sort_kafka(what, e))?;
        }
        Ok(())
    }

    fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let mut batch = Batch::default();
        let until = Instant::now() + wait;
        while batch.records.len() < max {
            self.look()?;
            let left =
                if batch.records.is_empty() { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match self.consumer.poll(left.min(Duration::from_millis(500))) {
                Some(Ok(m)) => batch.records.push(consumed(&m)),
                Some(Err(e)) => passing("ephemeral reader", e)?,
                None if !batch.records.is_empty() || left.is_zero() => break,
                None => {}
            }
        }
        Ok(batch)
    }
}

fn consumed(m: &BorrowedMessage<'_>) -> Consumed {
    Consumed {
        topic: m.topic().to_owned(),
        at: Position { partition: m.partition() as u32, offset: m.offset() as u64 },
        key: m.key().map(<[u8]>::to_vec),
        payload: m.payload().unwrap_or_default().to_vec(),
    }
}

/// Lets pass what librdkafka mends by itself.
fn passing(what: &str, e: KafkaError) -> Result<(), SinkError> {
    match e {
        KafkaError::MessageConsumption(
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress,
        ) => {
            tracing::debug!(what, error = %e, "passing client error");
            Ok(())
        }
        e => Err(sort_kafka(what, e)),
    }
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

/// Runs `f` where blocking is allowed.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => Err(SinkError::Unavailable {
                what: "consumer".to_owned(),
                why: format!("the runtime is shutting down: {e}"),
            }),
        },
    }
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

#[async_trait]
impl Consumer for Ephemeral {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.lock().unwrap_or_else(PoisonError::into_inner).next(max, wait)).await
    }

    async fn done(&mut self, _: &Batch) -> Result<(), SinkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_subscription_takes_its_mdts_and_its_feed_only() {
        let config = KafkaConfig::default();
        let all = Subscription::default();
        assert!(all.takes(&config, "lustre.my-fs-MDT0003"));
        for other in ["lustre.my-fs-MDT0003.slow", "lustre.my-fs-MDT0003.repair.g", "lustre.x", "other.my-fs-MDT0003"] {
            assert!(!all.takes(&config, other), "{other}");
        }
        let one = Subscription {
            mdts: MdtSelection::List(vec!["a-MDT0000".parse().unwrap()]),
            feed: Some("slow".to_owned()),
        };
        assert!(one.takes(&config, "lustre.a-MDT0000.slow"));
        assert!(!one.takes(&config, "lustre.a-MDT0001.slow"));
        assert_eq!(one.pattern(&config, Some("g.1")), "^lustre\\.(a-MDT0000)\\.slow(\\.repair\\.g\\.1)?$");
    }
}
