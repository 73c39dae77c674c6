//! The start: fence first, then read. Nothing that is read before the fence counts, because until then another
//! writer's records may still arrive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clbridge_schemas::ids::MdtName;

use super::config::Delivery;
use super::native::{Producer, Where};
use super::publish::KafkaPublisher;
use super::read::{Raw, stored};
use super::{Shared, sort};
use crate::error::SinkError;
use crate::state::State;
use crate::topic::Topic;
use crate::traits::Recovered;

/// How long a look at State or registry waits for a transaction that is being committed. One that a dead bridge left
/// open does not end by waiting.
const LOOK: Duration = Duration::from_millis(250);

impl Shared {
    pub(super) fn recover(&self, mdt: &MdtName, topics: &[Topic]) -> Result<Recovered, SinkError> {
        let state_topic = self.config.state_topic(mdt.as_str());
        let what = format!("publishing {mdt}");
        let make = |id: Option<&str>, topics: &[String]| {
            let config = self.config.producer(id)?;
            Producer::new(&config, topics).map(Arc::new).map_err(|e| sort(&what, &e))
        };
        let mut names: Vec<String> = topics.iter().map(|t| t.name.clone()).collect();
        let (records, states) = match self.config.delivery {
            Delivery::Transactional => {
                names.push(state_topic.clone());
                let both = make(Some(&state_topic), &names)?;
                (Arc::clone(&both), both)
            }
            Delivery::Idempotent => {
                (make(None, &names)?, make(Some(&state_topic), std::slice::from_ref(&state_topic))?)
            }
        };
        states
            .init_transactions(self.config.request_timeout_ms)
            .map_err(|e| sort(format!("{what}: taking the fence"), &e))?;

        let end = self.settled(&state_topic, 1)?[0];
        let state = self.last_state(&state_topic, end)?;
        let mut tails = Vec::with_capacity(topics.len());
        let mut used = false;
        for topic in topics {
            let ends = self.settled(&topic.name, topic.partitions)?;
            let lows = self.lows(topic)?;
            let last = self.last_records(&topic.name, &lows, &ends, &mut |raw| stored(topic, raw))?;
            used |= last.iter().any(Option::is_some) || lows.iter().any(|l| *l > 0);
            tails.push(last);
        }
        Ok(Recovered {
            publisher: Box::new(KafkaPublisher::new(&self.config, what, topics, records, states)?),
            state,
            tails,
            used,
        })
    }

    pub(super) fn peek_state(&self, mdt: &MdtName) -> Result<Option<State>, SinkError> {
        let topic = self.config.state_topic(mdt.as_str());
        match self.describe(&topic)? {
            Some(_) => self.last_state(&topic, self.visible_end(&topic)?),
            None => Ok(None),
        }
    }

    /// The ends of a topic, once no transaction below them is open any more: the fence has ended them, but their end
    /// may still be on its way to the partition.
    pub(super) fn settled(&self, topic: &str, partitions: u32) -> Result<Vec<u64>, SinkError> {
        let ends = self.offsets(topic, partitions, Where::End)?;
        self.settle(topic, &ends)?;
        Ok(ends)
    }

    /// Waits until everything below `ends` is decided.
    pub(super) fn settle(&self, topic: &str, ends: &[u64]) -> Result<(), SinkError> {
        let patience =
            Duration::from_millis(u64::from(self.config.transaction_timeout_ms)) + self.config.request_timeout();
        if self.settle_within(topic, ends, patience)? {
            return Ok(());
        }
        Err(SinkError::Unavailable {
            what: format!("reading {topic}"),
            why: format!("a transaction is open in it for {} s", patience.as_secs()),
        })
    }

    fn settle_within(&self, topic: &str, ends: &[u64], patience: Duration) -> Result<bool, SinkError> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            let stable = self.offsets(topic, ends.len() as u32, Where::Stable)?;
            if stable.iter().zip(ends).all(|(stable, end)| stable >= end) {
                return Ok(true);
            }
            if began.elapsed() > patience {
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// The end for a reader that fences nobody: it waits a little for what is being committed, and takes less if
    /// another writer's transaction stays open.
    pub(super) fn visible_end(&self, topic: &str) -> Result<u64, SinkError> {
        let end = self.offsets(topic, 1, Where::End)?;
        self.settle_within(topic, &end, LOOK)?;
        Ok(self.offsets(topic, 1, Where::Stable)?[0])
    }

    fn last_state(&self, topic: &str, end: u64) -> Result<Option<State>, SinkError> {
        let lows = self.offsets(topic, 1, Where::Low)?;
        let found = self.last_records(topic, &lows, &[end], &mut |raw: &Raw<'_>| {
            State::read(&format!("State in {topic} at offset {}", raw.at.offset), raw.payload)
        })?;
        Ok(found.into_iter().next().flatten())
    }
}
