//! Messages on their way, in order, bounded in number and bytes.
//!
//! A message's future is polled once, which queues its frames, and kept in line; the front is awaited. So the client
//! writes many messages at once. lapin pairs a message that came back with whichever confirm it resolves next: a confirm
//! is believed only once every one behind it that has come was looked at.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lapin::Confirmation;

use super::lane::Place;
use crate::amqp::label::Span;
use crate::amqp::lease::returned;
use crate::amqp::life::Death;

/// The client's own memory for one message, bytes.
const MESSAGE_OVERHEAD: usize = 700;

/// One message on its way.
pub(super) struct Flight {
    confirm: BoxFuture<'static, lapin::Result<Confirmation>>,
    outcome: Option<lapin::Result<Confirmation>>,
    cost: usize,
    /// What is durable with it: records, and their bytes.
    pub(super) carries: (u64, u64),
    /// To be reported when it is durable.
    pub(super) places: Vec<Place>,
    /// The confirm is this group's acknowledgement, in the topic with this number.
    pub(super) settles: Option<(usize, String, Span)>,
}

impl Flight {
    /// A message of `size` bytes; its frames are queued here.
    pub(super) fn new(mut confirm: BoxFuture<'static, lapin::Result<Confirmation>>, size: usize) -> Self {
        let outcome = (&mut confirm).now_or_never();
        let cost = size + MESSAGE_OVERHEAD;
        Self { confirm, outcome, cost, carries: (0, 0), places: Vec::new(), settles: None }
    }
}

/// See the module.
pub(super) struct Window {
    flights: VecDeque<Flight>,
    most: usize,
    cost: usize,
    most_cost: usize,
    /// When something was confirmed for the last time, or sent while nothing was on its way.
    heard: Instant,
    /// Messages sent, and confirmed, so far.
    pub(super) sent: u64,
    pub(super) confirmed: u64,
}

impl Window {
    /// At most so many messages, and bytes of them.
    pub(super) fn new(most: usize, most_cost: usize) -> Self {
        Self { flights: VecDeque::new(), most, cost: 0, most_cost, heard: Instant::now(), sent: 0, confirmed: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.flights.len() >= self.most || self.cost >= self.most_cost
    }

    pub(super) fn push(&mut self, flight: Flight) {
        if self.flights.is_empty() {
            self.heard();
        }
        self.cost += flight.cost;
        self.sent += 1;
        self.flights.push_back(flight);
    }

    /// How long the broker has been expected to confirm something.
    pub(super) fn silence(&self) -> Duration {
        if self.flights.is_empty() { Duration::ZERO } else { self.heard.elapsed() }
    }

    /// Nothing was to be expected of the broker until now.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// The message that went out last, unless it is confirmed already.
    pub(super) fn last_mut(&mut self) -> Option<&mut Flight> {
        self.flights.back_mut()
    }

    /// Gives every message that was confirmed to `each`, in order; false if none was. `bell` is woken when the next one
    /// is. An error is the end of everything that is on its way.
    pub(super) fn harvest(&mut self, bell: &Waker, mut each: impl FnMut(Flight)) -> Result<bool, Death> {
        let Some(front) = self.flights.front_mut() else { return Ok(false) };
        if front.outcome.is_none() {
            match Pin::new(&mut front.confirm).poll(&mut Context::from_waker(bell)) {
                Poll::Ready(outcome) => front.outcome = Some(outcome),
                Poll::Pending => return Ok(false),
            }
        }
        // Whatever came back may be found with any confirm that has come by now.
        let mut wrong = None;
        for flight in &mut self.flights {
            if flight.outcome.is_none() {
                flight.outcome = (&mut flight.confirm).now_or_never();
            }
            wrong = wrong.or(match &flight.outcome {
                None | Some(Ok(Confirmation::Ack(None))) => None,
                Some(Ok(Confirmation::Ack(Some(m)) | Confirmation::Nack(Some(m)))) => Some(returned(m)),
                Some(Ok(Confirmation::Nack(None))) => {
                    Some(Death::Lost("the broker refused a message (nack): is a queue full?".to_owned()))
                }
                Some(Ok(Confirmation::NotRequested)) => Some(Death::Lost("confirms are not on".to_owned())),
                Some(Err(e)) => Some(Death::Lost(format!("a message was not confirmed: {e}"))),
            });
        }
        if let Some(death) = wrong {
            return Err(death);
        }
        while self.flights.front().is_some_and(|f| f.outcome.is_some()) {
            let Some(flight) = self.flights.pop_front() else { break };
            self.cost -= flight.cost;
            self.confirmed += 1;
            each(flight);
        }
        self.heard();
        Ok(true)
    }
}
