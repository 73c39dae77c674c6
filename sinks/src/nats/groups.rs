//! A group is a durable pull consumer, or, where one object's records go to one member at a time, one a partition. It is
//! made before anything is published that it must see, and what it was then is kept to compare with.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info, PriorityPolicy};
use async_nats::jetstream::stream;
use serde_json::json;

use super::Shared;
use super::floor::{Baseline, Observed, fault};
use super::link::{Link, What};
use super::names::check_group;
use super::topology::{end_of, id_of, low_of};
use crate::error::SinkError;
use crate::registry::StartAt;
use crate::topic::Topic;
use crate::traits::Offsets;

/// Name of a consumer's metadata that says whose it is.
const GROUP: &str = "clbridge-group";
/// Members of an ordered group pull in this priority group.
pub(super) const PINNED: &str = "members";

/// One consumer of a group.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    /// Its partition, where a group has one consumer for each.
    pub(super) partition: Option<u32>,
}

impl Shared {
    /// The consumers of a group.
    pub(super) fn consumers_of(&self, group: &str, partitions: u32) -> Vec<Wanted> {
        if self.config.is_ordered(group) {
            let one = |p| Wanted { name: format!("{group}-{p}"), partition: Some(p) };
            return (0..partitions).map(one).collect();
        }
        vec![Wanted { name: group.to_owned(), partition: None }]
    }

    pub(super) async fn register(&self, group: &str, topic: &Topic, from: StartAt) -> Result<Offsets, SinkError> {
        check_group(group)?;
        let link = self.link().await?;
        let mut floor = u64::MAX;
        for wanted in self.consumers_of(group, topic.partitions) {
            floor = floor.min(self.register_one(&link, group, topic, &wanted, from).await?);
        }
        Ok(vec![Some(floor + 1); topic.partitions as usize])
    }

    /// Makes a consumer, or takes the one that is there as it is; returns its floor.
    async fn register_one(
        &self,
        link: &Link,
        group: &str,
        topic: &Topic,
        wanted: &Wanted,
        from: StartAt,
    ) -> Result<u64, SinkError> {
        let stream = self.stream_of(link, topic).await?;
        let (was, revision) = self.baseline(link, &topic.name, &wanted.name).await?;
        if let Some(info) = link.consumer(&topic.name, &wanted.name).await? {
            let advisories = self.advisories(link, &topic.name).await?;
            let observed = observe(link, &info, &stream, advisories);
            if let Some(was) = &was
                && observed.doubt(was).is_none()
                && !observed.evicted(was)
                && self.said(link, &topic.name, &wanted.name, was.advisory).await?.is_none()
            {
                return Ok(observed.now.floor.max(was.base));
            }
            return self.adopt(link, topic, wanted, info, revision).await;
        }
        let start = match from {
            StartAt::Oldest => low_of(&stream),
            StartAt::Newest => end_of(&stream),
        };
        let config = self.consumer_config(link, group, topic, wanted, start)?;
        let what = || format!("creating consumer {} of {}", wanted.name, topic.name);
        let body = json!({ "stream_name": topic.name, "config": config });
        let made: Info = link.must(&what, &format!("CONSUMER.CREATE.{}.{}", topic.name, wanted.name), &body).await?;
        self.adopt(link, topic, wanted, made, revision).await
    }

    /// Puts right what can be put right of a consumer's configuration, and takes it as it is from now on.
    async fn adopt(
        &self,
        link: &Link,
        topic: &Topic,
        wanted: &Wanted,
        mut info: Info,
        revision: u64,
    ) -> Result<u64, SinkError> {
        let what = || format!("consumer {} of {}", wanted.name, topic.name);
        if fault(&info.config).is_some() {
            let right = Config {
                max_deliver: -1,
                backoff: Vec::new(),
                inactive_threshold: Duration::ZERO,
                ..info.config.clone()
            };
            if let Some(why) = fault(&right) {
                return Err(SinkError::Mismatch {
                    what: what(),
                    why,
                    hint: "delete it; it is then made as it must be".into(),
                });
            }
            let body = json!({ "stream_name": topic.name, "config": right });
            info = link.must(&what, &format!("CONSUMER.CREATE.{}.{}", topic.name, wanted.name), &body).await?;
        }
        self.check_marks(topic, &info, &what)?;
        let stream = self.stream_of(link, topic).await?;
        let advisories = self.kept_advisories(link, &topic.name).await?;
        let observed = observe(link, &info, &stream, advisories);
        self.keep(link, &topic.name, &wanted.name, &observed.now, Some(revision)).await?;
        Ok(observed.now.floor)
    }

    /// A filter that leaves out retractions would hide from its group what is void.
    fn check_marks(&self, topic: &Topic, info: &Info, what: What<'_>) -> Result<(), SinkError> {
        let root = self.config.topic_root(topic);
        let filters =
            || info.config.filter_subjects.iter().chain(Some(&info.config.filter_subject)).filter(|f| !f.is_empty());
        let of = |f: &str, end: &str| f.strip_prefix(&root).is_some_and(|rest| rest.ends_with(end) || rest == ".>");
        if filters().next().is_none() || filters().any(|f| of(f, ".MARK") || of(f, ".*")) {
            return Ok(());
        }
        Err(SinkError::Mismatch {
            what: what(),
            why: "its filters leave out MARK, by which retractions are told".to_owned(),
            hint: format!("add {root}.*.MARK to its filter_subjects"),
        })
    }

    fn consumer_config(
        &self,
        link: &Link,
        group: &str,
        topic: &Topic,
        wanted: &Wanted,
        start: u64,
    ) -> Result<Config, SinkError> {
        let root = self.config.topic_root(topic);
        let at = wanted.partition.map_or("*".to_owned(), |p| p.to_string());
        let filters: Vec<String> = match (self.config.types_of(group)?, wanted.partition) {
            (Some(types), _) => types.iter().map(|t| format!("{root}.{at}.{t}")).collect(),
            (None, Some(_)) => vec![format!("{root}.{at}.*")],
            (None, None) => Vec::new(),
        };
        let needs = |minor: u64, what: &str| SinkError::Mismatch {
            what: format!("group {group}"),
            why: format!("{what} needs a NATS server 2.{minor}, this one has {}", link.version()),
            hint: "use a newer server, or take the group out of that setting".to_owned(),
        };
        if wanted.partition.is_some() && !link.has(2, 11) {
            return Err(needs(11, "order by object (nats.ordered_groups)"));
        }
        if filters.len() > 1 && !link.has(2, 10) {
            return Err(needs(10, "types filtered by the server (nats.group_types)"));
        }
        let mut config = Config {
            durable_name: Some(wanted.name.clone()),
            name: Some(wanted.name.clone()),
            deliver_policy: if start <= 1 {
                DeliverPolicy::All
            } else {
                DeliverPolicy::ByStartSequence { start_sequence: start }
            },
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.config.ack_wait(),
            max_deliver: -1,
            max_ack_pending: i64::from(self.config.max_ack_pending),
            ..Config::default()
        };
        match filters.as_slice() {
            [one] => config.filter_subject = one.clone(),
            _ => config.filter_subjects = filters,
        }
        if link.has(2, 10) {
            config.metadata = HashMap::from([(GROUP.to_owned(), group.to_owned())]);
        }
        if wanted.partition.is_some() {
            config.priority_policy = PriorityPolicy::PinnedClient;
            config.priority_groups = vec![PINNED.to_owned()];
            // What a dead member held is delivered again before another one is served, else it would come too late.
            config.priority_timeout = self.config.ack_wait() * 2;
        }
        Ok(config)
    }

    async fn stream_of(&self, link: &Link, topic: &Topic) -> Result<stream::Info, SinkError> {
        link.stream(&topic.name).await?.ok_or_else(|| SinkError::Mismatch {
            what: format!("stream {}", topic.name),
            why: "was deleted".to_owned(),
            hint: format!("`clbridge reset {}`", topic.mdt),
        })
    }

    /// What the server says is kept from here on, if it was not.
    async fn kept_advisories(&self, link: &Link, stream: &str) -> Result<(String, u64), SinkError> {
        let kept = self.advisories(link, stream).await?;
        if !kept.0.is_empty() {
            return Ok(kept);
        }
        link.create_stream(&self.capture(stream)).await?;
        self.advisories(link, stream).await
    }

    /// What a consumer was when it was last believed, and the revision of that.
    pub(super) async fn baseline(
        &self,
        link: &Link,
        stream: &str,
        consumer: &str,
    ) -> Result<(Option<Baseline>, u64), SinkError> {
        let (value, revision) = link.value(&self.config.group_bucket(), &format!("{stream}.{consumer}")).await?;
        Ok((value.and_then(|v| serde_json::from_slice(&v).ok()), revision))
    }

    /// Keeps it; with `revision` only if nobody wrote behind that one, which then is at least as new. Returns the new
    /// revision.
    pub(super) async fn keep(
        &self,
        link: &Link,
        stream: &str,
        consumer: &str,
        baseline: &Baseline,
        revision: Option<u64>,
    ) -> Result<Option<u64>, SinkError> {
        let bytes = serde_json::to_vec(baseline).unwrap_or_default();
        link.put(&self.config.group_bucket(), &format!("{stream}.{consumer}"), bytes, revision).await
    }

    /// JetStream moves a group by itself; that it was moved is settled from here on.
    pub(super) async fn skip_deleted(&self, group: &str, topic: &Topic) -> Result<bool, SinkError> {
        let link = self.link().await?;
        for wanted in self.consumers_of(group, topic.partitions) {
            let Some(info) = link.consumer(&topic.name, &wanted.name).await? else { continue };
            let (was, revision) = self.baseline(&link, &topic.name, &wanted.name).await?;
            let stream = self.stream_of(&link, topic).await?;
            let advisories = self.advisories(&link, &topic.name).await?;
            let observed = observe(&link, &info, &stream, advisories);
            if was.as_ref().is_some_and(|was| observed.below_start(was)) {
                self.adopt(&link, topic, &wanted, info, revision).await?;
            }
        }
        Ok(true)
    }
}

/// A consumer with its stream as they are now.
pub(super) fn observe(link: &Link, info: &Info, stream: &stream::Info, advisories: (String, u64)) -> Observed {
    let server = link.client.server_info().server_id;
    let deleted = stream.state.deleted_count.unwrap_or(0);
    Observed::new(info, (id_of(stream), low_of(stream), deleted), advisories, &server)
}

/// The group that a consumer belongs to.
pub(super) fn group_of(info: &Info) -> String {
    info.config.metadata.get(GROUP).unwrap_or(&info.name).clone()
}
