//! What groups have done: their consumers' ack floors, where these can be believed.
//!
//! Each poll looks at the consumers first, then, a moment later, at what the server said of them and at the stream: a
//! floor is told only once everything that could have moved it otherwise has had the time to show.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::stream;
use async_trait::async_trait;

use super::floor::{Baseline, Observed};
use super::groups::observe;
use super::link::Link;
use super::topology::{end_of, id_of, low_of};
use super::{NatsSink, Shared};
use crate::error::SinkError;
use crate::registry::{Registry, StartAt};
use crate::topic::Topic;
use crate::traits::{GroupInfo, GroupObserver, Offsets, Progress, TopicProgress};

/// How long what the server says of a consumer may take to where it is kept (below 1 ms was seen).
const SAYING: Duration = Duration::from_millis(100);
/// A count of what is pending may miss what was published just before: an end counts for a group only this long after
/// it was seen.
const SETTLED: Duration = Duration::from_secs(1);
/// How often a baseline is kept in the broker while it moves.
const KEEP: Duration = Duration::from_secs(5);

/// What was seen so far.
#[derive(Default)]
pub(super) struct Memory {
    /// By stream and consumer: the baseline, its revision in the broker, and when it was kept there.
    baselines: HashMap<(String, String), (Baseline, u64, Instant)>,
    /// By stream its last sequences, as they were seen.
    ends: HashMap<String, VecDeque<(Instant, u64)>>,
    /// Doubts that were logged, so that each is said once.
    told: HashMap<(String, String), String>,
}

impl Memory {
    /// Notes the end of a stream, and tells the newest one that was seen long enough ago.
    fn settled_end(&mut self, stream: &str, last: u64, now: Instant) -> u64 {
        let ends = self.ends.entry(stream.to_owned()).or_default();
        ends.push_back((now, last));
        let old = |at: Instant| now.saturating_duration_since(at) >= SETTLED;
        while ends.get(1).is_some_and(|(at, _)| old(*at)) {
            ends.pop_front();
        }
        ends.front().filter(|(at, _)| old(*at)).map_or(0, |(_, last)| *last)
    }
}

impl Shared {
    async fn progress(&self, groups: &[String], topics: &[Topic]) -> Result<Progress, SinkError> {
        let link = self.link().await?;
        let mut found = Vec::with_capacity(topics.len());
        let mut moved = false;
        for topic in topics {
            let mut consumers = Vec::new();
            for group in groups {
                for wanted in self.consumers_of(group, topic.partitions) {
                    let info = link.consumer(&topic.name, &wanted.name).await?;
                    moved |= info.as_ref().is_some_and(|info| self.has_moved(&topic.name, info));
                    consumers.push((group.clone(), wanted.name, info));
                }
            }
            found.push((topic, consumers));
        }
        if moved {
            tokio::time::sleep(SAYING).await;
        }
        let mut progress = Progress::default();
        for (topic, consumers) in found {
            let Some(stream) = link.stream(&topic.name).await? else { continue };
            self.check_stream(topic, &stream)?;
            let partitions = topic.partitions as usize;
            let mut told = TopicProgress {
                low: vec![low_of(&stream); partitions],
                end: vec![end_of(&stream); partitions],
                id: id_of(&stream),
                ..TopicProgress::default()
            };
            let settled = {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.settled_end(&topic.name, stream.state.last_sequence, Instant::now())
            };
            let advisories = self.advisories(&link, &topic.name).await?;
            for (group, name, info) in consumers {
                let floor = match info {
                    Some(info) => self.floor(&link, &topic.name, &name, &info, &stream, (&advisories, settled)).await?,
                    None => None,
                };
                let whole = told.groups.entry(group).or_insert_with(|| vec![Some(u64::MAX); partitions]);
                for slot in whole {
                    *slot = slot.zip(floor).map(|(whole, floor)| whole.min(floor + 1));
                }
            }
            progress.topics.insert(topic.name.clone(), told);
        }
        Ok(progress)
    }

    fn has_moved(&self, stream: &str, info: &Info) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let was = seen.baselines.get(&(stream.to_owned(), info.name.clone()));
        was.is_none_or(|(was, ..)| info.ack_floor.stream_sequence > was.floor)
    }

    /// The floor of one consumer; `None` if it cannot be believed.
    async fn floor(
        &self,
        link: &Link,
        stream_name: &str,
        name: &str,
        info: &Info,
        stream: &stream::Info,
        (advisories, settled): (&(String, u64), u64),
    ) -> Result<Option<u64>, SinkError> {
        let observed = observe(link, info, stream, advisories.clone());
        let (kept, revision) = self.baseline(link, stream_name, name).await?;
        let Some(kept) = kept else {
            // Nobody registered it: what it has acknowledged may make it a group, by its name.
            return Ok((observed.fault.is_none() && info.ack_floor.consumer_sequence > 0).then_some(observed.now.floor));
        };
        let was = self.remembered(stream_name, name, kept, revision);
        let mut doubt = observed.doubt(&was);
        if doubt.is_none() {
            doubt = self.said(link, stream_name, name, was.advisory).await?;
        }
        self.tell(stream_name, name, doubt.as_deref());
        if doubt.is_some() {
            return Ok(None);
        }
        self.remember(link, stream_name, name, &observed, &was, revision).await?;
        let mut floor = observed.now.floor.max(was.base);
        if !observed.now.filters.is_empty() && info.num_pending == 0 && info.num_ack_pending == 0 {
            floor = floor.max(settled);
        }
        Ok(Some(floor))
    }

    /// What to compare with: what is kept in the broker, or the newer one that was seen since.
    fn remembered(&self, stream: &str, name: &str, kept: Baseline, revision: u64) -> Baseline {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.baselines.get(&(stream.to_owned(), name.to_owned())) {
            Some((newer, of, _)) if *of == revision => newer.clone(),
            _ => kept,
        }
    }

    async fn remember(
        &self,
        link: &Link,
        stream: &str,
        name: &str,
        observed: &Observed,
        was: &Baseline,
        mut revision: u64,
    ) -> Result<(), SinkError> {
        let next = observed.next(was);
        let key = (stream.to_owned(), name.to_owned());
        let kept_at = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.baselines.get(&key).filter(|(_, of, _)| *of == revision).map(|(.., at)| *at)
        };
        let mut at = kept_at.unwrap_or_else(Instant::now);
        if next != *was && kept_at.is_none_or(|at| at.elapsed() >= KEEP) {
            match self.keep(link, stream, name, &next, Some(revision)).await? {
                Some(newer) => revision = newer,
                // Somebody else keeps it too; it is read again next time.
                None => return Ok(()),
            }
            at = Instant::now();
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).baselines.insert(key, (next, revision, at));
        Ok(())
    }

    /// Says a doubt once.
    fn tell(&self, stream: &str, name: &str, doubt: Option<&str>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (stream.to_owned(), name.to_owned());
        match doubt {
            Some(why) if seen.told.get(&key).is_none_or(|told| told != why) => {
                tracing::warn!(
                    "group {name} on {stream}: {why}; its position counts as vanished until `clbridge groups accept {name}`"
                );
                seen.told.insert(key, why.to_owned());
            }
            Some(_) => {}
            None => drop(seen.told.remove(&key)),
        }
    }

    async fn list(&self) -> Result<Vec<GroupInfo>, SinkError> {
        let link = self.link().await?;
        let mut groups: BTreeMap<String, usize> = BTreeMap::new();
        for stream in link.stream_names(&format!("{}.>", self.config.prefix)).await? {
            if self.config.parse_stream(&stream).is_none() {
                continue;
            }
            for info in link.consumers(&stream).await? {
                if info.config.durable_name.is_none() {
                    continue;
                }
                let name = super::groups::group_of(&info);
                let members = groups.entry(name).or_default();
                // A member waits in every stream that it takes.
                *members = (*members).max(info.num_waiting);
            }
        }
        Ok(groups.into_iter().map(|(name, members)| GroupInfo { name, members }).collect())
    }
}

#[async_trait]
impl GroupObserver for NatsSink {
    async fn progress(&self, groups: &[String], topics: &[Topic]) -> Result<Progress, SinkError> {
        self.shared.progress(groups, topics).await
    }

    async fn list(&self) -> Result<Vec<GroupInfo>, SinkError> {
        self.shared.list().await
    }

    async fn register(&self, group: &str, topic: &Topic, from: StartAt) -> Result<Offsets, SinkError> {
        self.shared.register(group, topic, from).await
    }

    async fn skip_deleted(&self, group: &str, topic: &Topic) -> Result<bool, SinkError> {
        self.shared.skip_deleted(group, topic).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_counts_only_after_it_was_seen_a_while_ago() {
        let (mut memory, begin) = (Memory::default(), Instant::now());
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(memory.settled_end("s", 5, at(0)), 0);
        assert_eq!(memory.settled_end("s", 9, at(500)), 0);
        assert_eq!(memory.settled_end("s", 12, at(1000)), 5);
        assert_eq!(memory.settled_end("s", 12, at(1600)), 9);
        assert_eq!(memory.settled_end("s", 12, at(9000)), 12);
    }
}
