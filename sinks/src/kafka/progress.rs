//! What groups have done, and their first positions.
//!
//! The Admin API is asked for all groups at once; no group is ever joined. An offset that was never committed, one
//! that expired and one of a deleted group look the same: `None` here, and nobody may take it for more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::error::RDKafkaErrorCode;

use super::native::{Admin, Place, Producer, Where, positions};
use super::read::settled_leaders;
use super::{KafkaSink, Shared, sort};
use crate::error::SinkError;
use crate::registry::{Registry, StartAt};
use crate::topic::Topic;
use crate::traits::{GroupInfo, GroupObserver, Offsets, Progress, TopicProgress};

impl Shared {
    fn progress(&self, groups: &[String], topics: &[Topic]) -> Result<Progress, SinkError> {
        let places = |t: &Topic| (0..t.partitions).map(|p| (t.name.clone(), p)).collect::<Vec<Place>>();
        let all: Vec<Place> = topics.iter().flat_map(places).collect();
        // First the groups, then the ends: a position above the end is then truly beyond it.
        let committed = self.committed(groups, &all)?;
        let names: Vec<String> = topics.iter().map(|t| t.name.clone()).collect();
        let mut progress = Progress::default();
        if names.is_empty() {
            return Ok(progress);
        }
        let described = self.describe_all(&names)?;
        let there: Vec<Place> = described.iter().flat_map(|d| (0..d.partitions).map(|p| (d.name.clone(), p))).collect();
        for d in described {
            progress.topics.insert(
                d.name,
                TopicProgress {
                    low: vec![0; d.partitions as usize],
                    end: vec![0; d.partitions as usize],
                    id: d.id,
                    ..TopicProgress::default()
                },
            );
        }
        for (at, low) in [(Where::Low, true), (Where::End, false)] {
            let what = || format!("asking for the offsets of {}", names.join(", "));
            // While leaders move, partitions can be missing in the answer: an end that is not known is not 0, or every
            // position would seem to be beyond it.
            let mut unanswered: BTreeSet<Place> = there.iter().cloned().collect();
            for ((topic, partition), offset) in self.ask(what, |a| settled_leaders(a.list_offsets(&there, at)?))? {
                let offset = match offset {
                    Ok(o) => {
                        let Ok(o) = u64::try_from(o) else { continue };
                        unanswered.remove(&(topic.clone(), partition));
                        o
                    }
                    // Deleted since it was described: it no longer exists.
                    Err(e) if e.code == RDKafkaErrorCode::UnknownTopicOrPartition => {
                        unanswered.retain(|(name, _)| *name != topic);
                        progress.topics.remove(&topic);
                        continue;
                    }
                    Err(e) => return Err(sort(what(), &e)),
                };
                if let Some(t) = progress.topics.get_mut(&topic) {
                    let side = if low { &mut t.low } else { &mut t.end };
                    if let Some(slot) = side.get_mut(partition as usize) {
                        *slot = offset;
                    }
                }
            }
            if let Some((topic, partition)) =
                unanswered.into_iter().find(|(name, _)| progress.topics.contains_key(name))
            {
                return Err(SinkError::Unavailable {
                    what: what(),
                    why: format!("the broker gave no answer for partition {partition} of {topic}"),
                });
            }
        }
        for (group, positions) in committed {
            for topic in topics {
                if let Some(t) = progress.topics.get_mut(&topic.name) {
                    let own = (0..topic.partitions)
                        .map(|p| positions.get(&(topic.name.clone(), p)).copied())
                        .collect::<Offsets>();
                    t.groups.insert(group.clone(), own);
                }
            }
        }
        Ok(progress)
    }

    /// What each group has committed; a place without a position is left out.
    fn committed(
        &self,
        groups: &[String],
        places: &[Place],
    ) -> Result<BTreeMap<String, BTreeMap<Place, u64>>, SinkError> {
        let mut by_group: BTreeMap<String, BTreeMap<Place, u64>> = BTreeMap::new();
        if groups.is_empty() || places.is_empty() {
            return Ok(by_group);
        }
        let what = || format!("asking for the positions of groups {}", groups.join(", "));
        for (group, found) in self.ask(what, |a| a.group_offsets(groups, places))? {
            // A place that is left out is not known, which is not the same as a position that is not there.
            if let Some((topic, partition)) = places.iter().find(|p| !found.iter().any(|(there, _)| there == *p)) {
                return Err(SinkError::Unavailable {
                    what: what(),
                    why: format!("the broker gave no answer for partition {partition} of {topic} and group {group}"),
                });
            }
            let own = by_group.entry(group).or_default();
            for (place, offset) in found {
                match offset {
                    Ok(o) => own.extend(u64::try_from(o).ok().map(|o| (place, o))),
                    // A deleted topic's positions are gone with it.
                    Err(e) if e.code == RDKafkaErrorCode::UnknownTopicOrPartition => {}
                    Err(e) => return Err(sort(what(), &e)),
                }
            }
        }
        for group in groups {
            if !by_group.contains_key(group) {
                return Err(SinkError::Unavailable {
                    what: what(),
                    why: format!("the broker gave no answer for {group}"),
                });
            }
        }
        Ok(by_group)
    }

    fn own_positions(&self, group: &str, topic: &Topic) -> Result<Offsets, SinkError> {
        let places: Vec<Place> = (0..topic.partitions).map(|p| (topic.name.clone(), p)).collect();
        let found = self.committed(&[group.to_owned()], &places)?;
        let own = found.get(group);
        Ok(places.iter().map(|p| own.and_then(|o| o.get(p)).copied()).collect())
    }

    /// All positions of a group, once those that were committed through a transaction can be seen: its end reaches the
    /// group's coordinator a moment after the commit has returned.
    fn visible_positions(&self, group: &str, topic: &Topic, what: &dyn Fn() -> String) -> Result<Offsets, SinkError> {
        let began = Instant::now();
        loop {
            let own = self.own_positions(group, topic)?;
            if own.iter().all(Option::is_some) {
                return Ok(own);
            }
            if began.elapsed() > self.config.request_timeout() {
                return Err(SinkError::Unavailable {
                    what: what(),
                    why: "it was committed and is not seen".to_owned(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn members(&self, groups: &[String]) -> Result<Vec<GroupInfo>, SinkError> {
        if self.config.mock {
            return Ok(groups.iter().map(|name| GroupInfo { name: name.clone(), members: 0 }).collect());
        }
        let found = self.ask(|| "describing groups".to_owned(), |a| a.group_members(groups))?;
        Ok(found.into_iter().map(|(name, members)| GroupInfo { name, members }).collect())
    }

    fn list(&self) -> Result<Vec<GroupInfo>, SinkError> {
        if self.config.mock {
            return Ok(Vec::new());
        }
        let names = self.ask(|| "listing groups".to_owned(), Admin::list_groups)?;
        self.members(&names)
    }

    pub(super) fn register(&self, group: &str, topic: &Topic, from: StartAt) -> Result<Offsets, SinkError> {
        let what = || format!("writing the first position of group {group} in {}", topic.name);
        // Twice, since the first member may come, or the last one go, between the look and the writing.
        for _ in 0..2 {
            let before = self.own_positions(group, topic)?;
            if before.iter().all(Option::is_some) {
                return Ok(before);
            }
            let live = self.members(&[group.to_owned()])?.iter().any(|g| g.members > 0);
            let ends = self.ends(topic)?;
            let first = match from {
                StartAt::Newest => ends.clone(),
                StartAt::Oldest => self.lows(topic)?,
            };
            let wanted: Vec<(Place, u64)> = (0..before.len())
                .filter(|p| before[*p].is_none())
                .map(|p| ((topic.name.clone(), p as u32), first[p]))
                .collect();
            let list = positions(&wanted).map_err(|e| sort(what(), &e))?;
            if !live {
                let written = self.try_ask(|a| {
                    let all = a.alter_group_offsets(group, &list)?;
                    all.into_iter().try_for_each(|(_, r)| r.map(|_| ()))
                })?;
                match written {
                    Ok(()) => return self.own_positions(group, topic),
                    Err(e) if joined(e.code) => continue,
                    Err(e) => return Err(sort(what(), &e)),
                }
            }
            if ends.iter().any(|e| *e > 0) {
                return Ok(before);
            }
            // A plain commit is refused while the group has members; one through a transaction is not.
            let id = format!("{}register.{group}", self.config.state_prefix);
            let config = self.config.producer(Some(&id))?;
            let producer = Producer::new(&config, &[]).map_err(|e| sort(what(), &e))?;
            let wait = self.config.request_timeout_ms;
            let done = producer
                .init_transactions(wait)
                .and_then(|()| producer.begin())
                .and_then(|()| producer.send_offsets(group, &list, wait))
                .and_then(|()| producer.commit(wait));
            match done.map_err(|e| sort(what(), &producer.fatal().unwrap_or(e))) {
                // Another bridge is writing the same positions.
                Err(SinkError::Fenced { .. }) => continue,
                other => other?,
            }
            return self.visible_positions(group, topic, &what);
        }
        self.own_positions(group, topic)
    }

    fn skip_deleted(&self, group: &str, topic: &Topic) -> Result<bool, SinkError> {
        let what = || format!("moving group {group} to the start of {}", topic.name);
        let (at, low) = (self.own_positions(group, topic)?, self.lows(topic)?);
        let below: Vec<(Place, u64)> = (0u32..)
            .zip(at.iter().zip(low))
            .filter(|(_, (at, low))| at.is_some_and(|at| at < *low))
            .map(|(partition, (_, low))| ((topic.name.clone(), partition), low))
            .collect();
        if below.is_empty() {
            return Ok(true);
        }
        if self.members(&[group.to_owned()])?.iter().any(|g| g.members > 0) {
            return Ok(false);
        }
        let list = positions(&below).map_err(|e| sort(what(), &e))?;
        let written = self.try_ask(|a| {
            let all = a.alter_group_offsets(group, &list)?;
            all.into_iter().try_for_each(|(_, r)| r.map(|_| ()))
        })?;
        match written {
            Ok(()) => Ok(true),
            Err(e) if joined(e.code) => Ok(false),
            Err(e) => Err(sort(what(), &e)),
        }
    }
}

/// Whether a commit was refused because the group has members after all.
fn joined(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::NonEmptyGroup | RDKafkaErrorCode::IllegalGeneration
    )
}

#[async_trait]
impl GroupObserver for KafkaSink {
    async fn progress(&self, groups: &[String], topics: &[Topic]) -> Result<Progress, SinkError> {
        let (groups, topics) = (groups.to_vec(), topics.to_vec());
        self.blocking(move |s| s.progress(&groups, &topics)).await
    }

    async fn list(&self) -> Result<Vec<GroupInfo>, SinkError> {
        self.blocking(Shared::list).await
    }

    async fn register(&self, group: &str, topic: &Topic, from: StartAt) -> Result<Offsets, SinkError> {
        let (group, topic) = (group.to_owned(), topic.clone());
        self.blocking(move |s| s.register(&group, &topic, from)).await
    }

    async fn skip_deleted(&self, group: &str, topic: &Topic) -> Result<bool, SinkError> {
        let (group, topic) = (group.to_owned(), topic.clone());
        self.blocking(move |s| s.skip_deleted(&group, &topic)).await
    }

    async fn registry(&self) -> Result<Registry, SinkError> {
        self.blocking(Shared::registry).await
    }

    async fn change_registry(
        &self,
        change: &mut (dyn for<'r> FnMut(&'r mut Registry) + Send),
    ) -> Result<Registry, SinkError> {
        self.change_registry_until_written(change).await
    }
}
