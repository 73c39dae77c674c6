//! The writer of one MDT: each record is one message (or several are packed into one), confirmed by the broker.
//!
//! [`lane`] is a topic, [`window`] what is on its way to the broker, [`frontiers`] where batches end and what State tells
//! of them. Any message that came back, refusal or lost connection ends this publisher with its whole window.

mod frontiers;
mod lane;
mod window;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use clbridge_schemas::ids::RecordId;
use futures_util::future::BoxFuture;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::sync::mpsc::UnboundedSender;

use super::config::AmqpConfig;
use super::label::Span;
use super::lease::{Store, silent};
use super::life::{Death, Life};
use super::link::{PERSISTENT, short};
use super::topology::{KEY_HEADER, PACKED, RETRACTION};
use crate::error::{Refused, SinkError};
use crate::retraction::{RETRACTS_HEADER, header_of};
use crate::state::{STATE_MAX_BYTES, State};
use crate::topic::Position;
use crate::traits::{Durable, Message, Publisher};
use frontiers::Frontiers;
use lane::{Lane, Pack, Place};
use window::{Flight, Window};

/// `content_type` of a message with one record, and of one with several: each behind its length, 4 bytes, big-endian.
pub(super) const ONE: &str = "avro/binary";
pub(super) const MANY: &str = "application/vnd.clbridge.packed";

/// What is written on a message: its type, its id without the topic's, and the kind of its content.
struct Written<'a> {
    kind: &'a str,
    id: &'a str,
    content: &'static str,
}

/// The AMQP [`Publisher`].
pub(super) struct AmqpPublisher {
    what: String,
    life: Arc<Life>,
    channel: Arc<Channel>,
    stores: UnboundedSender<Store>,
    lanes: Vec<Lane>,
    routes_version: u64,
    window: Window,
    frontiers: Frontiers,
    per_message: u64,
    patience: Duration,
    /// Accepted and not durable: records, and their bytes.
    undurable: (u64, u64),
    /// Places whose message is durable already.
    unreported: Vec<Place>,
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
        let before = frontier.map_or(0, |f| f.index.get());
        let lanes = life.topics.iter().map(|_| Lane::new(life.mdt.to_string(), reply_to.clone(), before));
        Self {
            what: format!("publishing {}", life.mdt),
            lanes: lanes.collect(),
            life: Arc::clone(life),
            channel,
            stores,
            routes_version: 0,
            window: Window::new(config.window as usize, config.memory_bytes / 2),
            frontiers: Frontiers::new(frontier, tails, life.topics.len(), config.most_repeated),
            per_message: u64::from(config.records_per_message),
            patience: Duration::from_millis(u64::from(config.confirm_timeout_ms)),
            undurable: (0, 0),
            unreported: Vec::new(),
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

    /// Whether nothing can be taken now because of the groups; that is logged when it begins and when it ends.
    fn stalls(&mut self, lane: usize) -> bool {
        let (topic, routes) = (&self.life.topics[lane].topic.name, &self.lanes[lane].routes);
        let stall = if routes.bound.is_empty() && routes.confirm.is_empty() {
            Some(format!("no group takes {topic}: `clbridge groups add NAME` makes one"))
        } else {
            let far = || format!("answers of a group of {topic} lie too far apart: see `clbridge status`");
            self.life.is_full().then(far)
        };
        if stall != self.stalled {
            match &stall {
                Some(why) => tracing::warn!(mdt = %self.life.mdt, "nothing more is published: {why}"),
                None => tracing::info!(mdt = %self.life.mdt, "publishing goes on"),
            }
            self.stalled = stall;
        }
        self.stalled.is_some()
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
            let confirm: BoxFuture<'static, _> = Box::pin(async move {
                let options = BasicPublishOptions { mandatory: true, immediate: false };
                channel.basic_publish(exchange, key, options, &body, properties).await?.await
            });
            let mut flight = Flight::new(confirm, size);
            flight.settles = settles;
            if n == last {
                // What goes to several queues is durable with the last of them.
                (flight.carries, flight.places) = (pack.carries, std::mem::take(&mut places));
            }
            self.window.push(flight);
        }
        Ok(())
    }

    fn flush(&mut self, lane: usize) -> Result<(), SinkError> {
        let pack = std::mem::take(&mut self.lanes[lane].pack);
        let Some(span) = pack.span else { return Ok(()) };
        let id = span.to_string();
        self.send(lane, span, FieldTable::default(), pack, Written { kind: PACKED, id: &id, content: MANY })
    }

    /// Takes what has been confirmed; true if anything was.
    fn harvest(&mut self, durable: &mut dyn FnMut(Durable)) -> Result<bool, SinkError> {
        let (life, undurable) = (&self.life, &mut self.undurable);
        let any = self.window.harvest(&Waker::from(Arc::clone(&life.bell)), |flight| {
            undurable.0 -= flight.carries.0;
            undurable.1 -= flight.carries.1;
            if let Some((lane, group, span)) = &flight.settles {
                // A group that was removed meanwhile has nothing to acknowledge.
                let _ = life.topics[*lane].fold().answer(group, span);
                life.dirty.store(true, Ordering::Release);
            }
            for (topic, at, id) in flight.places {
                durable(Durable::At { topic, at, id });
            }
        });
        if self.life.blocked.load(Ordering::Acquire) {
            self.window.heard();
        }
        let any = any
            .and_then(|any| if self.window.silence() > self.patience { Err(silent(self.patience)) } else { Ok(any) });
        any.or_else(|death| {
            self.life.die(death);
            self.life.ensure_alive().map(|()| false)
        })
    }

    /// Reports batches all of whose messages are durable, and State; true if there was any.
    fn report(&mut self, durable: &mut dyn FnMut(Durable)) -> bool {
        let mut any = false;
        while let Some(frontier) = self.frontiers.next_durable(self.window.confirmed) {
            any = true;
            if let Some(frontier) = frontier {
                durable(Durable::Frontier(frontier));
            }
        }
        while let Some(number) = self.life.next_stored() {
            self.frontiers.stored(number);
            any = true;
            durable(Durable::State(number));
        }
        any
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
        if self.window.is_full() || !self.frontiers.takes(id) {
            return Err(Refused::Full);
        }
        self.follow_routes();
        if self.stalls(lane) {
            return Err(Refused::Full);
        }
        if let Some(r) = &m.retracts {
            self.flush(lane)?;
            let topic = &self.life.topics[lane];
            topic.fold().retract(r);
            topic.accept(2 * index + 1);
            self.lanes[lane].retracted(index);
        } else {
            self.life.topics[lane].accept(2 * index + 2);
        }
        // Routes that were told before it was told what was taken hold for this record too.
        self.follow_routes();
        let bytes = (m.payload.len() + m.key.map_or(0, <[u8]>::len)) as u64;
        let (span, place) = self.lanes[lane].note((m.topic, at, id), retraction);
        self.frontiers.accept(id);
        self.undurable.0 += 1;
        self.undurable.1 += bytes;
        if self.per_message > 1 && !retraction {
            let pack = &mut self.lanes[lane].pack;
            pack.add(m, span, bytes, place);
            if pack.is_full(self.per_message) {
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
        let id = Span::of(id, retraction).to_string();
        self.send(lane, span, headers, Pack::of(m, bytes, place), Written { kind: &kind, id: &id, content: ONE })?;
        Ok(())
    }

    fn seal(&mut self, frontier: Option<RecordId>, state: Option<&State>) -> Result<(), Refused> {
        self.life.ensure_alive()?;
        if state.is_some() {
            return Err(self.mistake("State was given with a batch".to_owned()).into());
        }
        for lane in &mut self.lanes {
            let Some(place) = lane.seal() else { continue };
            if lane.pack.span.is_some() {
                lane.pack.places.push(place);
            } else if let Some(flight) = self.window.last_mut() {
                flight.places.push(place);
            } else {
                self.unreported.push(place);
            }
        }
        for lane in 0..self.lanes.len() {
            self.flush(lane)?;
        }
        self.frontiers.seal(self.window.sent, frontier, |lane| self.lanes[lane].tail);
        Ok(())
    }

    fn store(&mut self, state: &State) -> Result<(), Refused> {
        self.life.ensure_alive()?;
        if self.frontiers.is_storing() {
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
        let store = Store { state: state.clone(), tails: self.frontiers.store(state) };
        if self.stores.send(store).is_err() {
            self.life.die(Death::Lost("the lease was given up".to_owned()));
            self.life.ensure_alive()?;
        }
        Ok(())
    }

    fn poll(&mut self, wait: Duration, durable: &mut dyn FnMut(Durable)) -> Result<(), SinkError> {
        let until = Instant::now() + wait;
        loop {
            self.life.ensure_alive()?;
            // What was durable when its batch was sealed lies before everything that is on its way.
            let mut any = !self.unreported.is_empty();
            for (topic, at, id) in self.unreported.drain(..) {
                durable(Durable::At { topic, at, id });
            }
            any |= self.harvest(durable)?;
            any |= self.report(durable);
            let left = until.saturating_duration_since(Instant::now());
            if any || left.is_zero() {
                return Ok(());
            }
            self.life.bell.wait(left);
        }
    }

    fn ready(&self) -> bool {
        !self.frontiers.is_storing()
    }

    fn wants_state(&self) -> bool {
        self.frontiers.wants_state()
    }

    fn in_flight(&self) -> (u64, u64) {
        self.undurable
    }
}
