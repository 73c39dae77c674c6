//! What groups have answered, and their first positions.
//!
//! The broker cannot tell what a group has finished: only answers that a confirmed State tells of count. Of an MDT that
//! this very process publishes, that State is known; of others the copy of State that anybody may read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use async_trait::async_trait;
use clbridge_schemas::ids::MdtName;
use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;

use super::answers::Answered;
use super::config::AmqpConfig;
use super::lease::{Envelope, JOIN, Join};
use super::life::lock;
use super::link::{close, short, sort};
use super::registry::{Directory, Member};
use super::standing::LONGEST;
use super::topology::{group_queues, new_life};
use super::{AmqpSink, Shared};
use crate::error::SinkError;
use crate::registry::{Registry, StartAt};
use crate::topic::Topic;
use crate::traits::{GroupInfo, GroupObserver, Offsets, Progress, TopicProgress};

/// RabbitMQ's pseudo queue for the reply to one request.
const REPLIES: &str = "amq.rabbitmq.reply-to";

impl Shared {
    async fn progress(&self, groups: &[String], topics: &[Topic]) -> Result<Progress, SinkError> {
        let mut progress = Progress::default();
        let until = Instant::now() + LONGEST;
        let mut directory: Option<Directory> = None;
        let mut envelopes: BTreeMap<&MdtName, Option<Envelope>> = BTreeMap::new();
        for topic in topics {
            let alive = lock(&self.lives).get(&topic.mdt).and_then(std::sync::Weak::upgrade);
            let lives = alive.is_some();
            let (id, fold, members) = match alive.and_then(|life| life.confirmed(&topic.name)) {
                Some(fold) => (topic.id.clone(), fold, BTreeMap::new()),
                None => {
                    let known = match &directory {
                        Some(known) => known,
                        None => directory.insert(self.directory().await?),
                    };
                    let Some(entry) = known.topics.get(&topic.name) else { continue };
                    if !self.exchange_exists(&self.config.exchange(topic.feed.as_deref())).await? {
                        continue;
                    }
                    let envelope = match envelopes.get(&topic.mdt) {
                        Some(read) => read,
                        None => envelopes.entry(&topic.mdt).or_insert(self.peek(&topic.mdt).await?),
                    };
                    let kept = envelope.as_ref().and_then(|e| e.topics.get(&topic.name));
                    (entry.id.clone(), kept.map(|k| k.fold.clone()).unwrap_or_default(), entry.groups.clone())
                }
            };
            let position = |group: &String| {
                let same = |g: &&Answered| members.get(group).is_none_or(|m: &Member| m.life <= g.life);
                let answered = fold.groups.get(group).filter(same).map(|g| fold.position(g.floor));
                answered.or_else(|| members.get(group).map(|m| m.first))
            };
            let end = groups.iter().filter_map(position).fold(fold.position(fold.known_end()), u64::max);
            let mut drained = BTreeSet::new();
            for group in groups.iter().filter(|g| lives && !self.config.kind_of(g).0) {
                let behind = fold.groups.get(group).filter(|g| g.floor < fold.known_end());
                if let Some(answered) = behind
                    && self.is_drained(&topic.name, group, answered, until).await
                {
                    drained.insert(group.clone());
                }
            }
            let groups = groups.iter().map(|g| (g.clone(), vec![position(g)])).collect();
            progress
                .topics
                .insert(topic.name.clone(), TopicProgress { low: vec![0], end: vec![end], id, groups, drained });
        }
        Ok(progress)
    }

    /// Every group that has queues, with the most members that any of its MDTs has.
    async fn list(&self) -> Result<Vec<GroupInfo>, SinkError> {
        let mut members: BTreeMap<String, usize> = BTreeMap::new();
        for (topic, entry) in self.directory().await?.topics {
            for (group, member) in entry.groups {
                let mut here = 0;
                for queue in group_queues(&topic, &group, member.shards) {
                    let consumers = self.look(&queue).await?.map_or(0, |(_, consumers)| consumers as usize);
                    here = here.max(consumers);
                }
                let most = members.entry(group).or_default();
                *most = here.max(*most);
            }
        }
        Ok(members.into_iter().map(|(name, members)| GroupInfo { name, members }).collect())
    }

    pub(super) async fn register(&self, group: &str, topic: &Topic, from: StartAt) -> Result<Offsets, SinkError> {
        let what = || format!("registering group {group} in {}", topic.name);
        let (held, mut directory) = self.open_directory().await?;
        let Some(entry) = directory.topics.get_mut(&topic.name) else {
            held.release().await;
            return Err(SinkError::Mismatch {
                what: what(),
                why: "the topic was deleted".to_owned(),
                hint: format!("`clbridge reset {}` publishes what the MDT still has into a new one", topic.mdt),
            });
        };
        let mut known = entry.groups.get(group).cloned();
        if let Some(member) = known.as_ref().filter(|m| m.removed)
            && !self.has_queues(&topic.name, group, member).await?
        {
            // It was removed, and its queue deleted: nothing of it is left, and it begins anew.
            known = None;
        }
        let (confirm, shards) = self.config.kind_of(group);
        let new = || Member { first: 0, confirm, shards, life: new_life(), removed: false };
        let mut member = known.clone().unwrap_or_else(new);
        let comes_back = std::mem::take(&mut member.removed);
        // Also of a group that is known: its queue may have been deleted, and it must be there from here on.
        self.make_group_queues(&topic.mdt, topic.feed.as_deref(), &topic.name, group, &member).await?;
        let request = Join { topic: topic.name.clone(), group: group.to_owned(), member: member.clone() };
        let told = self.ask_publisher(&topic.mdt, &request).await?;
        let first = match (told, &known) {
            (Some(first), _) => first,
            (None, known) => {
                // Nobody publishes: the next one begins behind what State tells, or takes back what lies behind it.
                let envelope = self.peek(&topic.mdt).await?;
                let fold = envelope.and_then(|mut e| e.topics.remove(&topic.name)).map(|kept| kept.fold);
                let fold = fold.unwrap_or_default();
                let answered = fold.groups.get(group).filter(|g| g.life >= member.life);
                let answered = answered.map(|g| fold.position(g.floor));
                answered.or(known.as_ref().map(|m| m.first)).unwrap_or_else(|| fold.position(fold.end))
            }
        };
        if known.is_some() {
            if comes_back {
                entry.groups.insert(group.to_owned(), member);
                self.close_directory(held, directory).await?;
            } else {
                held.release().await;
            }
            return Ok(vec![Some(first)]);
        }
        if from == StartAt::Oldest && first > 0 {
            tracing::warn!(
                group,
                topic = topic.name,
                "the group begins behind the newest record: nothing older can be read back from RabbitMQ"
            );
        }
        member.first = first;
        entry.groups.insert(group.to_owned(), member);
        self.close_directory(held, directory).await?;
        Ok(vec![Some(first)])
    }

    /// Tells whoever publishes an MDT that a group has its queue; its first position, or `None` if nobody does.
    async fn ask_publisher(&self, mdt: &MdtName, request: &Join) -> Result<Option<u64>, SinkError> {
        let what = || format!("asking whoever publishes {mdt} about group {}", request.group);
        let channel = self.confirming_channel().await?;
        let mut replies = self.consume(&channel, REPLIES, true).await?;
        let properties = BasicProperties::default().with_type(JOIN.into()).with_reply_to(REPLIES.into());
        let body = super::registry::written("control", request)?;
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, key) = (short(&self.config.own_prefix)?, short(&AmqpConfig::control_key(mdt))?);
        let confirm = async { channel.basic_publish(exchange, key, options, &body, properties).await?.await };
        if self.within(what, confirm).await?.take_message().is_some() {
            close(&channel).await;
            return Ok(None);
        }
        let reply = tokio::time::timeout(self.config.request_timeout(), replies.next()).await;
        let delivery = match reply {
            Ok(Some(Ok(delivery))) => delivery,
            Ok(Some(Err(e))) => return Err(sort(what(), &e)),
            Ok(None) | Err(_) => {
                return Err(SinkError::Unavailable { what: what(), why: "it does not answer".to_owned() });
            }
        };
        close(&channel).await;
        let first = std::str::from_utf8(&delivery.data).ok().and_then(|text| text.parse().ok());
        first
            .map(Some)
            .ok_or_else(|| SinkError::Unavailable { what: what(), why: "its answer is no position".to_owned() })
    }
}

#[async_trait]
impl GroupObserver for AmqpSink {
    async fn progress(&self, groups: &[String], topics: &[Topic]) -> Result<Progress, SinkError> {
        self.shared.progress(groups, topics).await
    }

    async fn list(&self) -> Result<Vec<GroupInfo>, SinkError> {
        self.shared.list().await
    }

    async fn register(&self, group: &str, topic: &Topic, from: StartAt) -> Result<Offsets, SinkError> {
        self.shared.register(group, topic, from).await
    }

    async fn skip_deleted(&self, _group: &str, _topic: &Topic) -> Result<bool, SinkError> {
        // A queue has no position that could lie below a start.
        Ok(true)
    }

    async fn registry(&self) -> Result<Registry, SinkError> {
        self.shared.registry().await
    }

    async fn change_registry(
        &self,
        change: &mut (dyn for<'r> FnMut(&'r mut Registry) + Send),
    ) -> Result<Registry, SinkError> {
        self.shared.change_registry(change).await
    }
}
