//! The registry of groups, and the directory of topics with the groups that have queues there: each in a cell.

use std::collections::BTreeMap;

use clbridge_schemas::ids::MdtName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::cell::Held;
use crate::error::SinkError;
use crate::registry::Registry;

/// Every topic that was made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Directory {
    /// Rises with every change.
    pub(super) version: u64,
    /// By name.
    pub(super) topics: BTreeMap<String, Entry>,
}

/// One topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Identity of its life.
    pub(super) id: String,
    pub(super) mdt: MdtName,
    pub(super) feed: Option<String>,
    /// A record was published in it, or is about to be.
    #[serde(default)]
    pub(super) used: bool,
    /// Groups that have a queue, by name.
    #[serde(default)]
    pub(super) groups: BTreeMap<String, Member>,
}

/// A group's queues in a topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Member {
    /// Its first position.
    pub(super) first: u64,
    /// The confirm of its queue is its acknowledgement.
    #[serde(default)]
    pub(super) confirm: bool,
    /// Number of queues over which its records are spread; 0: one queue.
    #[serde(default)]
    pub(super) shards: u32,
    /// Rises above that of an earlier group of the same name, of which nothing counts.
    #[serde(default)]
    pub(super) life: u64,
    /// An operator has removed the group: when its queues are gone too, it is forgotten. Until then it goes on where it
    /// was if it is added again.
    #[serde(default)]
    pub(super) removed: bool,
}

impl Shared {
    pub(super) async fn registry(&self) -> Result<Registry, SinkError> {
        let queue = self.config.registry_queue();
        Ok(understood(&queue, self.read(&queue).await?.as_deref())?.unwrap_or_default())
    }

    pub(super) async fn change_registry(
        &self,
        change: &mut (dyn for<'r> FnMut(&'r mut Registry) + Send),
    ) -> Result<Registry, SinkError> {
        let queue = self.config.registry_queue();
        let held = self.hold(&queue).await?;
        let mut registry: Registry = understood(&queue, Some(held.value()))?.unwrap_or_default();
        let mut gone: Vec<String> = registry.groups.keys().cloned().collect();
        change(&mut registry);
        gone.retain(|group| !registry.groups.contains_key(group));
        registry.version += 1;
        self.put(held, &written(&queue, &registry)?).await?;
        if !gone.is_empty() {
            self.note_removed(&gone).await?;
        }
        Ok(registry)
    }

    /// These groups are not registered any more.
    async fn note_removed(&self, gone: &[String]) -> Result<(), SinkError> {
        let (held, mut directory) = self.open_directory().await?;
        for entry in directory.topics.values_mut() {
            entry.groups.iter_mut().filter(|(group, _)| gone.contains(group)).for_each(|(_, m)| m.removed = true);
        }
        self.close_directory(held, directory).await
    }

    /// Reads the directory.
    pub(super) async fn directory(&self) -> Result<Directory, SinkError> {
        let queue = self.config.directory_queue();
        Ok(understood(&queue, self.read(&queue).await?.as_deref())?.unwrap_or_default())
    }

    /// Takes the directory for a change: nobody else reads or changes it meanwhile.
    pub(super) async fn open_directory(&self) -> Result<(Held, Directory), SinkError> {
        let queue = self.config.directory_queue();
        let held = self.hold(&queue).await?;
        let directory = understood(&queue, Some(held.value()))?.unwrap_or_default();
        Ok((held, directory))
    }

    /// Writes the directory and gives it back.
    pub(super) async fn close_directory(&self, held: Held, mut directory: Directory) -> Result<(), SinkError> {
        directory.version += 1;
        let bytes = written(&self.config.directory_queue(), &directory)?;
        self.put(held, &bytes).await
    }

    /// Takes the message of a cell, which is made if need be.
    async fn hold(&self, queue: &str) -> Result<Held, SinkError> {
        self.make_cell(queue).await?;
        self.take(queue).await?.ok_or_else(|| SinkError::Unavailable {
            what: format!("reading queue {queue}"),
            why: "it is empty, or was deleted just now".to_owned(),
        })
    }
}

/// A value of a cell; `None` for none.
pub(super) fn understood<T: DeserializeOwned>(queue: &str, value: Option<&[u8]>) -> Result<Option<T>, SinkError> {
    let Some(value) = value.filter(|v| !v.is_empty()) else { return Ok(None) };
    serde_json::from_slice(value).map(Some).map_err(|e| SinkError::Mismatch {
        what: format!("queue {queue}"),
        why: format!("its message cannot be understood: {e}"),
        hint: "run the version of clbridge that wrote it".to_owned(),
    })
}

pub(super) fn written<T: Serialize>(queue: &str, value: &T) -> Result<Vec<u8>, SinkError> {
    serde_json::to_vec(value).map_err(|e| SinkError::Mismatch {
        what: format!("writing queue {queue}"),
        why: e.to_string(),
        hint: "this is a fault of clbridge: please report it".to_owned(),
    })
}
