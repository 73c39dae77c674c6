//! Streams: made as they must be, or checked and refused. Nothing here changes a setting of a stream that exists.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, PurgeResponse, RetentionPolicy, StorageType};
use serde_json::json;

use super::Shared;
use super::ask::{Which, bucket_stream};
use super::link::Link;
use crate::error::SinkError;
use crate::state::State;
use crate::topic::{Topic, TopicIx, TopicSpec};

/// What the server and the headers add to a payload, generously.
const MESSAGE_OVERHEAD: usize = 1024;
/// The shortest memory that the server can be told to have of message ids: they chain messages here, and are not for
/// finding duplicates.
const ID_MEMORY: Duration = Duration::from_millis(100);
/// The most partitions.
const MOST_PARTITIONS: u32 = 256;
/// Groups and ephemeral readers of one stream.
const MOST_CONSUMERS: i32 = 10_000;
/// Messages about one group that are kept of what the server said. The first ones are the ones that count.
const MOST_ADVISORIES: i64 = 1_000;

impl Shared {
    pub(super) async fn prepare(&self, want: &[TopicSpec], pinned: Option<&State>) -> Result<Vec<Topic>, SinkError> {
        let link = self.link().await?;
        let mut topics = Vec::with_capacity(want.len());
        for (i, spec) in want.iter().enumerate() {
            let name = self.config.stream_name(&spec.mdt, spec.feed.as_deref());
            let pin = pinned.and_then(|s| s.topics.get(spec.feed.as_deref().unwrap_or_default()));
            self.check_size(&link, spec.max_message_bytes)?;
            let (info, created) = match link.stream(&name).await? {
                Some(info) => (info, false),
                None if pin.is_some_and(|p| p.name == name) => {
                    return Err(SinkError::Mismatch {
                        what: format!("stream {name}"),
                        why: "was deleted".to_owned(),
                        hint: format!("`clbridge reset {}` publishes what the MDT still has into a new one", spec.mdt),
                    });
                }
                None => {
                    let partitions = self.partitions(spec)?;
                    let root = self.config.subject_root(&spec.mdt, spec.feed.as_deref());
                    link.create_stream(&self.record_stream(&name, &root, partitions)).await?
                }
            };
            let found = Topic {
                ix: TopicIx(i as u16),
                name: name.clone(),
                feed: spec.feed.clone(),
                mdt: spec.mdt.clone(),
                id: id_of(&info),
                partitions: 0,
                created,
                replicas: info.config.num_replicas as u32,
            };
            if let Some(pin) = pin {
                let differs = |setting: &str, was: &str, is: &str, hint: String| {
                    let why = format!("its {setting} was {was} and is {is}");
                    Err(SinkError::Mismatch { what: format!("stream {name}"), why, hint })
                };
                if pin.name != name {
                    let hint = "set nats.prefix back, or `clbridge reset`".to_owned();
                    return differs("name", &pin.name, &name, hint);
                }
                if pin.id != found.id {
                    let hint = format!("it was deleted and created again: `clbridge reset {}`", spec.mdt);
                    return differs("id (when it was created)", &pin.id, &found.id, hint);
                }
            }
            self.check_stream(&found, &info)?;
            let there = self.partitions_of(&found, &info)?;
            // Partitions that somebody added stay empty: with them a key's records would move, and lose their order.
            let partitions = pin.map_or(there, |p| p.partitions);
            if partitions > there {
                return Err(SinkError::Mismatch {
                    what: format!("stream {name}"),
                    why: format!("has subjects of {there} partitions where there were {partitions}"),
                    hint: "give it the subjects back that were taken away".to_owned(),
                });
            }
            if partitions < there {
                tracing::warn!(
                    "stream {name} has {there} partitions now; clbridge goes on with the first {partitions}, by which keys are spread"
                );
            }
            let advisories = self.capture(&name);
            if link.stream(&advisories.name).await?.is_none() {
                link.create_stream(&advisories).await?;
            }
            topics.push(Topic { partitions, ..found });
        }
        for bucket in [self.config.state_bucket(), self.config.group_bucket()] {
            self.make_bucket(&link, &bucket).await?;
        }
        Ok(topics)
    }

    fn partitions(&self, spec: &TopicSpec) -> Result<u32, SinkError> {
        if spec.partitions > MOST_PARTITIONS {
            return Err(SinkError::Mismatch {
                what: format!("feed {} of {}", spec.feed.as_deref().unwrap_or("(default)"), spec.mdt),
                why: format!("asks for {} partitions, each of which is a subject of its stream", spec.partitions),
                hint: format!("set its `partitions` to at most {MOST_PARTITIONS}"),
            });
        }
        Ok(spec.partitions.max(1))
    }

    fn check_size(&self, link: &Link, most: usize) -> Result<(), SinkError> {
        let limit = link.client.max_payload();
        if most + MESSAGE_OVERHEAD <= limit {
            return Ok(());
        }
        Err(SinkError::Mismatch {
            what: format!("NATS server at {}", self.config.place()),
            why: format!("takes messages of {limit} bytes, too little for records of {most}"),
            hint: format!("set max_payload to at least {} in its configuration", most + MESSAGE_OVERHEAD),
        })
    }

    /// Makes a bucket if it is not there.
    pub(super) async fn make_bucket(&self, link: &Link, bucket: &str) -> Result<(), SinkError> {
        let name = bucket_stream(bucket);
        if let Some(info) = link.stream(&name).await? {
            return if info.config.max_age.is_zero() && info.config.max_messages <= 0 {
                Ok(())
            } else {
                Err(mismatch(&name, "max_age or max_msgs", "set", "none", &name))
            };
        }
        let config = Config {
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages_per_subject: 1,
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..self.any_stream(name)
        };
        link.create_stream(&config).await.map(|_| ())
    }

    fn any_stream(&self, name: String) -> Config {
        Config {
            name,
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            max_bytes: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_message_size: -1,
            max_consumers: -1,
            num_replicas: self.config.replicas as usize,
            ..Config::default()
        }
    }

    fn record_stream(&self, name: &str, root: &str, partitions: u32) -> Config {
        Config {
            subjects: (0..partitions).map(|p| format!("{root}.{p}.*")).collect(),
            max_bytes: if self.config.max_bytes == 0 { -1 } else { self.config.max_bytes as i64 },
            discard: DiscardPolicy::New,
            deny_delete: true,
            allow_direct: true,
            duplicate_window: ID_MEMORY,
            max_consumers: MOST_CONSUMERS,
            ..self.any_stream(name.to_owned())
        }
    }

    /// The stream that keeps what the server says of a record stream and its consumers, also while no bridge runs.
    pub(super) fn capture(&self, stream: &str) -> Config {
        const ADVISORY: &str = "$JS.EVENT.ADVISORY";
        Config {
            subjects: vec![
                format!("{ADVISORY}.CONSUMER.MSG_TERMINATED.{stream}.>"),
                format!("{ADVISORY}.CONSUMER.MAX_DELIVERIES.{stream}.>"),
                format!("{ADVISORY}.CONSUMER.DELETED.{stream}.>"),
            ],
            max_messages_per_subject: MOST_ADVISORIES,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            deny_delete: true,
            ..self.any_stream(self.config.advisory_stream(stream))
        }
    }

    /// The repair stream of a group: one partition, kept like the topic that it repairs.
    pub(super) async fn make_repair_stream(&self, link: &Link, topic: &Topic, group: &str) -> Result<Topic, SinkError> {
        let name = self.config.repair_name(topic, group);
        let mut repair = Topic { name, partitions: 1, created: false, ..topic.clone() };
        let (info, created) = match link.stream(&repair.name).await? {
            Some(info) => (info, false),
            None => {
                let root = self.config.topic_root(&repair);
                link.create_stream(&self.record_stream(&repair.name, &root, 1)).await?
            }
        };
        repair.id = id_of(&info);
        repair.created = created;
        let advisories = self.capture(&repair.name);
        if link.stream(&advisories.name).await?.is_none() {
            link.create_stream(&advisories).await?;
        }
        self.check_stream(&repair, &info)?;
        Ok(repair)
    }

    /// Whether a stream still is what makes a group's floor believable and loses nothing by itself.
    pub(super) fn check_stream(&self, topic: &Topic, info: &Info) -> Result<(), SinkError> {
        let c = &info.config;
        let checks: [(&str, bool, String, &str); 15] = [
            ("retention", c.retention == RetentionPolicy::Limits, format!("{:?}", c.retention), "limits"),
            ("max_age", c.max_age.is_zero(), format!("{:?}", c.max_age), "0"),
            ("max_msgs", c.max_messages <= 0, c.max_messages.to_string(), "-1"),
            ("max_msgs_per_subject", c.max_messages_per_subject <= 0, c.max_messages_per_subject.to_string(), "-1"),
            ("discard", c.discard == DiscardPolicy::New, format!("{:?}", c.discard), "new"),
            ("deny_delete", c.deny_delete, c.deny_delete.to_string(), "true"),
            ("deny_purge", !c.deny_purge, c.deny_purge.to_string(), "false"),
            ("allow_rollup_hdrs", !c.allow_rollup, c.allow_rollup.to_string(), "false"),
            ("allow_msg_ttl", !c.allow_message_ttl, c.allow_message_ttl.to_string(), "false"),
            ("no_ack", !c.no_ack, c.no_ack.to_string(), "false"),
            ("sealed", !c.sealed, c.sealed.to_string(), "false"),
            ("mirror", c.mirror.is_none(), "set".to_owned(), "none"),
            ("sources", c.sources.as_ref().is_none_or(Vec::is_empty), "set".to_owned(), "none"),
            ("subject_transform", c.subject_transform.is_none(), "set".to_owned(), "none"),
            ("storage", c.storage == StorageType::File, format!("{:?}", c.storage), "file"),
        ];
        for (setting, right, is, need) in checks {
            if !right {
                return Err(mismatch(&topic.name, setting, &is, need, &topic.name));
            }
        }
        Ok(())
    }

    /// The number of partitions, told by the stream's subjects.
    pub(super) fn partitions_of(&self, topic: &Topic, info: &Info) -> Result<u32, SinkError> {
        let root = self.config.topic_root(topic);
        let number = |s: &String| s.strip_prefix(&root)?.strip_prefix('.')?.strip_suffix(".*")?.parse::<u32>().ok();
        let mut numbers: Vec<u32> = info.config.subjects.iter().filter_map(number).collect();
        numbers.sort_unstable();
        let whole = numbers.iter().zip(0..).all(|(n, i)| *n == i) && numbers.len() == info.config.subjects.len();
        if whole && !numbers.is_empty() {
            return Ok(numbers.len() as u32);
        }
        let is = info.config.subjects.join(", ");
        Err(mismatch(&topic.name, "subjects", &is, &format!("{root}.0.*, {root}.1.* and so on"), &topic.name))
    }

    /// Trims at the beginning, where every partition allows it; the last message stays.
    pub(super) async fn trim(&self, topic: &Topic, below: &[u64], keep: Duration) -> Result<Vec<u64>, SinkError> {
        let link = self.link().await?;
        let Some(info) = link.stream(&topic.name).await? else {
            return Err(mismatch(&topic.name, "existence", "gone", "there", &topic.name));
        };
        let low = low_of(&info);
        let limit = below.iter().copied().min().unwrap_or(0).min(info.state.last_sequence);
        let limit = if keep.is_zero() || limit <= low { limit } else { older(&link, topic, low, limit, keep).await? };
        if limit <= low {
            return Ok(vec![low; topic.partitions as usize]);
        }
        let what = || format!("trimming {}", topic.name);
        let purged: PurgeResponse =
            link.must(&what, &format!("STREAM.PURGE.{}", topic.name), &json!({ "seq": limit })).await?;
        tracing::debug!(stream = topic.name, below = limit, purged = purged.purged, "trimmed");
        Ok(vec![limit; topic.partitions as usize])
    }
}

/// The first of the messages `low..limit` that is not older than `keep`, or `limit`. Times rise with sequences.
async fn older(link: &Link, topic: &Topic, low: u64, limit: u64, keep: Duration) -> Result<u64, SinkError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = now.saturating_sub(keep).as_nanos() as i128;
    let (mut from, mut to) = (low, limit);
    while from < to {
        let middle = from + (to - from) / 2;
        match link.message(&topic.name, &Which::At(middle)).await? {
            Some(m) if m.time.unix_timestamp_nanos() >= since => to = middle,
            _ => from = middle + 1,
        }
    }
    Ok(from)
}

/// The identity of a stream's life: when it was created.
pub(super) fn id_of(info: &Info) -> String {
    time_text(info.created)
}

pub(super) fn time_text(time: async_nats::datetime::DateTime) -> String {
    time.unix_timestamp_nanos().to_string()
}

/// The first sequence that is there, or that will be.
pub(super) fn low_of(info: &Info) -> u64 {
    info.state.first_sequence.max(1)
}

/// The sequence behind the last one.
pub(super) fn end_of(info: &Info) -> u64 {
    info.state.last_sequence + 1
}

fn mismatch(what: &str, setting: &str, is: &str, need: &str, stream: &str) -> SinkError {
    SinkError::Mismatch {
        what: format!("stream {what}"),
        why: format!("its {setting} is {is} and must be {need}"),
        hint: format!("`nats stream edit {stream}` sets it back"),
    }
}
