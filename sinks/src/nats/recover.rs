//! The start: State is written anew as it is, which fences every older writer of State, then tails are read. A record
//! that an older writer still has on its way breaks the new one's chain with its first message, and the start is
//! repeated; it never stands behind it.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{HeaderMap, header};
use clbridge_schemas::ids::{MdtName, RecordId};

use super::Shared;
use super::link::{Link, refused};
use super::names::type_token;
use super::publish::{Begin, NatsPublisher};
use super::topology::{end_of, id_of};
use crate::error::SinkError;
use crate::record;
use crate::registry::StartAt;
use crate::state::State;
use crate::topic::{Position, Stored, Topic};
use crate::traits::Recovered;

/// How often State is read again because somebody wrote it in between.
const ATTEMPTS: u32 = 20;
/// How long the end must stand: a dead writer's last messages may still be arriving. It saves a start or two; what comes
/// later is refused, or refuses what comes first.
const SETTLE: Duration = Duration::from_millis(25);

impl Shared {
    pub(super) async fn recover(&self, mdt: &MdtName, topics: &[Topic]) -> Result<Recovered, SinkError> {
        // Its own connection: what it has on its way is nobody else's business, and it dies with it.
        let link = Link::open(&self.config, mdt.as_str()).await?;
        let (state, revision) = self.fence(&link, mdt).await?;
        let mut tails = Vec::with_capacity(topics.len());
        let mut ends = Vec::with_capacity(topics.len());
        for topic in topics {
            let (found, end) = self.standing_tails(&link, topic).await?;
            tails.push(found);
            ends.push(end);
        }
        let begin = Begin { mdt: mdt.clone(), topics: topics.to_vec(), ends: ends.clone(), revision };
        Ok(Recovered {
            publisher: Box::new(NatsPublisher::new(&self.config, link, begin)),
            state,
            tails,
            used: ends.iter().any(|end| *end > 1),
        })
    }

    /// The tails and the end that belong together: an older writer's messages may still arrive.
    async fn standing_tails(&self, link: &Link, topic: &Topic) -> Result<(Vec<Option<Stored>>, u64), SinkError> {
        for _ in 0..ATTEMPTS {
            let end = self.end(link, topic).await?;
            tokio::time::sleep(SETTLE).await;
            let found = self.tails(link, topic).await?;
            if self.end(link, topic).await? == end {
                return Ok((found, end));
            }
        }
        Err(SinkError::Unavailable {
            what: format!("reading the end of {}", topic.name),
            why: "another writer still publishes there".to_owned(),
        })
    }

    async fn end(&self, link: &Link, topic: &Topic) -> Result<u64, SinkError> {
        let info = link.stream(&topic.name).await?.filter(|info| id_of(info) == topic.id);
        info.map(|info| end_of(&info)).ok_or_else(|| SinkError::Mismatch {
            what: format!("stream {}", topic.name),
            why: "was deleted, or deleted and created again".to_owned(),
            hint: format!("`clbridge reset {}`", topic.mdt),
        })
    }

    /// Writes State anew as it is; returns it with its revision, 0 if there is none.
    async fn fence(&self, link: &Link, mdt: &MdtName) -> Result<(Option<State>, u64), SinkError> {
        let bucket = self.config.state_bucket();
        for _ in 0..ATTEMPTS {
            let (value, revision) = link.value(&bucket, mdt.as_str()).await?;
            let Some(value) = value else { return Ok((None, revision)) };
            let state = self.understand(mdt, revision, &value)?;
            if let Some(revision) = link.put(&bucket, mdt.as_str(), value.to_vec(), Some(revision)).await? {
                return Ok((Some(state), revision));
            }
        }
        Err(SinkError::Unavailable {
            what: format!("fencing older writers of {mdt}"),
            why: format!("State was written by another bridge {ATTEMPTS} times"),
        })
    }

    fn understand(&self, mdt: &MdtName, revision: u64, value: &[u8]) -> Result<State, SinkError> {
        State::read(&format!("State of {mdt} in bucket {} at revision {revision}", self.config.state_bucket()), value)
    }

    pub(super) async fn peek_state(&self, mdt: &MdtName) -> Result<Option<State>, SinkError> {
        let link = self.link().await?;
        let (value, revision) = link.value(&self.config.state_bucket(), mdt.as_str()).await?;
        value.map(|value| self.understand(mdt, revision, &value)).transpose()
    }

    pub(super) async fn repair(
        &self,
        topic: &Topic,
        group: &str,
        records: &[(RecordId, Vec<u8>, Vec<u8>)],
    ) -> Result<(Topic, Vec<u64>), SinkError> {
        let link = self.link().await?;
        let repair = self.make_repair_stream(&link, topic, group).await?;
        self.register(group, &repair, StartAt::Oldest).await?;
        let mut end = self.end(&link, &repair).await?;
        let root = self.config.topic_root(&repair);
        let what = || format!("publishing a repair into {}", repair.name);
        for (id, _, payload) in records {
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, (end - 1).to_string());
            let at = Position { partition: 0, offset: end };
            let head = record::stored(&repair, at, &format!("record {id} to be repaired"), payload, None)?.head;
            let subject = format!("{root}.0.{}", type_token(head.record_type));
            match link.publish(&what, subject, Some(headers), payload.clone().into()).await? {
                Ok(ack) => end = ack.sequence + 1,
                Err(e) if e.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE => {
                    return Err(SinkError::Unavailable {
                        what: what(),
                        why: "another bridge repairs it too".to_owned(),
                    });
                }
                Err(e) => return Err(refused(what(), &e)),
            }
        }
        Ok((repair, vec![end]))
    }
}
