//! The thread of one publisher that may block: commits, and State on its own.
//!
//! A commit takes some 2 ms, but one that meets a stalled broker takes as long as the stall: the MDT's thread must not
//! wait for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::native::{Arena, NativeError, Producer};

/// Tag of State among delivery reports; no slot has this number.
pub(super) const STATE_TAG: u64 = u64::MAX;
/// Key of State in its compacted topic.
pub(super) const STATE_KEY: &[u8] = b"state";

/// Work for the thread that may block.
pub(super) enum Job {
    Commit,
    State(Vec<u8>),
}

/// What each job came to, in order.
pub(super) type Answers = Receiver<Result<(), NativeError>>;

/// Starts the thread; it ends when the jobs do, or soon after `given_up` is set.
pub(super) fn spawn(producer: Arc<Producer>, given_up: Arc<AtomicBool>) -> std::io::Result<(Sender<Job>, Answers)> {
    let (jobs, todo) = channel();
    let (done, answers) = channel();
    std::thread::Builder::new().name("kafka-commit".to_owned()).spawn(move || {
        for job in todo {
            let answer = match job {
                Job::Commit => commit(&producer, &given_up),
                Job::State(bytes) => write_state(&producer, &bytes, &given_up),
            };
            if done.send(answer).is_err() {
                return;
            }
        }
    })?;
    Ok((jobs, answers))
}

/// Commits, as often as the answer is that it may be tried again.
fn commit(producer: &Producer, given_up: &AtomicBool) -> Result<(), NativeError> {
    loop {
        match producer.commit(COMMIT_WAIT_MS) {
            Err(e) if e.retriable && !given_up.load(Ordering::Relaxed) => {}
            answer => return answer,
        }
    }
}

/// How long one call of commit waits; then it is called again, so this bounds nothing but the call.
const COMMIT_WAIT_MS: u32 = 10_000;

/// Writes State as a transaction of its own.
fn write_state(producer: &Producer, bytes: &[u8], given_up: &AtomicBool) -> Result<(), NativeError> {
    let mut arena = Arena::default();
    arena.push(STATE_TAG, Some(STATE_KEY), bytes);
    producer.begin()?;
    producer.produce(0, 0, &mut arena)?;
    let mut outstanding = true;
    while outstanding && !given_up.load(Ordering::Relaxed) {
        let mut error = None;
        producer.serve(10, &mut |r| {
            outstanding = false;
            error = r.error;
        })?;
        if let Some(code) = error {
            return Err(producer.fatal().unwrap_or_else(|| rdkafka::error::KafkaError::MessageProduction(code).into()));
        }
        if outstanding {
            producer.hurry();
        }
    }
    if outstanding {
        return Err(rdkafka::error::KafkaError::Canceled.into());
    }
    commit(producer, given_up)
}
