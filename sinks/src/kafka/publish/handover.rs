//! The way to librdkafka and back: what waits is handed over in order, delivery reports are taken, and the transaction
//! moves on. Nothing here waits for the broker unless it is told how long.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::super::commit::{Job, STATE_TAG};
use super::super::config::MESSAGE_OVERHEAD;
use super::super::native::NativeError;
use super::super::slot::{SEQ_BITS, Wrong};
use super::{KafkaPublisher, Phase};
use crate::error::SinkError;

impl KafkaPublisher {
    /// Whether librdkafka may be given messages now.
    pub(super) fn may_hand_over(&self) -> bool {
        !self.transactional || matches!(self.phase, Phase::Idle | Phase::Open)
    }

    pub(super) fn begin(&mut self) -> Result<(), SinkError> {
        if self.transactional && self.phase == Phase::Idle {
            self.records.begin().map_err(|e| self.native("begin", &e))?;
            self.phase = Phase::Open;
        }
        Ok(())
    }

    /// Hands over one slot's arena if it fits; false if it must wait.
    pub(super) fn hand_over(&mut self, slot: usize) -> Result<bool, SinkError> {
        let s = &self.slots[slot];
        if s.arena.is_empty() {
            return Ok(true);
        }
        let cost = s.arena.bytes() + s.arena.len() * MESSAGE_OVERHEAD;
        if self.handed > 0 && self.handed + cost > self.handed_limit {
            return Ok(false);
        }
        self.begin()?;
        let s = &mut self.slots[slot];
        let count = s.arena.len() as u64;
        let taken = self.records.produce(usize::from(s.topic.0), s.partition, &mut s.arena);
        s.handed.push_back((s.published, cost));
        self.in_arenas -= cost;
        self.handed += cost;
        self.outstanding += count;
        taken.map_err(|e| self.native("produce", &e))?;
        Ok(true)
    }

    pub(super) fn hand_over_all(&mut self) -> Result<bool, SinkError> {
        while let Some(slot) = self.waiting.front().copied() {
            if !self.hand_over(slot)? {
                return Ok(false);
            }
            self.waiting.pop_front();
        }
        Ok(true)
    }

    /// Takes delivery reports, waiting at most `wait_ms` for the first.
    pub(super) fn serve(&mut self, wait_ms: u32) -> Result<(), SinkError> {
        let (slots, transactional) = (&mut self.slots, self.transactional);
        let (mut count, mut freed, mut wrong) = (0u64, 0usize, None);
        let served = self.records.serve(wait_ms, &mut |r| {
            count += 1;
            let taken = if r.tag == STATE_TAG {
                r.error.map_or(Ok(0), |code| Err(Wrong::Undelivered(code)))
            } else {
                slots[(r.tag >> SEQ_BITS) as usize].take(&r, transactional)
            };
            match taken {
                Ok(cost) => freed += cost,
                Err(e) => wrong = wrong.take().or(Some(e)),
            }
        });
        self.outstanding -= count;
        self.handed -= freed;
        served.map_err(|e| self.native("deliver", &e))?;
        match wrong {
            None => Ok(()),
            Some(Wrong::Undelivered(code)) => {
                let e = NativeError::from(rdkafka::error::KafkaError::MessageProduction(code));
                Err(self.native("deliver", &e))
            }
            Some(Wrong::Gap(why)) => {
                let e = SinkError::Unavailable { what: self.what.clone(), why };
                Err(self.fail(e))
            }
            Some(Wrong::Fell(why)) => {
                let e = SinkError::Mismatch {
                    what: self.what.clone(),
                    why,
                    hint: "the topic was recreated or the broker lost records: see `clbridge status`, then `clbridge reset`"
                        .to_owned(),
                };
                Err(self.fail(e))
            }
        }
    }

    /// Moves the transaction on as far as it goes without waiting.
    pub(super) fn advance(&mut self) -> Result<(), SinkError> {
        if self.may_hand_over() || self.sealing {
            let all = self.hand_over_all()?;
            if all && self.sealing {
                self.hand_over_state()?;
                self.sealing = false;
            }
        }
        if self.phase == Phase::Flushing && !self.sealing && self.outstanding == 0 {
            self.phase = Phase::Committing;
            self.submit(Job::Commit)?;
        }
        Ok(())
    }

    /// State goes last into its batch.
    fn hand_over_state(&mut self) -> Result<(), SinkError> {
        let count = self.state_arena.len() as u64;
        if count > 0 {
            let taken = self.records.produce(self.state_topic, 0, &mut self.state_arena);
            taken.map_err(|e| self.native("produce State", &e))?;
            self.outstanding += count;
        }
        Ok(())
    }

    pub(super) fn submit(&mut self, job: Job) -> Result<(), SinkError> {
        if self.jobs.send(job).is_err() {
            let e = SinkError::Unavailable { what: self.what.clone(), why: "the commit thread ended".to_owned() };
            return Err(self.fail(e));
        }
        Ok(())
    }

    /// Takes the commit thread's answer, waiting at most `wait`.
    pub(super) fn answered(&mut self, wait: Duration) -> Result<bool, SinkError> {
        match self.answers.recv_timeout(wait) {
            Ok(Ok(())) => Ok(true),
            Ok(Err(e)) => Err(self.native(if self.transactional { "commit" } else { "write State" }, &e)),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                let e = SinkError::Unavailable { what: self.what.clone(), why: "the commit thread ended".to_owned() };
                Err(self.fail(e))
            }
        }
    }
}
