//! Topics: made as they must be, or checked and refused. Nothing here changes a setting or widens a topic that exists.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::TopicPartitionList;
use rdkafka::admin::{NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;

use super::native::{Described, Where, positions};
use super::{Shared, sort, sort_kafka};
use crate::error::SinkError;
use crate::state::{STATE_MAX_BYTES, State};
use crate::topic::{Topic, TopicIx, TopicSpec};

/// What librdkafka and the broker add to a batch of `batch_bytes`, generously.
const BATCH_OVERHEAD: usize = 64 * 1024;

/// One setting that a topic must have.
enum Must {
    /// Exactly this.
    Be(&'static str, &'static str),
    /// At least this.
    Reach(&'static str, u64),
}

impl Shared {
    pub(super) fn prepare(&self, want: &[TopicSpec], pinned: Option<&State>) -> Result<Vec<Topic>, SinkError> {
        let mut topics = Vec::with_capacity(want.len());
        for (i, spec) in want.iter().enumerate() {
            let name = self.config.topic_name(spec.mdt.as_str(), spec.feed.as_deref());
            let pin = pinned.and_then(|s| s.topics.get(spec.feed.as_deref().unwrap_or_default()));
            let limit = self.config.max_message_bytes().max(spec.max_message_bytes + 1024);
            if spec.max_message_bytes + 1024 > self.config.max_message_bytes() {
                return Err(SinkError::Mismatch {
                    what: "setting kafka.batch_bytes".to_owned(),
                    why: format!(
                        "is {}, too little for records of {} bytes",
                        self.config.batch_bytes, spec.max_message_bytes
                    ),
                    hint: format!("set it to at least {limit}"),
                });
            }
            let (found, created) = match self.describe(&name)? {
                Some(found) => (found, false),
                None if pin.is_some_and(|p| p.name == name) => {
                    return Err(SinkError::Mismatch {
                        what: format!("topic {name}"),
                        why: "was deleted".to_owned(),
                        hint: format!("`clbridge reset {}` publishes what the MDT still has into a new one", spec.mdt),
                    });
                }
                None => {
                    let size = (limit + BATCH_OVERHEAD).to_string();
                    let settings = [
                        ("cleanup.policy", "delete"),
                        ("retention.ms", "-1"),
                        ("retention.bytes", "-1"),
                        ("max.message.bytes", size.as_str()),
                    ];
                    self.create(&name, spec.partitions.max(1), &settings)?
                }
            };
            if let Some(pin) = pin {
                let differs = |setting: &str, was: &str, is: &str, hint: String| {
                    Err(SinkError::Mismatch {
                        what: format!("topic {name}"),
                        why: format!("its {setting} was {was} and is {is}"),
                        hint,
                    })
                };
                let mdt = &spec.mdt;
                if pin.name != name {
                    let hint = "set kafka.topic_prefix back, or `clbridge reset`".to_owned();
                    return differs("name", &pin.name, &name, hint);
                }
                if pin.id != found.id {
                    let hint = format!("it was deleted and created again: `clbridge reset {mdt}`");
                    return differs("id", &pin.id, &found.id, hint);
                }
            }
            if !created {
                let mut must = vec![
                    Must::Be("cleanup.policy", "delete"),
                    Must::Be("retention.ms", "-1"),
                    Must::Be("retention.bytes", "-1"),
                    Must::Reach("max.message.bytes", limit as u64),
                ];
                must.extend(self.config.min_insync.map(|n| Must::Reach("min.insync.replicas", u64::from(n))));
                self.check_settings(&name, &must)?;
            }
            // Partitions that somebody added stay empty: with them a key's records would move, and lose their order.
            let partitions = pin.map_or(found.partitions, |p| p.partitions);
            if partitions < found.partitions {
                tracing::warn!(
                    "topic {name} has {} partitions now; clbridge goes on with the first {partitions}, by which keys are spread: \
                     for more of them see docs/brokers/kafka.md",
                    found.partitions
                );
            }
            topics.push(Topic {
                ix: TopicIx(i as u16),
                name,
                feed: spec.feed.clone(),
                mdt: spec.mdt.clone(),
                id: found.id,
                partitions,
                created,
                replicas: found.replicas,
            });
        }
        let mut mdts: Vec<_> = want.iter().map(|w| w.mdt.clone()).collect();
        mdts.dedup();
        for mdt in mdts {
            self.make_compacted(&self.config.state_topic(mdt.as_str()))?;
        }
        Ok(topics)
    }

    /// Makes or checks a topic of one partition in which the newest value of a key is what counts.
    pub(super) fn make_compacted(&self, name: &str) -> Result<(), SinkError> {
        let Some(found) = self.describe(name)? else {
            let settings = [
                ("cleanup.policy", "compact"),
                // Only closed segments are compacted, and a start reads from the last one.
                ("segment.bytes", "4194304"),
                ("min.cleanable.dirty.ratio", "0.1"),
            ];
            return self.create(name, 1, &settings).map(|_| ());
        };
        if found.partitions != 1 && !self.config.mock {
            return Err(SinkError::Mismatch {
                what: format!("topic {name}"),
                why: format!("has {} partitions, where 1 is needed", found.partitions),
                hint: "delete it if nothing in it is needed; it is then made anew".to_owned(),
            });
        }
        let must =
            [Must::Be("cleanup.policy", "compact"), Must::Reach("max.message.bytes", 2 * STATE_MAX_BYTES as u64)];
        self.check_settings(name, &must)
    }

    /// The repair topic of a group: one partition, kept like the topic that it repairs.
    pub(super) fn make_repair_topic(&self, topic: &Topic, group: &str) -> Result<Topic, SinkError> {
        let name = format!("{}.repair.{group}", topic.name);
        let (found, created) = match self.describe(&name)? {
            Some(found) => (found, false),
            None => {
                let size = (self.config.max_message_bytes() + BATCH_OVERHEAD).to_string();
                let settings =
                    [("retention.ms", "-1"), ("retention.bytes", "-1"), ("max.message.bytes", size.as_str())];
                self.create(&name, 1, &settings)?
            }
        };
        Ok(Topic {
            ix: topic.ix,
            name,
            feed: topic.feed.clone(),
            mdt: topic.mdt.clone(),
            id: found.id,
            partitions: found.partitions,
            created,
            replicas: found.replicas,
        })
    }

    /// What the cluster says of a topic; `None` if it does not exist.
    pub(super) fn describe(&self, name: &str) -> Result<Option<Described>, SinkError> {
        if self.config.mock {
            return self.describe_mock(name).map(Some);
        }
        let mut found = self.describe_all(std::slice::from_ref(&name.to_owned()))?;
        Ok(found.pop())
    }

    /// What the cluster says of topics; those that do not exist are left out.
    pub(super) fn describe_all(&self, names: &[String]) -> Result<Vec<Described>, SinkError> {
        if self.config.mock {
            return names.iter().map(|n| self.describe_mock(n)).collect();
        }
        let found = self.ask(|| format!("describing topics {}", names.join(", ")), |a| a.describe_topics(names))?;
        let mut there = Vec::with_capacity(found.len());
        for d in found {
            match &d.error {
                None => there.push(d),
                Some(e) if e.code == RDKafkaErrorCode::UnknownTopicOrPartition => {}
                Some(e) => return Err(sort(format!("describing topic {}", d.name), e)),
            }
        }
        Ok(there)
    }

    /// The mock cluster describes nothing, so its topics have no identity. A topic is there once it is asked for.
    fn describe_mock(&self, name: &str) -> Result<Described, SinkError> {
        let what = || format!("describing topic {name}");
        let metadata = self
            .admin()
            .inner()
            .fetch_metadata(Some(name), self.config.request_timeout())
            .map_err(|e| sort_kafka(what(), e))?;
        let topic = metadata.topics().iter().find(|t| t.name() == name && t.error().is_none());
        let topic = topic.ok_or_else(|| SinkError::Mismatch {
            what: format!("topic {name}"),
            why: "does not exist on the mock cluster".to_owned(),
            hint: "the demo must make it first".to_owned(),
        })?;
        Ok(Described {
            name: name.to_owned(),
            id: String::new(),
            partitions: topic.partitions().len() as u32,
            replicas: 1,
            led: true,
            error: None,
        })
    }

    /// Creates a topic and waits until all its partitions have a leader.
    fn create(&self, name: &str, partitions: u32, settings: &[(&str, &str)]) -> Result<(Described, bool), SinkError> {
        let what = || format!("creating topic {name}");
        let replication = TopicReplication::Fixed(self.config.replication_factor.map_or(-1, |r| r as i32));
        let min_insync = self.config.min_insync.map(|n| n.to_string());
        let mut topic = NewTopic::new(name, partitions as i32, replication);
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        if let Some(n) = &min_insync {
            topic = topic.set("min.insync.replicas", n);
        }
        let answer = self.wait(&what(), async |admin, options| admin.create_topics([&topic], options).await)?;
        let mut created = true;
        for one in answer {
            match one {
                Ok(_) => {}
                // Another bridge was quicker; the caller checks what it made.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => created = false,
                Err((_, code)) => {
                    return Err(sort_kafka(what(), rdkafka::error::KafkaError::AdminOp(code)));
                }
            }
        }
        let began = Instant::now();
        loop {
            match self.describe(name)? {
                Some(d) if d.led => return Ok((d, created)),
                _ if began.elapsed() > self.config.request_timeout() => {
                    return Err(SinkError::Unavailable {
                        what: what(),
                        why: "its partitions have no leader yet".to_owned(),
                    });
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn check_settings(&self, name: &str, must: &[Must]) -> Result<(), SinkError> {
        if self.config.mock {
            return Ok(());
        }
        let what = format!("reading the settings of topic {name}");
        let asked = [ResourceSpecifier::Topic(name)];
        let mut answer = self.wait(&what, async |admin, options| admin.describe_configs(&asked, options).await)?;
        let settings = match answer.pop() {
            Some(Ok(r)) => r,
            Some(Err(code)) => {
                return Err(sort_kafka(what, rdkafka::error::KafkaError::AdminOp(code)));
            }
            None => {
                return Err(SinkError::Unavailable { what, why: "the broker gave none".to_owned() });
            }
        };
        for m in must {
            let (key, need, fits): (_, _, &dyn Fn(&str) -> bool) = match m {
                Must::Be(key, value) => (*key, (*value).to_owned(), &|v| v == *value),
                Must::Reach(key, least) => (*key, least.to_string(), &|v| v.parse().is_ok_and(|n: u64| n >= *least)),
            };
            let is = settings.get(key).and_then(|e| e.value.as_deref()).unwrap_or("unknown");
            if !fits(is) {
                let at_least = if matches!(m, Must::Reach(..)) { "at least " } else { "" };
                return Err(SinkError::Mismatch {
                    what: format!("topic {name}"),
                    why: format!("its {key} is {is} and must be {at_least}{need}"),
                    hint: format!(
                        "kafka-configs.sh --bootstrap-server {} --alter --topic {name} --add-config {key}={need}",
                        self.config.bootstrap_servers
                    ),
                });
            }
        }
        Ok(())
    }

    pub(super) fn trim(&self, topic: &Topic, below: &[u64], keep: Duration) -> Result<Vec<u64>, SinkError> {
        let lows = self.lows(topic)?;
        if self.config.mock {
            return Ok(lows);
        }
        let ends = self.offsets(&topic.name, topic.partitions, Where::Stable)?;
        let last = self.last_records(&topic.name, &lows, &ends, &mut |raw| Ok(raw.at.offset))?;
        let young = if keep.is_zero() {
            ends.clone()
        } else {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let since = now.saturating_sub(keep).as_millis() as i64;
            self.first_since(topic, since, &ends)?
        };
        let limits: Vec<((String, u32), u64)> = (0..lows.len())
            .filter_map(|p| {
                let limit = below.get(p).copied().unwrap_or(0).min(last[p]?).min(young[p]);
                (limit > lows[p]).then(|| ((topic.name.clone(), p as u32), limit))
            })
            .collect();
        if limits.is_empty() {
            return Ok(lows);
        }
        let what = format!("trimming {}", topic.name);
        let list: TopicPartitionList = positions(&limits).map_err(|e| sort(what.as_str(), &e))?;
        let answer = self.wait(&what, async |admin, options| admin.delete_records(&list, options).await)?;
        let mut lows = lows;
        for e in answer.elements() {
            e.error().map_err(|e| sort_kafka(what.as_str(), e))?;
            let partition = e.partition() as usize;
            if let (Some(low), Some(slot)) = (e.offset().to_raw(), lows.get_mut(partition)) {
                *slot = low as u64;
            }
        }
        Ok(lows)
    }

    /// The first offset of each partition whose record is not older than `since`, or its end.
    fn first_since(&self, topic: &Topic, since: i64, ends: &[u64]) -> Result<Vec<u64>, SinkError> {
        let what = || format!("asking for the offsets of {}", topic.name);
        let places: Vec<_> = (0..topic.partitions).map(|p| (topic.name.clone(), p)).collect();
        let found = self.ask(what, |a| a.list_offsets(&places, Where::Since(since)))?;
        // A partition that is missing in the answer keeps everything.
        let mut first = vec![0; ends.len()];
        for ((_, partition), offset) in found {
            let offset = offset.map_err(|e| sort(what(), &e))?;
            let p = partition as usize;
            if let (Some(slot), Some(end)) = (first.get_mut(p), ends.get(p)) {
                *slot = u64::try_from(offset).unwrap_or(*end);
            }
        }
        Ok(first)
    }
}
