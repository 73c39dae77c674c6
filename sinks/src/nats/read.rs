//! Reading records at given places: single ones by questions to the stream's leader, runs of them by an ephemeral
//! consumer that the client makes anew when it breaks.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use futures_util::StreamExt;

use super::Shared;
use super::ask::Which;
use super::link::Link;
use super::names::partition_of;
use super::topology::{end_of, low_of};
use crate::error::SinkError;
use crate::record::{foreign, stored};
use crate::retraction::RETRACTS_HEADER;
use crate::topic::{Position, Stored, Topic};

/// The value of the header that says what a retraction makes void.
pub(super) fn retracts_header(headers: Option<&HeaderMap>) -> Option<&[u8]> {
    headers?.get(RETRACTS_HEADER).map(|v| v.as_str().as_bytes())
}

/// Where a message lies, in words.
pub(super) fn place(stream: &str, sequence: u64) -> String {
    format!("stream {stream} sequence {sequence}")
}

/// Understands a message of a record stream.
fn understood(
    topic: &Topic,
    sequence: u64,
    subject: &str,
    payload: &[u8],
    headers: Option<&HeaderMap>,
) -> Result<Stored, SinkError> {
    let place = place(&topic.name, sequence);
    let partition = partition_of(subject).ok_or_else(|| foreign(&place, format!("has the subject {subject}")))?;
    stored(topic, Position { partition, offset: sequence }, &place, payload, retracts_header(headers))
}

fn of_message(topic: &Topic, m: &StreamMessage) -> Result<Stored, SinkError> {
    understood(topic, m.sequence, &m.subject, &m.payload, Some(&m.headers))
}

impl Shared {
    /// The last record of each partition.
    pub(super) async fn tails(&self, link: &Link, topic: &Topic) -> Result<Vec<Option<Stored>>, SinkError> {
        let root = self.config.topic_root(topic);
        let mut tails = Vec::with_capacity(topic.partitions as usize);
        for p in 0..topic.partitions {
            let last = link.message(&topic.name, &Which::Last(&format!("{root}.{p}.*"))).await?;
            tails.push(last.map(|m| of_message(topic, &m)).transpose()?);
        }
        Ok(tails)
    }

    pub(super) async fn read_at(&self, topic: &Topic, at: &[Position]) -> Result<Vec<Option<Stored>>, SinkError> {
        let link = self.link().await?;
        let root = self.config.topic_root(topic);
        let mut found = Vec::with_capacity(at.len());
        for at in at {
            let filter = format!("{root}.{}.*", at.partition);
            let next = link.next_message(&topic.name, at.offset, &filter).await?;
            found.push(next.map(|m| of_message(topic, &m)).transpose()?);
        }
        Ok(found)
    }

    pub(super) async fn read_back(
        &self,
        topic: &Topic,
        incarnation: u32,
        above: u64,
        each: &mut (dyn FnMut(Stored) + Send),
    ) -> Result<(), SinkError> {
        let link = self.link().await?;
        let what = || format!("reading {}", topic.name);
        let unavailable = |why: String| SinkError::Unavailable { what: what(), why };
        let Some(info) = link.stream(&topic.name).await? else { return Ok(()) };
        let end = end_of(&info);
        let from = self.first_above(&link, topic, (low_of(&info), end), incarnation, above).await?;
        if from >= end {
            return Ok(());
        }
        let config = pull::OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ..pull::OrderedConfig::default()
        };
        let reader = link.js.create_consumer_on_stream(config, topic.name.as_str()).await;
        let reader = reader.map_err(|e| unavailable(e.to_string()))?;
        let mut messages = reader.messages().await.map_err(|e| unavailable(e.to_string()))?;
        loop {
            let next = tokio::time::timeout(self.config.request_timeout(), messages.next()).await;
            let message = match next {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(e))) => return Err(unavailable(e.to_string())),
                Ok(None) | Err(_) => return Err(unavailable("no message came".to_owned())),
            };
            let sequence = message.info().map_err(|e| unavailable(e.to_string()))?.stream_sequence;
            if sequence < end {
                each(understood(topic, sequence, &message.subject, &message.payload, message.headers.as_ref())?);
            }
            if sequence + 1 >= end {
                return Ok(());
            }
        }
    }

    /// A sequence at or before the first record with an index above `above`, or of an incarnation above `incarnation`.
    /// Incarnations rise with sequences, and indexes within an incarnation.
    async fn first_above(
        &self,
        link: &Link,
        topic: &Topic,
        (low, end): (u64, u64),
        incarnation: u32,
        above: u64,
    ) -> Result<u64, SinkError> {
        let mut from = low;
        while from < end {
            let Some((of, _)) = self.id_at(link, topic, from).await? else { return Ok(from) };
            if of > incarnation {
                return Ok(from);
            }
            // The part of this incarnation, and in it the first index that is wanted.
            let part = self.first_where(link, topic, from, end, |(i, _)| i > of).await?;
            let found = self.first_where(link, topic, from, part, |(_, index)| index > above).await?;
            if found < part {
                return Ok(found);
            }
            from = part;
        }
        Ok(end)
    }

    async fn first_where(
        &self,
        link: &Link,
        topic: &Topic,
        mut from: u64,
        mut to: u64,
        wanted: impl Fn((u32, u64)) -> bool,
    ) -> Result<u64, SinkError> {
        while from < to {
            let middle = from + (to - from) / 2;
            match self.id_at(link, topic, middle).await? {
                Some(id) if !wanted(id) => from = middle + 1,
                _ => to = middle,
            }
        }
        Ok(from)
    }

    async fn id_at(&self, link: &Link, topic: &Topic, sequence: u64) -> Result<Option<(u32, u64)>, SinkError> {
        let message = link.message(&topic.name, &Which::At(sequence)).await?;
        let head = message.map(|m| of_message(topic, &m)).transpose()?;
        Ok(head.map(|s| (s.head.id().incarnation, s.head.id().index.get())))
    }
}
