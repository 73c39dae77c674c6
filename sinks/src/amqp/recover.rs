//! The start: take the lease, then read. Nothing that is read before the lease is there counts.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clbridge_schemas::ids::MdtName;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Consumer};
use tokio::sync::mpsc::unbounded_channel;

use super::Shared;
use super::answers::Fold;
use super::config::AmqpConfig;
use super::label::stem;
use super::lease::{ANSWERS_PREFETCH, CLAIM, Envelope, Keeper};
use super::life::{Life, TopicLife, lock};
use super::link::short;
use super::publish::AmqpPublisher;
use super::registry::understood;
use super::topology::group_queue;
use crate::error::SinkError;
use crate::state::State;
use crate::topic::{Position, Stored, Topic};
use crate::traits::Recovered;

/// How often the holder of a lease is told that another one wants it.
const CLAIM_EVERY: Duration = Duration::from_millis(300);

impl Shared {
    pub(super) async fn recover(self: &Arc<Self>, mdt: &MdtName, topics: &[Topic]) -> Result<Recovered, SinkError> {
        let what = || format!("publishing {mdt}");
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let writer = format!("{}.{:x}.{nanos:x}", self.config.instance, std::process::id());

        let records = self.connect(&format!("{mdt}: records and State")).await?;
        let channel = Arc::new(self.within(what, records.create_channel()).await?);
        self.within(what, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let (lease, state) = self.take_lease(mdt, &channel).await?;

        // Who comes from now on is heard.
        let control_channel = self.within(what, records.create_channel()).await?;
        let queue = format!("{}.control.{mdt}.{writer}", self.config.own_prefix);
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let declare = control_channel.queue_declare(short(&queue)?, own, FieldTable::default());
        self.within(what, declare).await?;
        self.bind_on(&control_channel, &queue, &self.config.own_prefix, &AmqpConfig::control_key(mdt)).await?;
        let control = self.consume(&control_channel, &queue, true).await?;

        let listening = self.connect(&format!("{mdt}: answers")).await?;
        let answers_channel = self.within(what, listening.create_channel()).await?;
        self.within(what, answers_channel.basic_qos(ANSWERS_PREFETCH, BasicQosOptions::default())).await?;
        let answers = self.consume(&answers_channel, &self.config.answer_queue(mdt), false).await?;

        let queue = self.config.state_queue(mdt);
        let envelope: Option<Envelope> = understood(&queue, Some(&state.data))?;
        if let Some(e) = envelope.as_ref().filter(|e| e.v != 1 || e.state.version != 1) {
            return Err(SinkError::Mismatch {
                what: format!("State in queue {queue}"),
                why: format!("has layout version {} and {}", e.v, e.state.version),
                hint: "run the version of clbridge that wrote it, or `clbridge reset`".to_owned(),
            });
        }
        let life = Arc::new(self.begin(mdt, topics, envelope.as_ref()).await?);
        let tails: Vec<Option<u64>> = topics
            .iter()
            .map(|t| envelope.as_ref().and_then(|e| e.topics.get(&t.name)).and_then(|kept| kept.tail))
            .collect();
        let used = tails.iter().any(Option::is_some) || life.topics.iter().any(|t| t.fold().known_end() > 0);
        let found = envelope.map(|e| e.state);
        let (stores, receiver) = unbounded_channel();
        let publisher = AmqpPublisher::new(&self.config, &life, Arc::clone(&channel), stores, found.as_ref(), &tails);
        let keeper = Keeper {
            life: Arc::clone(&life),
            records,
            channel,
            lease,
            control,
            control_channel,
            listening,
            answers,
            answers_channel,
            stores: receiver,
            exchange: self.config.own_prefix.clone(),
            key: AmqpConfig::state_key(mdt),
            writer,
            every: Duration::from_millis(u64::from(self.config.answers_every_ms)),
            patience: Duration::from_millis(u64::from(self.config.confirm_timeout_ms)),
            last: found.clone().map(|state| (state, tails.clone())),
            held: state.delivery_tag,
        };
        tokio::spawn(keeper.run());
        lock(&self.lives).insert(mdt.clone(), Arc::downgrade(&life));
        let stored =
            |tail: &Option<u64>| tail.and_then(|offset| Stored::by_identity(Position { partition: 0, offset }));
        Ok(Recovered {
            publisher: Box::new(publisher),
            state: found,
            tails: tails.iter().map(|tail| vec![stored(tail)]).collect(),
            used,
        })
    }

    /// Becomes the single active consumer of State, whose message comes then. Whoever has it is told to let go.
    async fn take_lease(&self, mdt: &MdtName, channel: &Channel) -> Result<(Consumer, Delivery), SinkError> {
        let what = || format!("publishing {mdt}: taking the lease");
        let queue = self.config.state_queue(mdt);
        self.make_cell(&queue).await?;
        self.within(what, channel.basic_qos(64, BasicQosOptions::default())).await?;
        let claims = self.confirming_channel().await?;
        let until = Instant::now() + self.config.request_timeout();
        self.claim(mdt, &claims).await?;
        let mut lease = self.consume(channel, &queue, false).await?;
        loop {
            match tokio::time::timeout(CLAIM_EVERY, lease.next()).await {
                Ok(Some(Ok(mut state))) => {
                    // Who died with a State and the one before it in its hands leaves both, and both come at once: the
                    // last one counts. The answer to this comes behind them.
                    self.within(what, channel.basic_qos(64, BasicQosOptions::default())).await?;
                    while let Some(Some(newer)) = lease.next().now_or_never() {
                        state = newer.map_err(|e| super::link::sort(what(), &e))?;
                    }
                    super::link::close(&claims).await;
                    return Ok((lease, state));
                }
                Ok(Some(Err(e))) => return Err(super::link::sort(what(), &e)),
                Ok(None) => {
                    return Err(SinkError::Unavailable {
                        what: what(),
                        why: "the queue of State was deleted".to_owned(),
                    });
                }
                Err(_) if Instant::now() > until => {
                    return Err(SinkError::Unavailable {
                        what: what(),
                        why: "another bridge holds it and does not let go".to_owned(),
                    });
                }
                Err(_) => self.claim(mdt, &claims).await?,
            }
        }
    }

    /// Tells whoever publishes this MDT that another one wants to.
    async fn claim(&self, mdt: &MdtName, channel: &Channel) -> Result<(), SinkError> {
        let properties = BasicProperties::default().with_type(CLAIM.into()).with_app_id(short(&self.config.instance)?);
        let key = AmqpConfig::control_key(mdt);
        // Nobody there: nobody has to be told.
        self.publish_one(channel, (&self.config.own_prefix, &key), b"", properties).await.map(|_| ())
    }

    pub(super) async fn consume(&self, channel: &Channel, queue: &str, no_ack: bool) -> Result<Consumer, SinkError> {
        let options = BasicConsumeOptions { no_ack, ..Default::default() };
        let consume = channel.basic_consume(short(queue)?, "".into(), options, FieldTable::default());
        self.within(|| format!("reading queue {queue}"), consume).await
    }

    /// A life as State and the directory tell it.
    async fn begin(&self, mdt: &MdtName, topics: &[Topic], envelope: Option<&Envelope>) -> Result<Life, SinkError> {
        let directory = self.directory().await?;
        let state = envelope.map(|e| &e.state);
        let mut lives = Vec::new();
        for topic in topics {
            let kept = envelope.and_then(|e| e.topics.get(&topic.name));
            let members = directory.topics.get(&topic.name).map(|e| e.groups.clone()).unwrap_or_default();
            let mut fold = kept.map(|k| k.fold.clone()).unwrap_or_default();
            if kept.is_none() {
                fold.base = state.map_or(1, |s| s.incarnation);
            }
            fold.groups.retain(|group, _| members.contains_key(group));
            for (group, member) in &members {
                let first = Fold::slot(member.first);
                fold.member(group, member.life, first);
            }
            for r in state.iter().flat_map(|s| &s.retractions) {
                fold.retract(r);
            }
            // What was dropped behind the last record that was published has nobody who could answer it.
            let tail = kept.and_then(|k| k.tail).map_or(0, |tail| Fold::slot(tail) >> 1);
            if let Some(frontier) = state.and_then(|s| s.frontier).map(|f| f.id.index.get()).filter(|f| *f > tail) {
                fold.skip(tail + 1, frontier);
            }
            let exchange = short(&self.config.exchange(topic.feed.as_deref()))?;
            let life = TopicLife::new(topic.clone(), stem(mdt, topic.feed.as_deref()), exchange, fold);
            lives.push((life, members));
        }
        let (lives, members): (Vec<_>, Vec<_>) = lives.into_iter().unzip();
        let life = Life::new(mdt.clone(), lives);
        for (topic, members) in life.topics.iter().zip(members) {
            for (group, member) in members {
                let queue = short(&group_queue(&topic.topic.name, &group))?;
                life.join(topic, &group, queue, &member);
            }
        }
        life.look_at_ranges();
        Ok(life)
    }

    /// State and what is kept with it, as it was published last; nobody is fenced.
    pub(super) async fn peek(&self, mdt: &MdtName) -> Result<Option<Envelope>, SinkError> {
        let queue = self.config.view_queue(mdt);
        understood(&queue, self.read(&queue).await?.as_deref())
    }

    pub(super) async fn peek_state(&self, mdt: &MdtName) -> Result<Option<State>, SinkError> {
        Ok(self.peek(mdt).await?.map(|e| e.state))
    }
}
