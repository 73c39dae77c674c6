//! Beside the writer: carries out the core's actions, asks the broker about groups and the registry, trims.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{GroupObserver, Position, Positions, Sink, SinkError, Topic, TopicIx};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::clearing::Request;
use super::repair::Repair;
use super::{PipelineSettings, Shared, clock, groups};
use crate::core::{Action, Event, Reason, Stop};
use crate::source::SourceFactory;

/// How long an ended bridge waits until State says that it has left, for whoever waits to take over.
const LEAVE: Duration = Duration::from_secs(3);
/// How often the core is asked what to do.
const TICK: Duration = Duration::from_millis(25);

/// Why control ended.
#[derive(Debug)]
pub enum Ended {
    /// The life is over for another reason.
    Over,
    /// A crash is suspected: start again.
    Restart(String),
    /// An operator has to act.
    Stop(Stop),
    /// A clean drain is complete: what could be cleared was cleared.
    Drained,
}

/// What control needs.
pub struct Control {
    /// The MDT.
    pub mdt: MdtName,
    /// Settings.
    pub settings: Arc<PipelineSettings>,
    /// The broker.
    pub sink: Arc<dyn Sink>,
    /// Its groups.
    pub observer: Arc<dyn GroupObserver>,
    /// Opens the MDT, for repairs.
    pub sources: Arc<dyn SourceFactory>,
    /// Changelog user id.
    pub user: String,
    /// The MDT's topics.
    pub topics: Vec<Topic>,
    /// Joined by all threads.
    pub shared: Arc<Shared>,
    /// To the clearing thread.
    pub clearing: Sender<Request>,
    /// True once the bridge shuts down.
    pub shutdown: watch::Receiver<bool>,
}

impl Control {
    /// Runs until the life is over.
    pub async fn run(mut self) -> Ended {
        let mut polled: Option<Instant> = None;
        let mut registry_read: Option<Instant> = None;
        let mut trimmed = Instant::now();
        let mut drain_until: Option<Instant> = None;
        let mut leave_until: Option<Instant> = None;
        loop {
            if self.shared.is_over() {
                return Ended::Over;
            }
            if registry_read.is_none_or(|at| at.elapsed() >= self.settings.poll_registry) {
                registry_read = Some(Instant::now());
                let answer = self.read_registry().await;
                self.note(Reason::RegistryUnreadable, answer);
            }
            if polled.is_none_or(|at| at.elapsed() >= self.settings.poll_groups) {
                polled = Some(Instant::now());
                let answer = self.poll_groups().await;
                self.note(Reason::BrokerUnavailable, answer);
            }
            if let Some(ended) = self.actions().await {
                return ended;
            }
            if trimmed.elapsed() >= self.settings.trim_every {
                trimmed = Instant::now();
                let answer = self.trim().await;
                self.note(Reason::BrokerUnavailable, answer);
            }
            if *self.shutdown.borrow() && drain_until.is_none() {
                self.shared.draining.store(true, std::sync::atomic::Ordering::Release);
                drain_until = Some(Instant::now() + Duration::from_secs(5));
            }
            if let Some(until) = drain_until
                && self.shared.drained.load(std::sync::atomic::Ordering::Acquire)
                && (self.nothing_to_clear() || Instant::now() > until)
                && leave_until.is_none()
            {
                self.shared.core().leave();
                leave_until = Some(Instant::now() + LEAVE);
            }
            if leave_until.is_some_and(|until| self.shared.core().has_left() || Instant::now() > until) {
                return Ended::Drained;
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = self.shutdown.changed(), if drain_until.is_none() => {}
            }
        }
    }

    async fn actions(&mut self) -> Option<Ended> {
        loop {
            let action = self.shared.core().next_action(clock::now())?;
            debug!(mdt = %self.mdt, ?action, "action");
            let sent = match action {
                Action::Probe(index) => self.clearing.send(Request::Probe(index)),
                Action::Clear { upto, until } => self.clearing.send(Request::Clear(upto, until)),
                Action::ReadAt(reads) => {
                    let answer = self.read_at(&reads).await;
                    self.note(Reason::BrokerUnavailable, answer);
                    // The core asks once for each answer about groups, so this is no tight loop; and what is to be
                    // probed or cleared does not wait for a broker whose answers take longer than until the next poll.
                    continue;
                }
                Action::Restart(why) => return Some(Ended::Restart(why)),
                Action::Stop(stop) => return Some(Ended::Stop(stop)),
            };
            if sent.is_err() {
                return Some(Ended::Restart("the clearing thread is gone".into()));
            }
        }
    }

    async fn poll_groups(&mut self) -> Result<(), SinkError> {
        let (names, mut topics) = {
            let core = self.shared.core();
            let names: Vec<String> = core.ledger().groups().map(|(_, g)| g.spec.name.clone()).collect();
            let repairs: Vec<Topic> = core
                .ledger()
                .groups()
                .filter_map(|(t, g)| {
                    let name = g.repair_topic()?.to_owned();
                    Some(Topic { name, partitions: 1, id: String::new(), ..t.clone() })
                })
                .collect();
            (names, repairs)
        };
        topics.extend(self.topics.iter().cloned());
        let progress = self.observer.progress(&names, &topics).await?;
        self.shared.core().on(Event::Progress(&progress), clock::now());
        Ok(())
    }

    async fn read_registry(&mut self) -> Result<(), SinkError> {
        let registry = self.observer.registry().await?;
        groups::apply(&self.mdt, &registry, &self.topics, self.observer.as_ref(), &self.shared).await?;
        for repair in self.repairs() {
            let group = repair.group.clone();
            let done = repair.run(&self.mdt, &self.user, self.sources.clone(), self.sink.as_ref(), &self.shared).await;
            if let Err(e) = done {
                warn!(mdt = %self.mdt, group, "repair failed, it will be tried again: {e}");
            }
        }
        Ok(())
    }

    /// Repairs that were asked for and not yet carried out.
    fn repairs(&self) -> Vec<Repair> {
        let core = self.shared.core();
        let wanted = core.ledger().groups().filter(|(_, g)| g.spec.repair > g.applied().1);
        wanted
            .filter_map(|(topic, g)| {
                let evicted: Vec<_> = g.evicted().collect();
                let feed = self.settings.feeds.get(usize::from(topic.ix.0))?;
                (!evicted.is_empty()).then(|| Repair {
                    group: g.spec.name.clone(),
                    number: g.spec.repair,
                    topic: topic.clone(),
                    feed: feed.clone(),
                    floor: g.floor(),
                    evicted,
                    incarnation: core.incarnation(),
                    frontier: core.ledger().frontier(),
                })
            })
            .collect()
    }

    async fn read_at(&self, reads: &[(TopicIx, Position)]) -> Result<(), SinkError> {
        for topic in &self.topics {
            let at: Vec<Position> = reads.iter().filter(|(t, _)| *t == topic.ix).map(|(_, p)| *p).collect();
            if at.is_empty() {
                continue;
            }
            let found = self.sink.read_at(topic, &at).await?;
            let mut core = self.shared.core();
            for (at, found) in at.into_iter().zip(found) {
                core.on(Event::Learned { topic: topic.ix, at, found }, clock::now());
            }
        }
        Ok(())
    }

    async fn trim(&self) -> Result<(), SinkError> {
        for topic in &self.topics {
            let mut below = self.shared.core().trimmable(topic.ix);
            if self.sink.capabilities().positions == Positions::Sequence
                && let Some(furthest) = below.iter().copied().max()
            {
                // What may go of one partition may go of all before it: a quiet partition's last record holds nothing.
                below.fill(furthest);
            }
            if below.iter().any(|b| *b > 0) {
                let low = self.sink.trim(topic, &below, self.settings.keep).await?;
                debug!(topic = topic.name, ?below, ?low, "trimmed");
            }
        }
        Ok(())
    }

    fn note(&self, what: Reason, answer: Result<(), SinkError>) {
        if let Err(e) = answer {
            warn!(mdt = %self.mdt, "{}: {e}", what.as_str());
            self.shared.core().on(Event::Unanswered { what, why: e.to_string() }, clock::now());
        }
    }

    fn nothing_to_clear(&self) -> bool {
        let core = self.shared.core();
        !core.clear_in_flight() && core.clearable_now(clock::now()) <= core.last_clear()
    }
}
