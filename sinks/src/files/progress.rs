//! What groups have done, and their first positions: a file of two slots for each group and topic,
//! `OWN.groups/GROUP/TOPIC.position`. Whoever takes the records holds its lock.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::config::check_group;
use super::slots::{self, Slots};
use super::{FilesSink, Shared, consume, disk};
use crate::error::SinkError;
use crate::registry::{Registry, StartAt};
use crate::topic::Topic;
use crate::traits::{GroupInfo, GroupObserver, Offsets, Progress, TopicProgress};

/// Room for a position.
const ROOM: usize = 480;
/// What the name of a position's file ends with.
const POSITION: &str = ".position";

/// Where a group stands in a topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Place {
    /// The topic's life.
    pub(super) topic_id: String,
    /// The position behind the last record that is done.
    pub(super) position: u64,
}

impl Place {
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }

    pub(super) fn write(&self) -> Vec<u8> {
        // A string and a number: there is nothing that could not be written.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Shared {
    pub(super) fn group_dir(&self, group: &str) -> PathBuf {
        self.config.groups_dir().join(group)
    }

    pub(super) fn position_file(&self, group: &str, topic: &str) -> PathBuf {
        self.group_dir(group).join(format!("{topic}{POSITION}"))
    }

    /// What a group has committed in this life of a topic.
    pub(super) fn position(&self, group: &str, topic: &Topic) -> Result<Option<u64>, SinkError> {
        check_group(group)?;
        let path = self.position_file(group, &topic.name);
        let Some((number, content)) = slots::read(&path)? else { return Ok(None) };
        let place = Place::read(&content).ok_or_else(|| SinkError::Mismatch {
            what: format!("{}, content {number}", path.display()),
            why: "is no position".to_owned(),
            hint: format!("remove it, and `clbridge groups accept {group}` once its members run again"),
        })?;
        Ok((place.topic_id == topic.id).then_some(place.position))
    }

    fn progress(&self, groups: &[String], topics: &[Topic]) -> Result<Progress, SinkError> {
        let mut progress = Progress::default();
        for topic in topics {
            // First the groups, then the end: a position above the end is then truly beyond it.
            let mut own = TopicProgress::default();
            let Some(id) = self.topic_id(&topic.name)? else { continue };
            let now = Topic { id, ..topic.clone() };
            for group in groups {
                own.groups.insert(group.clone(), vec![self.position(group, &now)?]);
            }
            let end = self.end_of(&now)?;
            own.end = vec![self.end(&now, end.as_ref())?];
            own.low = vec![self.low(&now, end.as_ref())?];
            own.id = now.id;
            progress.topics.insert(topic.name.clone(), own);
        }
        Ok(progress)
    }

    fn list(&self) -> Result<Vec<GroupInfo>, SinkError> {
        let mut all = Vec::new();
        for name in disk::names(&self.config.groups_dir())? {
            if check_group(&name).is_ok() && self.group_dir(&name).is_dir() {
                let members = consume::members(&self.group_dir(&name), None)?;
                all.push(GroupInfo { name, members });
            }
        }
        Ok(all)
    }

    pub(super) fn register(&self, group: &str, topic: &Topic, from: StartAt) -> Result<Offsets, SinkError> {
        if let Some(at) = self.position(group, topic)? {
            return Ok(vec![Some(at)]);
        }
        let path = self.position_file(group, &topic.name);
        disk::make_dir(&self.group_dir(group))?;
        let end = self.end_of(topic)?;
        let position = match from {
            StartAt::Newest => self.end(topic, end.as_ref())?,
            StartAt::Oldest => self.low(topic, end.as_ref())?,
        };
        let place = Place { topic_id: topic.id.clone(), position };
        if let Some((mut old, content)) = Slots::open(&path)?
            && Place::read(&content).is_none_or(|old| old.topic_id != topic.id)
        {
            // Of an earlier life of the topic.
            old.write(&place.write()).map_err(|e| disk::sort("writing", &path, &e))?;
        }
        // Unless another one has made it in this moment.
        Slots::create(&path, ROOM, &place.write())?;
        Ok(vec![self.position(group, topic)?])
    }

    fn skip_deleted(&self, group: &str, topic: &Topic) -> Result<bool, SinkError> {
        let low = self.low(topic, self.end_of(topic)?.as_ref())?;
        if self.position(group, topic)?.is_none_or(|at| at >= low) {
            return Ok(true);
        }
        let path = self.position_file(group, &topic.name);
        let Some((mut slots, _)) = Slots::open(&path)? else { return Ok(false) };
        let place = Place { topic_id: topic.id.clone(), position: low };
        slots.write(&place.write()).map_err(|e| disk::sort("writing", &path, &e))?;
        Ok(true)
    }
}

#[async_trait]
impl GroupObserver for FilesSink {
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
        // The change is the caller's and cannot move to another thread; the file is small.
        tokio::task::block_in_place(|| self.shared.change_registry(change))
    }
}
