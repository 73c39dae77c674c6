//! The keeper of one MDT's lease: writes State, takes answers in, and hears when another bridge takes over.
//!
//! State lies in a queue of one message whose single active consumer is this life: that is the lease. Each State that is
//! published comes back to it; only one that was confirmed *and* came back is durable. One that comes back and is not
//! ours, and the word of another bridge that wants the lease, end this life; its connection is closed, and with it
//! everything that it may still have on its way. The order is always: State confirmed, then the answers acknowledged
//! that it tells of, then it is reported, so that clears follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, Event};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::answers::Fold;
use super::label;
use super::life::{Death, Life};
use super::link::{PERSISTENT, short};
use super::registry::Member;
use super::topology::group_queue;
use crate::state::State;

/// Property `type` of what is said to whoever publishes an MDT.
pub(super) const CLAIM: &str = "claim";
pub(super) const JOIN: &str = "join";
/// The header that names the group of an answer.
pub(super) const GROUP_HEADER: &str = "clb-group";
/// Answers that are taken at most before State tells of them.
pub(super) const ANSWERS_PREFETCH: u16 = 500;
/// So many answers at once are told by State without waiting for more.
const MANY: u64 = 100;
/// A State that does not come back for so long never will.
const BACK: Duration = Duration::from_secs(30);

/// State as it lies in its queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    /// Version of this layout: 1.
    pub(super) v: u16,
    pub(super) state: State,
    /// By topic name.
    pub(super) topics: BTreeMap<String, TopicKept>,
}

/// What is kept of one topic beside State.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TopicKept {
    pub(super) fold: Fold,
    /// Position of the last record that was published at or below State's frontier.
    pub(super) tail: Option<u64>,
}

/// A State to be written, with the tails of all topics at its frontier.
pub(super) struct Store {
    pub(super) state: State,
    pub(super) tails: Vec<Option<u64>>,
}

/// A group that has got its queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Join {
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) member: Member,
}

/// See the module.
pub(super) struct Keeper {
    pub(super) life: Arc<Life>,
    pub(super) records: Connection,
    /// Records and State go out on it, and State comes back.
    pub(super) channel: Arc<Channel>,
    pub(super) lease: Consumer,
    pub(super) control: Consumer,
    pub(super) control_channel: Channel,
    pub(super) listening: Connection,
    pub(super) answers: Consumer,
    pub(super) answers_channel: Channel,
    pub(super) stores: UnboundedReceiver<Store>,
    /// Exchange and key of State.
    pub(super) exchange: String,
    pub(super) key: String,
    /// Distinguishes this life's States from all others'.
    pub(super) writer: String,
    pub(super) every: Duration,
    /// How long the broker may leave a State unconfirmed while it is not blocked.
    pub(super) patience: Duration,
    /// The last State, with what it said of tails.
    pub(super) last: Option<(State, Vec<Option<u64>>)>,
    /// Tag of the delivery that holds the newest State.
    pub(super) held: u64,
}

/// A State on its way.
struct Writing {
    number: Option<u64>,
    id: String,
    confirm: BoxFuture<'static, lapin::Result<Confirmation>>,
    confirmed: bool,
    /// Tag under which it came back.
    back: Option<u64>,
    folds: Vec<Fold>,
    /// Tag of the last answer that it tells of.
    answered: u64,
    since: Instant,
}

impl Keeper {
    /// Runs until this life is over.
    pub(super) async fn run(mut self) {
        let death = self.keep().await;
        if let Some(death) = death {
            tracing::debug!(mdt = %self.life.mdt, ?death, "the lease is given up");
            self.life.die(death);
        }
        // Everything that is still on its way ends here; a connection that is lost needs no closing.
        let closing = async {
            let _ = self.records.close(200, "over".into()).await;
            let _ = self.listening.close(200, "over".into()).await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), closing).await;
        self.life.die(Death::Lost("it was ended".to_owned()));
    }

    /// The reason for the end, if it is not the publisher's.
    async fn keep(&mut self) -> Option<Death> {
        let mut writing: Option<Writing> = None;
        let mut wanted: Option<Store> = None;
        let (mut answered, mut told, mut seq) = (0u64, 0u64, 0u64);
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One of this life's States has come back.
        let mut begun = false;
        // When the broker last said that it is no longer blocked.
        let mut unblocked = Instant::now();
        let mut events = Box::pin(self.records.events_listener());
        loop {
            if writing.is_none() {
                let many = answered - told >= MANY;
                if let Some(store) = wanted.take() {
                    let number = store.state.number;
                    self.last = Some((store.state, store.tails));
                    seq += 1;
                    writing = Some(self.write(Some(number), seq, answered)?);
                } else if many && self.last.is_some() {
                    seq += 1;
                    writing = Some(self.write(None, seq, answered)?);
                }
            }
            let confirm = async {
                match writing.as_mut().filter(|w| !w.confirmed) {
                    Some(w) => (&mut w.confirm).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                confirmation = confirm => match confirmation {
                    Ok(Confirmation::Ack(None)) => if let Some(w) = &mut writing { w.confirmed = true },
                    Ok(Confirmation::Ack(Some(m))) => return Some(returned(&m)),
                    Ok(_) => return Some(Death::Lost("the broker refused State".to_owned())),
                    Err(e) => return Some(Death::Lost(format!("State was not confirmed: {e}"))),
                },
                delivery = self.lease.next() => match delivery {
                    Some(Ok(d)) => {
                        let id = d.properties.message_id().as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default();
                        match &mut writing {
                            Some(w) if w.id == id => (w.back, begun) = (Some(d.delivery_tag), true),
                            // What a writer had on its way when it died may come some time after its death; it has
                            // never heard of it, so nothing followed from it. It is gone with the State before it.
                            _ if !begun => tracing::debug!(mdt = %self.life.mdt, id, "a dead writer's State came late"),
                            _ => return Some(Death::Fenced(owner(&d))),
                        }
                    }
                    Some(Err(e)) => return Some(Death::Lost(format!("the lease was lost: {e}"))),
                    None => return Some(Death::Lost("the queue of State was deleted, or the lease taken".to_owned())),
                },
                delivery = self.control.next() => match delivery {
                    Some(Ok(d)) => if let Some(death) = self.told(&d).await { return Some(death) },
                    Some(Err(e)) => return Some(Death::Lost(format!("the connection was lost: {e}"))),
                    None => return Some(Death::Lost("the connection was lost".to_owned())),
                },
                delivery = self.answers.next() => match delivery {
                    Some(Ok(d)) => {
                        self.answer(&d);
                        answered = d.delivery_tag;
                    }
                    Some(Err(e)) => return Some(Death::Lost(format!("answers cannot be read: {e}"))),
                    None => return Some(Death::Lost("the queue of answers was deleted".to_owned())),
                },
                store = self.stores.recv() => match store {
                    Some(store) => wanted = Some(store),
                    None => return None,
                },
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(why)) => {
                        self.life.blocked.store(true, Ordering::Release);
                        tracing::warn!(mdt = %self.life.mdt, why, "the broker takes nothing more: publishing waits");
                    }
                    Some(Event::ConnectionUnblocked) => {
                        self.life.blocked.store(false, Ordering::Release);
                        unblocked = Instant::now();
                        tracing::info!(mdt = %self.life.mdt, "the broker takes records again");
                    }
                    Some(Event::Error(e)) => return Some(Death::Lost(format!("the connection was lost: {e}"))),
                    Some(_) => {}
                    None => return Some(Death::Lost("the connection was lost".to_owned())),
                },
                _ = tick.tick() => {
                    if writing.as_ref().is_some_and(|w| w.confirmed && w.since.elapsed() > BACK) {
                        return Some(Death::Lost("State was confirmed but is not in its queue".to_owned()));
                    }
                    let unanswered = writing.as_ref().filter(|w| !w.confirmed).map(|w| w.since.max(unblocked).elapsed());
                    if unanswered.is_some_and(|d| d > self.patience) && !self.life.blocked.load(Ordering::Acquire) {
                        return Some(silent(self.patience));
                    }
                    let news = answered > told || self.life.dirty.load(Ordering::Acquire);
                    if writing.is_none() && wanted.is_none() && news && self.last.is_some() {
                        seq += 1;
                        writing = Some(self.write(None, seq, answered)?);
                    }
                }
            }
            if let Some(w) = writing.take_if(|w| w.confirmed && w.back.is_some()) {
                if let Err(e) = self.settled((w.answered, w.back), told).await {
                    return Some(Death::Lost(format!("acknowledging: {e}")));
                }
                told = w.answered;
                self.life.state_is_durable(w.number, w.folds);
            }
        }
    }

    /// Sends State on its way; `None` if it cannot be written at all.
    fn write(&mut self, number: Option<u64>, seq: u64, answered: u64) -> Option<Writing> {
        let (state, tails) = self.last.as_ref()?;
        self.life.dirty.store(false, Ordering::Release);
        for r in &state.retractions {
            for topic in &self.life.topics {
                topic.fold().retract(r);
            }
        }
        let folds: Vec<Fold> = self.life.topics.iter().map(|t| t.fold().clone()).collect();
        let topics = self.life.topics.iter().zip(&folds).zip(tails);
        let topics = topics
            .map(|((t, fold), tail)| (t.topic.name.clone(), TopicKept { fold: fold.clone(), tail: *tail }))
            .collect();
        let envelope = Envelope { v: 1, state: state.clone(), topics };
        let id = format!("{}:{seq}", self.writer);
        // What consists of numbers and names can be written.
        let body = serde_json::to_vec(&envelope).ok()?;
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(short(&id).ok()?)
            .with_app_id(short(&state.owner).ok()?);
        let (exchange, key) = (short(&self.exchange).ok()?, short(&self.key).ok()?);
        let channel = Arc::clone(&self.channel);
        let confirm = Box::pin(async move {
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            channel.basic_publish(exchange, key, options, &body, properties).await?.await
        });
        Some(Writing { number, id, confirm, confirmed: false, back: None, folds, answered, since: Instant::now() })
    }

    /// A State is durable: the one before it and the answers that it tells of are let go.
    async fn settled(&mut self, (answered, back): (u64, Option<u64>), told: u64) -> lapin::Result<()> {
        let all = BasicAckOptions { multiple: true };
        if answered > told {
            self.answers_channel.basic_ack(answered, all).await?;
        }
        self.channel.basic_ack(self.held, all).await?;
        self.held = back.unwrap_or(self.held);
        Ok(())
    }

    /// What another process says.
    async fn told(&mut self, d: &Delivery) -> Option<Death> {
        let kind = d.properties.kind().as_ref().map(|k| k.as_str()).unwrap_or_default();
        if kind == CLAIM {
            return Some(Death::Fenced(owner(d)));
        }
        let join: Join = serde_json::from_slice(&d.data).ok().filter(|_| kind == JOIN)?;
        let topic = self.life.topics.iter().find(|t| t.topic.name == join.topic)?;
        let queue = short(&group_queue(&join.topic, &join.group)).ok()?;
        let floor = self.life.join(topic, &join.group, queue, &join.member);
        let first = topic.fold().position(floor);
        let reply_to = d.properties.reply_to().clone()?;
        let properties =
            BasicProperties::default().with_correlation_id(d.properties.correlation_id().clone().unwrap_or_default());
        let body = first.to_string();
        let reply = self.control_channel.basic_publish(
            "".into(),
            reply_to,
            BasicPublishOptions::default(),
            body.as_bytes(),
            properties,
        );
        // Who asked and has gone needs no answer.
        let _ = reply.await;
        None
    }

    /// Folds one answer.
    fn answer(&self, d: &Delivery) {
        let group = match d.properties.headers().as_ref().and_then(|h| h.inner().get(GROUP_HEADER)) {
            Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
            Some(AMQPValue::ShortString(text)) => text.as_str().to_owned(),
            _ => String::new(),
        };
        let body = String::from_utf8_lossy(&d.data);
        let mut names: Vec<&str> =
            body.split(|c: char| c == ',' || c.is_whitespace()).filter(|n| !n.is_empty()).collect();
        if let (true, Some(id)) = (names.is_empty(), d.properties.correlation_id()) {
            names.push(id.as_str());
        }
        if names.is_empty() {
            self.life.ignore(super::answers::Ignored::Wrong, &group, "");
        }
        for name in names {
            let found = label::split(name)
                .and_then(|(stem, span)| Some((self.life.topics.iter().find(|t| t.stem == stem)?, span)));
            let taken = match found {
                Some((topic, span)) => topic.fold().answer(&group, &span).map(|_| ()),
                None => Err(super::answers::Ignored::Wrong),
            };
            if let Err(why) = taken {
                self.life.ignore(why, &group, name);
            }
        }
        self.life.look_at_ranges();
    }
}

fn owner(d: &Delivery) -> Option<String> {
    d.properties.app_id().as_ref().map(|o| o.as_str().to_owned())
}

/// The broker confirms nothing and does not say why.
pub(super) fn silent(patience: Duration) -> Death {
    Death::Lost(format!(
        "the broker has confirmed nothing for {} s of what it was sent; if this repeats itself, look whether a queue has \
         lost its majority",
        patience.as_secs()
    ))
}

/// A message came back: no queue took it. Which one it was stands in it; lapin may hand it out with another's confirm.
pub(super) fn returned(m: &lapin::message::BasicReturnMessage) -> Death {
    let id = m.delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default();
    Death::Lost(format!(
        "message {id} was returned ({} {}): no queue takes {} of exchange \"{}\"",
        m.reply_code, m.reply_text, m.delivery.routing_key, m.delivery.exchange
    ))
}
