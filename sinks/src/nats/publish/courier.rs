//! The task that hands messages to the client, within a window, and takes the server's answers. Whatever is not an
//! answer that everything is stored where it was meant to be ends it.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode, publish::PublishAck};
use async_nats::{HeaderMap, Message, StatusCode, Subject, Subscriber, header};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::ask::value_subject;
use super::super::config::NatsConfig;
use super::super::link::Link;
use super::Begin;
use super::chain::{Item, Part};
use crate::error::SinkError;
use crate::retraction::RETRACTS_HEADER;

/// Work for the task.
pub(super) enum Job {
    /// Messages of the topic of this number.
    Records(usize, Part),
    /// State.
    State(Vec<u8>),
}

/// What came of it.
pub(super) enum Answer {
    /// Every message of the topic up to this sequence is stored.
    Acked { topic: usize, sequence: u64 },
    /// State is written.
    Stored,
    /// Nothing goes on.
    Failed(SinkError),
}

/// How often it looks whether answers are overdue.
const LOOK: Duration = Duration::from_millis(250);
/// What the answer to State is recognised by.
const STATE: &str = "state";

/// A topic's stream as the task sees it.
struct Lane {
    stream: String,
    /// Messages sent and not known to be stored.
    outstanding: u64,
    /// The last sequence that is known to be stored.
    acked: u64,
    /// Sent and not yet answered, with the time.
    asked: VecDeque<(u64, Instant)>,
    /// Whether this writer has had an answer here: then the chain is its own.
    begun: bool,
}

pub(super) struct Courier {
    link: Link,
    what: String,
    lanes: Vec<Lane>,
    queue: VecDeque<(usize, Part, usize)>,
    window: u64,
    patience: Duration,
    state_subject: String,
    revision: u64,
    storing: Option<Instant>,
    inbox: String,
}

impl Courier {
    pub(super) fn new(config: &NatsConfig, link: Link, what: &str, begin: &Begin) -> Self {
        let lane = |(topic, end): (&crate::topic::Topic, &u64)| Lane {
            stream: topic.name.clone(),
            outstanding: 0,
            acked: end - 1,
            asked: VecDeque::new(),
            begun: false,
        };
        Self {
            inbox: link.client.new_inbox(),
            lanes: begin.topics.iter().zip(&begin.ends).map(lane).collect(),
            queue: VecDeque::new(),
            window: u64::from(config.window),
            patience: config.request_timeout(),
            state_subject: value_subject(&config.state_bucket(), begin.mdt.as_str()),
            revision: begin.revision,
            storing: None,
            what: what.to_owned(),
            link,
        }
    }

    /// Works until the publisher is gone or something fails, which is its last answer.
    pub(super) async fn run(mut self, mut jobs: UnboundedReceiver<Job>, answers: Sender<Answer>) {
        if let Err(e) = self.work(&mut jobs, &answers).await {
            let _ = answers.send(Answer::Failed(e));
        }
    }

    async fn work(&mut self, jobs: &mut UnboundedReceiver<Job>, answers: &Sender<Answer>) -> Result<(), SinkError> {
        let subscribed = self.link.client.subscribe(format!("{}.>", self.inbox)).await;
        let mut replies: Subscriber = subscribed.map_err(|e| self.unavailable(e.to_string()))?;
        let mut lost = self.link.lost.clone();
        lost.mark_unchanged();
        let mut look = tokio::time::interval(LOOK);
        loop {
            if lost.has_changed().unwrap_or(true) {
                return Err(self.unavailable("the connection was lost".to_owned()));
            }
            while self.is_open()
                && let Some((lane, part, at)) = self.queue.pop_front()
            {
                self.send_some(lane, part, at).await?;
            }
            tokio::select! {
                reply = replies.next() => {
                    let reply = reply.ok_or_else(|| self.unavailable("the connection was closed".to_owned()))?;
                    if let Some(answer) = self.answered(&reply)?
                        && answers.send(answer).is_err()
                    {
                        return Ok(());
                    }
                }
                job = jobs.recv() => match job {
                    None => return Ok(()),
                    Some(Job::Records(lane, part)) => self.queue.push_back((lane, part, 0)),
                    Some(Job::State(bytes)) => self.store(bytes).await?,
                },
                _ = lost.changed() => return Err(self.unavailable("the connection was lost".to_owned())),
                _ = look.tick() => self.look()?,
            }
        }
    }

    /// Whether more may be sent: the window is not full, and no first message is unanswered.
    fn is_open(&self) -> bool {
        let sum: u64 = self.lanes.iter().map(|l| l.outstanding).sum();
        sum < self.window && self.lanes.iter().all(|l| l.begun || l.outstanding == 0)
    }

    /// Sends a part from its message `at` on; what the window does not hold goes back to the front of the queue.
    async fn send_some(&mut self, lane: usize, part: Part, mut at: usize) -> Result<(), SinkError> {
        while at < part.items.len() {
            if !self.is_open() {
                self.queue.push_front((lane, part, at));
                return Ok(());
            }
            let from = at.checked_sub(1).and_then(|before| part.items.get(before)).map_or(0, |item| item.end);
            if let Some(item) = part.items.get(at) {
                self.send(lane, item, part.payloads.slice(from..item.end)).await?;
            }
            at += 1;
        }
        Ok(())
    }

    async fn send(&mut self, lane: usize, item: &Item, payload: Bytes) -> Result<(), SinkError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, (item.sequence - 1).to_string());
        headers.insert(header::NATS_MESSAGE_ID, item.id.as_str());
        if let Some(after) = &item.after {
            headers.insert(header::NATS_EXPECTED_LAST_MESSAGE_ID, after.as_str());
        }
        if let Some(retracts) = &item.retracts {
            headers.insert(RETRACTS_HEADER, retracts.as_str());
        }
        let reply = item.answer.then(|| format!("{}.{lane}.{}", self.inbox, item.sequence));
        self.hand(item.subject.clone(), reply, headers, payload).await?;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.outstanding += 1;
            if item.answer {
                lane.asked.push_back((item.sequence, Instant::now()));
            }
        }
        Ok(())
    }

    /// Hands one message to the client, which takes none while the server takes none.
    async fn hand(
        &self,
        subject: Subject,
        reply: Option<String>,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), SinkError> {
        let client = &self.link.client;
        let taken = tokio::time::timeout(self.patience, async {
            match reply {
                Some(reply) => client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
                None => client.publish_with_headers(subject, headers, payload).await,
            }
        });
        match taken.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(self.unavailable(e.to_string())),
            Err(_) => Err(self.silent()),
        }
    }

    async fn store(&mut self, bytes: Vec<u8>) -> Result<(), SinkError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, self.revision.to_string());
        let reply = format!("{}.{STATE}.0", self.inbox);
        self.storing = Some(Instant::now());
        self.hand(Subject::from(self.state_subject.clone()), Some(reply), headers, bytes.into()).await
    }

    /// Takes one answer.
    fn answered(&mut self, reply: &Message) -> Result<Option<Answer>, SinkError> {
        if reply.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(self.unavailable("nothing answers for the stream".to_owned()));
        }
        let mut tokens = reply.subject.rsplit('.');
        let (sequence, lane) = (tokens.next().unwrap_or_default(), tokens.next().unwrap_or_default());
        let answer: Response<PublishAck> = serde_json::from_slice(&reply.payload)
            .map_err(|e| self.unavailable(format!("an answer cannot be understood: {e}")))?;
        if lane == STATE {
            return match answer {
                Response::Ok(ack) => {
                    self.revision = ack.sequence;
                    self.storing = None;
                    Ok(Some(Answer::Stored))
                }
                Response::Err { error } if error.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE => {
                    Err(SinkError::Fenced { what: format!("{}: State", self.what), owner: None })
                }
                Response::Err { error } => Err(self.unavailable(format!("State was refused: {error}"))),
            };
        }
        let (topic, sequence) = (lane.parse::<usize>(), sequence.parse::<u64>());
        let (Ok(topic), Ok(sequence)) = (topic, sequence) else { return Ok(None) };
        let ack = match answer {
            Response::Ok(ack) => ack,
            Response::Err { error } => return Err(self.refused(topic, sequence, &error)),
        };
        let Some(lane) = self.lanes.get_mut(topic) else { return Ok(None) };
        if ack.stream != lane.stream || ack.sequence != sequence || ack.duplicate {
            return Err(SinkError::Mismatch {
                what: self.what.clone(),
                why: format!(
                    "message {sequence} of {} was confirmed as {} of {}{}",
                    lane.stream,
                    ack.sequence,
                    ack.stream,
                    if ack.duplicate { ", a duplicate" } else { "" }
                ),
                hint: "find out which other stream takes its subjects; nobody but the bridge may write there"
                    .to_owned(),
            });
        }
        lane.begun = true;
        lane.outstanding -= sequence.saturating_sub(lane.acked).min(lane.outstanding);
        lane.acked = lane.acked.max(sequence);
        while lane.asked.front().is_some_and(|(asked, _)| *asked <= sequence) {
            lane.asked.pop_front();
        }
        Ok(Some(Answer::Acked { topic, sequence }))
    }

    /// Sorts a refusal. In the middle of a chain that has begun, a message that somebody else wrote means another
    /// bridge; at its beginning it may be what an older connection still had on its way.
    fn refused(&self, topic: usize, sequence: u64, error: &jetstream::Error) -> SinkError {
        let Some(lane) = self.lanes.get(topic) else { return self.unavailable(error.to_string()) };
        let text = error.to_string();
        let foreign = match error.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE => {
                named(&text, "sequence: ").parse::<u64>().is_ok_and(|last| last >= sequence)
            }
            // After a restart the server has forgotten the last message's identity, and names none.
            ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID => !named(&text, "ID: ").is_empty(),
            _ => false,
        };
        if foreign && lane.begun {
            return SinkError::Fenced {
                what: format!("{}: message {sequence} of {}", self.what, lane.stream),
                owner: None,
            };
        }
        self.unavailable(format!("message {sequence} of {} was refused: {text}", lane.stream))
    }

    /// Ends it if an answer is overdue.
    fn look(&self) -> Result<(), SinkError> {
        let oldest = self.lanes.iter().filter_map(|l| l.asked.front()).map(|(_, at)| *at);
        if oldest.chain(self.storing).any(|at| at.elapsed() > self.patience) { Err(self.silent()) } else { Ok(()) }
    }

    fn silent(&self) -> SinkError {
        self.unavailable(format!("no answer in {} s; what was sent may be stored or not", self.patience.as_secs()))
    }

    fn unavailable(&self, why: String) -> SinkError {
        SinkError::Unavailable { what: self.what.clone(), why }
    }
}

/// What a refusal names behind `label`.
fn named<'t>(text: &'t str, label: &str) -> &'t str {
    let rest = text.split_once(label).map_or("", |(_, rest)| rest);
    rest.split([' ', ',', '(', '"']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_what_stands_there() {
        assert_eq!(named("wrong last sequence: 116872 (code 400, error code 10071)", "sequence: "), "116872");
        assert_eq!(named("wrong last msg ID: 7:1:15 (code 400, error code 10070)", "ID: "), "7:1:15");
        assert_eq!(named("wrong last msg ID:  (code 400, error code 10070)", "ID: "), "");
        assert_eq!(named("maximum messages exceeded", "ID: "), "");
    }
}
