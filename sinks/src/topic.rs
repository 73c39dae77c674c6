//! Topics and positions: where one MDT's records of one feed go, and where in it a record lies.

use clbridge_schemas::avro::Head;
use clbridge_schemas::ids::MdtName;
use serde::{Deserialize, Serialize};

/// Number of a topic among the topics of one MDT (one a feed), in the order given to [`crate::Sink::prepare`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TopicIx(pub u16);

/// What a topic should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// The MDT whose records it holds.
    pub mdt: MdtName,
    /// The feed; `None` is the default feed, whose topic has no suffix.
    pub feed: Option<String>,
    /// Partitions to create it with, at least 1. An existing topic keeps its own number, which is then pinned.
    pub partitions: u32,
    /// Largest payload that will be published, bytes; checked against the topic's limit.
    pub max_message_bytes: usize,
}

/// A topic that exists and was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its number among the MDT's topics.
    pub ix: TopicIx,
    /// The broker's name for it, for example `lustre.FS-MDT0000`.
    pub name: String,
    /// The feed; `None` is the default feed.
    pub feed: Option<String>,
    /// The MDT.
    pub mdt: MdtName,
    /// The broker's identity of this life of the topic: changes when it is deleted and created again.
    pub id: String,
    /// Pinned number of partitions.
    pub partitions: u32,
    /// True if this call created it.
    pub created: bool,
    /// Copies that the broker keeps of it (Kafka: replication factor); `release` is refused below 2.
    pub replicas: u32,
}

/// A record's place in a topic. Positions of different lives (`Topic::id`) never compare.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Position {
    /// Partition, from 0.
    pub partition: u32,
    /// Offset in the partition; there may be holes between records.
    pub offset: u64,
}

/// A record as it was read back from a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it lies.
    pub at: Position,
    /// What it is.
    pub head: Head,
}
