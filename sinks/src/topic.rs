//! Topics and positions: where one MDT's records of one feed go, and where in it a record lies.

use std::num::NonZeroU64;

use clbridge_schemas::avro::{self, Retracts};
use clbridge_schemas::ids::{Digest, MdtName, RecordId};
use clbridge_schemas::lustre::{Fid, RecordType, Time};
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

/// Bits of an index in [`Position::of_identity`]: 2^39 records, a year at 17,000 a second.
const INDEX_BITS: u32 = 39;

impl Position {
    /// The position of a record where nothing but its identity tells it ([`crate::traits::Positions::Identity`]):
    /// incarnation, index, and a retraction before the record of the same index. `None` beyond what fits: an index
    /// of 2^39 or an incarnation of 2^24.
    #[must_use]
    pub fn of_identity(partition: u32, id: RecordId, retraction: bool) -> Option<Self> {
        let index = id.index.get();
        let fits = index >> INDEX_BITS == 0 && id.incarnation >> (63 - INDEX_BITS) == 0;
        let offset = u64::from(id.incarnation) << (INDEX_BITS + 1) | index << 1 | u64::from(!retraction);
        fits.then_some(Self { partition, offset })
    }

    /// The identity that [`Position::of_identity`] made this position of, or the first one behind it, with true for a
    /// retraction; `None` before the first.
    #[must_use]
    pub fn identity(self) -> Option<(RecordId, bool)> {
        let index = NonZeroU64::new((self.offset >> 1) & ((1 << INDEX_BITS) - 1))?;
        let incarnation = u32::try_from(self.offset >> (INDEX_BITS + 1)).ok()?;
        Some((RecordId { incarnation, index }, self.offset & 1 == 0))
    }
}

/// What is kept of a record that was read back: enough to recognise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    id: RecordId,
    /// The changelog type.
    pub record_type: RecordType,
    /// When it happened.
    pub time: Time,
    /// The target.
    pub tfid: Fid,
    /// What a retraction makes void; `None` for all else.
    pub retracts: Option<Retracts>,
}

impl Head {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// The digest that recognises it on its MDT.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.id.index.get(), self.record_type, self.time, self.tfid)
    }

    /// Keeps the head of a decoded record; `None` for index 0, which no record has.
    #[must_use]
    pub fn of(head: &avro::Head<'_>) -> Option<Self> {
        Some(Self {
            id: RecordId::new(head.incarnation, NonZeroU64::new(head.index)?),
            record_type: RecordType(head.type_code),
            time: head.time,
            tfid: head.tfid,
            retracts: head.retracts,
        })
    }
}

/// A record as it was read back from a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it lies.
    pub at: Position,
    /// What it is.
    pub head: Head,
}

impl Stored {
    /// The first record that can lie at or behind `at`, where a position is a record's identity
    /// ([`crate::traits::Positions::Identity`]) and nothing can be read back: of its head only the identity is known,
    /// and its digest recognises nothing. `None` before the first.
    #[must_use]
    pub fn by_identity(at: Position) -> Option<Self> {
        let (id, _) = at.identity()?;
        let unknown = Fid { seq: 0, oid: 0, ver: 0 };
        let head = Head { id, record_type: RecordType(0), time: Time::from_nanos(0), tfid: unknown, retracts: None };
        Some(Self { at, head })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(incarnation: u32, index: u64) -> RecordId {
        RecordId { incarnation, index: NonZeroU64::new(index).unwrap() }
    }

    #[test]
    fn positions_of_identities_rise_with_incarnation_and_index_and_tell_them_again() {
        let ordered =
            [(id(1, 7), false), (id(1, (1 << 39) - 1), false), (id(2, 5), true), (id(2, 5), false), (id(2, 6), false)];
        let positions: Vec<u64> =
            ordered.iter().map(|(id, r)| Position::of_identity(3, *id, *r).unwrap().offset).collect();
        assert!(positions.windows(2).all(|w| w[0] < w[1]), "{positions:?}");
        for (offset, wanted) in positions.into_iter().zip(ordered) {
            assert_eq!(Position { partition: 3, offset }.identity(), Some(wanted));
        }
    }

    #[test]
    fn an_identity_that_does_not_fit_has_no_position() {
        assert_eq!(Position::of_identity(0, id(1, 1 << 39), false), None);
        assert_eq!(Position::of_identity(0, id(1 << 24, 1), false), None);
        assert_eq!(Position { partition: 0, offset: 1 }.identity(), None);
    }
}
