//! The writer of one MDT: each record is one message (or several are packed into one), confirmed by the broker.
//!
//! A message's future is polled once, which queues its frames, and kept in line; the front is awaited. So the client
//! writes many messages at once, in order. The window is bounded in messages and bytes. lapin pairs a message that came
//! back with whichever confirm it resolves next: a confirm is believed only once every one behind it that has come was
//! looked at, and anything that came back ends this publisher with its whole window.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use clbridge_schemas::ids::RecordId;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::mpsc::UnboundedSender;

use super::config::AmqpConfig;
use super::label::Span;
use super::lease::{Store, returned};
use super::life::{Death, Life, Routes};
use super::link::{PERSISTENT, short};
use super::topology::{KEY_HEADER, PACKED, RETRACTION};
use crate::error::{Refused, SinkError};
use crate::retraction::{RETRACTS_HEADER, header_of};
use crate::state::{STATE_MAX_BYTES, State};
use crate::topic::{Position, TopicIx};
use crate::traits::{Durable, Message, Publisher};

/// `content_type` of a message with one record, and of one with several: each behind its length, 4 bytes, big-endian.
pub(super) const ONE: &str = "avro/binary";
pub(super) const MANY: &str = "application/vnd.clbridge.packed";
/// The client's own memory for one message, bytes.
const MESSAGE_OVERHEAD: usize = 700;
/// Every so many records one is reported with its place.
const SAMPLE: u64 = 256;
/// A packed message is not made larger than this, bytes.
const PACKED_BYTES: usize = 1 << 20;

type Place = (TopicIx, Position, RecordId);

/// What is written on a message: its type, its id without the topic's, and the kind of its content.
struct Written<'a> {
    kind: &'a str,
    id: &'a str,
    content: &'static str,
}

/// One message on its way.
struct Flight {
    confirm: BoxFuture<'static, lapin::Result<Confirmation>>,
    outcome: Option<lapin::Result<Confirmation>>,
    records: u64,
    bytes: u64,
    cost: usize,
    /// To be reported when it is durable.
    places: Vec<Place>,
    /// The confirm is this group's acknowledgement.
    settles: Option<(usize, String, Span)>,
}

/// Records that wait to be packed into one message.
#[derive(Default)]
struct Pack {
    body: Vec<u8>,
    records: u64,
    bytes: u64,
    span: Option<Span>,
    places: Vec<Place>,
    time_ns: i64,
}

/// One topic as its writer sees it.
struct Lane {
    /// The last index that was published or is settled otherwise: what lies between it and the next record was dropped.
    before: u64,
    routes: Arc<Routes>,
    pack: Pack,
    published: u64,
    /// The next record begins a batch.
    fresh: bool,
    /// The last record, and whether its place is to be reported.
    last: Option<(Place, bool)>,
    reply_to: ShortString,
    mdt: String,
}

/// A sealed batch that is not durable yet.
struct Sealed {
    /// Number of messages before the seal.
    until: u64,
    frontier: Option<RecordId>,
    /// Position of the last record of each topic.
    tails: Vec<Option<u64>>,
}

/// The AMQP [`Publisher`].
pub(super) struct AmqpPublisher {
    what: String,
    life: Arc<Life>,
    channel: Arc<Channel>,
    stores: UnboundedSender<Store>,
    lanes: Vec<Lane>,
    routes_version: u64,
    window: VecDeque<Flight>,
    max_window: usize,
    cost: usize,
    max_cost: usize,
    per_message: u64,
    /// Messages sent and confirmed.
    sent: u64,
    confirmed: u64,
    sealed: VecDeque<Sealed>,
    /// Tails at the frontiers that were reported durable: where State's frontier may be.
    tails: VecDeque<(RecordId, Vec<Option<u64>>)>,
    undurable: (u64, u64),
    /// Places whose message is durable already.
    unreported: Vec<Place>,
    storing: Option<u64>,
    /// Why nothing was taken when it was last looked.
    stalled: Option<String>,
}

impl AmqpPublisher {
    /// The writer of a life that has the lease. `state` and `tails` as they were found.
    pub(super) fn new(
        config: &AmqpConfig,
        life: &Arc<Life>,
        channel: Arc<Channel>,
        stores: UnboundedSender<Store>,
        state: Option<&State>,
        tails: &[Option<u64>],
    ) -> Self {
        let frontier = state.and_then(|s| s.frontier).map(|f| f.id);
        let reply_to = short(&config.answer_queue(&life.mdt)).unwrap_or_default();
        let lanes = life.topics.iter().map(|_| Lane {
            before: frontier.map_or(0, |f| f.index.get()),
            routes: Arc::default(),
            pack: Pack::default(),
            published: 0,
            fresh: true,
            last: None,
            reply_to: reply_to.clone(),
            mdt: life.mdt.to_string(),
        });
        Self {
            what: format!("publishing {}", life.mdt),
            lanes: lanes.collect(),
            life: Arc::clone(life),
            channel,
            stores,
            routes_version: 0,
            window: VecDeque::new(),
            max_window: config.window as usize,
            cost: 0,
            max_cost: config.memory_bytes / 2,
            per_message: u64::from(config.records_per_message),
            sent: 0,
            confirmed: 0,
            sealed: VecDeque::new(),
            tails: frontier.map(|f| (f, tails.to_vec())).into_iter().collect(),
            undurable: (0, 0),
            unreported: Vec::new(),
            storing: None,
            stalled: None,
        }
    }

    fn mistake(&self, why: String) -> SinkError {
        SinkError::Mismatch {
            what: self.what.clone(),
            why,
            hint: "this is a fault of clbridge: please report it".to_owned(),
        }
    }

    /// Why nothing can be taken now, if so.
    fn stall(&self, lane: usize) -> Option<String> {
        let (topic, routes) = (&self.life.topics[lane].topic.name, &self.lanes[lane].routes);
        if routes.bound.is_empty() && routes.confirm.is_empty() {
            return Some(format!("no group takes {topic}: `clbridge groups add NAME` makes one"));
        }
        self.life.is_full().then(|| format!("answers of a group of {topic} lie too far apart: see `clbridge status`"))
    }

    fn follow_routes(&mut self) {
        let version = self.life.routes_version();
        if version != self.routes_version {
            self.routes_version = version;
            for (lane, topic) in self.lanes.iter_mut().zip(&self.life.topics) {
                lane.routes = topic.routes();
            }
        }
    }

    /// Sends one message to every queue that it is for.
    fn send(
        &mut self,
        lane: usize,
        span: Span,
        headers: FieldTable,
        pack: Pack,
        Written { kind, id, content }: Written<'_>,
    ) -> Result<(), SinkError> {
        let topic = &self.life.topics[lane];
        let routes = Arc::clone(&self.lanes[lane].routes);
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(content.into())
            .with_message_id(short(&format!("{}{id}", topic.stem))?)
            .with_correlation_id(short(&format!("{}{span}", topic.stem))?)
            .with_reply_to(self.lanes[lane].reply_to.clone())
            .with_timestamp(u64::try_from(pack.time_ns / 1_000_000_000).unwrap_or(0))
            .with_type(short(kind)?)
            .with_headers(headers);
        let mut targets = Vec::with_capacity(1 + routes.confirm.len());
        if !routes.bound.is_empty() {
            let key = short(&format!("{}.{kind}", self.lanes[lane].mdt))?;
            targets.push((topic.exchange.clone(), key, None));
        }
        for (group, queue) in &routes.confirm {
            targets.push((ShortString::default(), queue.clone(), Some((lane, group.clone(), span))));
        }
        let last = targets.len().saturating_sub(1);
        let size = pack.body.len();
        let body: Arc<[u8]> = pack.body.into();
        let mut places = pack.places;
        for (n, (exchange, key, settles)) in targets.into_iter().enumerate() {
            let (channel, body, properties) = (Arc::clone(&self.channel), Arc::clone(&body), properties.clone());
            let mut confirm: BoxFuture<'static, _> = Box::pin(async move {
                let options = BasicPublishOptions { mandatory: true, immediate: false };
                channel.basic_publish(exchange, key, options, &body, properties).await?.await
            });
            // The first poll queues its frames.
            let outcome = (&mut confirm).now_or_never();
            let cost = size + MESSAGE_OVERHEAD;
            self.cost += cost;
            self.sent += 1;
            let mut flight = Flight { confirm, outcome, records: 0, bytes: 0, cost, places: Vec::new(), settles };
            if n == last {
                // What goes to several queues is durable with the last of them.
                (flight.records, flight.bytes, flight.places) = (pack.records, pack.bytes, std::mem::take(&mut places));
            }
            self.window.push_back(flight);
        }
        Ok(())
    }

    fn flush(&mut self, lane: usize) -> Result<(), SinkError> {
        let pack = std::mem::take(&mut self.lanes[lane].pack);
        let Some(span) = pack.span else { return Ok(()) };
        let id = span.to_string();
        self.send(lane, span, FieldTable::default(), pack, Written { kind: PACKED, id: &id, content: MANY })
    }

    fn flush_all(&mut self) -> Result<(), SinkError> {
        (0..self.lanes.len()).try_for_each(|lane| self.flush(lane))
    }

    /// Takes what has been confirmed; true if anything was.
    fn harvest(&mut self, durable: &mut dyn FnMut(Durable)) -> Result<bool, SinkError> {
        let bell = Waker::from(Arc::clone(&self.life.bell));
        let Some(front) = self.window.front_mut() else { return Ok(false) };
        if front.outcome.is_none() {
            match Pin::new(&mut front.confirm).poll(&mut Context::from_waker(&bell)) {
                Poll::Ready(outcome) => front.outcome = Some(outcome),
                Poll::Pending => return Ok(false),
            }
        }
        // Whatever came back may be found with any confirm that has come by now.
        let mut wrong = None;
        for flight in &mut self.window {
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
            self.life.die(death);
            self.life.ensure_alive()?;
        }
        while self.window.front().is_some_and(|f| f.outcome.is_some()) {
            let Some(flight) = self.window.pop_front() else { break };
            self.cost -= flight.cost;
            self.confirmed += 1;
            self.undurable.0 -= flight.records;
            self.undurable.1 -= flight.bytes;
            if let Some((lane, group, span)) = &flight.settles {
                // A group that was removed meanwhile has nothing to acknowledge.
                let _ = self.life.topics[*lane].fold().answer(group, span);
                self.life.dirty.store(true, std::sync::atomic::Ordering::Release);
            }
            for (topic, at, id) in flight.places {
                durable(Durable::At { topic, at, id });
            }
        }
        Ok(true)
    }

    /// Reports batches all of whose messages are durable; true if there was any.
    fn report(&mut self, durable: &mut dyn FnMut(Durable)) -> bool {
        let mut any = false;
        while self.sealed.front().is_some_and(|s| s.until <= self.confirmed) {
            let Some(sealed) = self.sealed.pop_front() else { break };
            any = true;
            if let Some(frontier) = sealed.frontier {
                self.tails.push_back((frontier, sealed.tails));
                // State tells the newest durable frontier, or one that it was about to write just before.
                while self.tails.len() > 64 {
                    self.tails.pop_front();
                }
                durable(Durable::Frontier(frontier));
            }
        }
        while let Some(number) = self.life.next_stored() {
            if self.storing == Some(number) {
                self.storing = None;
            }
            any = true;
            durable(Durable::State(number));
        }
        any
    }

    /// The tails that belong to State's frontier.
    fn tails_at(&self, state: &State) -> Vec<Option<u64>> {
        let Some(frontier) = state.frontier else { return vec![None; self.lanes.len()] };
        // The next incarnation begins at the frontier of the one before, with the same index.
        let index = frontier.id.index;
        let known = self.tails.iter().rev().find(|(f, _)| f.index <= index);
        known.map_or_else(|| vec![None; self.lanes.len()], |(_, tails)| tails.clone())
    }

    fn tails_now(&self) -> Vec<Option<u64>> {
        let before = self.sealed.back().map(|s| &s.tails).or(self.tails.back().map(|(_, tails)| tails));
        let last = |lane: usize| self.lanes[lane].last.as_ref().map(|((_, at, _), _)| at.offset);
        (0..self.lanes.len()).map(|l| last(l).or_else(|| before.and_then(|b| b.get(l).copied().flatten()))).collect()
    }
}

impl Publisher for AmqpPublisher {
    fn publish(&mut self, m: &Message<'_>) -> Result<(), Refused> {
        self.life.ensure_alive()?;
        let lane = usize::from(m.topic.0);
        let retraction = m.retracts.is_some();
        let (id, index) = (m.id, m.id.index.get());
        if lane >= self.lanes.len() || m.partition != 0 {
            return Err(self
                .mistake(format!("record {id} is for topic {lane} partition {}, which it has not", m.partition))
                .into());
        }
        let Some(at) = Position::of_identity(0, id, retraction) else {
            return Err(self.mistake(format!("record {id} is too large for a position")).into());
        };
        if self.window.len() >= self.max_window || self.cost >= self.max_cost {
            return Err(Refused::Full);
        }
        self.follow_routes();
        let stall = self.stall(lane);
        if stall != self.stalled {
            match &stall {
                Some(why) => tracing::warn!(mdt = %self.life.mdt, "nothing more is published: {why}"),
                None => tracing::info!(mdt = %self.life.mdt, "publishing goes on"),
            }
            self.stalled.clone_from(&stall);
        }
        if stall.is_some() {
            return Err(Refused::Full);
        }
        let topic = &self.life.topics[lane];
        if let Some(r) = &m.retracts {
            self.flush(lane)?;
            let topic = &self.life.topics[lane];
            topic.fold().retract(r);
            topic.accept(2 * index + 1);
            self.lanes[lane].before = index - 1;
        } else {
            topic.accept(2 * index + 2);
        }
        // Routes that were told before it was told what was taken hold for this record too.
        self.follow_routes();
        let before = self.lanes[lane].before;
        let span = if retraction {
            Span::of(id, true)
        } else {
            self.lanes[lane].before = index;
            Span { from: (before + 1).min(index), ..Span::of(id, false) }
        };
        let bytes = (m.payload.len() + m.key.map_or(0, <[u8]>::len)) as u64;
        let l = &mut self.lanes[lane];
        let place = (m.topic, at, id);
        let sampled = l.fresh || l.published.is_multiple_of(SAMPLE);
        let places: Vec<Place> = sampled.then_some(place).into_iter().collect();
        (l.fresh, l.published, l.last) = (false, l.published + 1, Some((place, sampled)));
        self.undurable.0 += 1;
        self.undurable.1 += bytes;
        if self.per_message > 1 && !retraction {
            let pack = &mut l.pack;
            pack.body.extend_from_slice(&(m.payload.len() as u32).to_be_bytes());
            pack.body.extend_from_slice(m.payload);
            pack.records += 1;
            pack.bytes += bytes;
            pack.time_ns = m.time_ns;
            pack.places.extend(places);
            pack.span = Some(pack.span.and_then(|s| s.join(span)).unwrap_or(span));
            if pack.records >= self.per_message || pack.body.len() >= PACKED_BYTES {
                self.flush(lane)?;
            }
            return Ok(());
        }
        let mut headers = FieldTable::default();
        if let Some(key) = m.key {
            headers.insert(KEY_HEADER.into(), AMQPValue::LongString(key.into()));
        }
        if let Some(r) = &m.retracts {
            headers.insert(RETRACTS_HEADER.into(), AMQPValue::LongString(header_of(r).into()));
        }
        let kind = if retraction { RETRACTION.to_owned() } else { m.kind.to_string() };
        let pack = Pack { body: m.payload.to_vec(), records: 1, bytes, span: None, places, time_ns: m.time_ns };
        let id = Span::of(id, retraction).to_string();
        self.send(lane, span, headers, pack, Written { kind: &kind, id: &id, content: ONE })?;
        Ok(())
    }

    fn seal(&mut self, frontier: Option<RecordId>, state: Option<&State>) -> Result<(), Refused> {
        self.life.ensure_alive()?;
        if state.is_some() {
            return Err(self.mistake("State was given with a batch".to_owned()).into());
        }
        for lane in 0..self.lanes.len() {
            let l = &mut self.lanes[lane];
            if let Some((place, sampled @ false)) = &mut l.last {
                *sampled = true;
                let place = *place;
                if l.pack.records > 0 {
                    l.pack.places.push(place);
                } else if let Some(flight) = self.window.back_mut() {
                    flight.places.push(place);
                } else {
                    self.unreported.push(place);
                }
            }
            self.lanes[lane].fresh = true;
        }
        self.flush_all()?;
        let tails = self.tails_now();
        self.sealed.push_back(Sealed { until: self.sent, frontier, tails });
        Ok(())
    }

    fn store(&mut self, state: &State) -> Result<(), Refused> {
        self.life.ensure_alive()?;
        if self.storing.is_some() {
            return Err(Refused::Full);
        }
        let wrong = |why: String| SinkError::Mismatch {
            what: format!("{}: State {}", self.what, state.number),
            why,
            hint: "remove groups or feeds that are no longer used".to_owned(),
        };
        let bytes = serde_json::to_vec(state).map_err(|e| wrong(e.to_string()))?.len();
        if bytes > STATE_MAX_BYTES {
            return Err(wrong(format!("has {bytes} bytes, at most {STATE_MAX_BYTES} are allowed")).into());
        }
        let store = Store { state: state.clone(), tails: self.tails_at(state) };
        if self.stores.send(store).is_err() {
            self.life.die(Death::Lost("the lease was given up".to_owned()));
            self.life.ensure_alive()?;
        }
        self.storing = Some(state.number);
        Ok(())
    }

    fn poll(&mut self, wait: Duration, durable: &mut dyn FnMut(Durable)) -> Result<(), SinkError> {
        let until = Instant::now() + wait;
        loop {
            self.life.ensure_alive()?;
            let mut any = self.harvest(durable)?;
            for (topic, at, id) in self.unreported.drain(..) {
                durable(Durable::At { topic, at, id });
                any = true;
            }
            any |= self.report(durable);
            let left = until.saturating_duration_since(Instant::now());
            if any || left.is_zero() {
                return Ok(());
            }
            self.life.bell.wait(left);
        }
    }

    fn ready(&self) -> bool {
        self.storing.is_none()
    }

    fn in_flight(&self) -> (u64, u64) {
        self.undurable
    }
}
