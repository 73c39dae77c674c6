//! What the publisher of one MDT, which lives on its MDT's thread, and the keeper of its lease, a task, have in common.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Wake;
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use lapin::types::ShortString;

use super::answers::{Fold, Ignored, RANGES_MAX_BYTES};
use super::registry::Member;
use crate::error::SinkError;
use crate::topic::Topic;

/// Why a life is over. Every later call tells the same.
#[derive(Clone, Debug)]
pub(super) enum Death {
    /// Another bridge has the lease.
    Fenced(Option<String>),
    /// Start again.
    Lost(String),
}

/// Where a topic's records go besides: by the exchange, and straight to the queues of groups that cannot answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Routes {
    /// Groups whose queues are bound to the exchange.
    pub(super) bound: Vec<String>,
    /// Groups whose queue's confirm is their acknowledgement.
    pub(super) confirm: Vec<(String, ShortString)>,
}

/// One topic of a life.
pub(super) struct TopicLife {
    pub(super) topic: Topic,
    /// What the names of its records begin with.
    pub(super) stem: String,
    pub(super) exchange: ShortString,
    /// The slot behind the last record that was taken to be published: told before it goes out, so that who is told
    /// it misses nothing from there on.
    accepted: AtomicU64,
    fold: Mutex<Fold>,
    routes: Mutex<Arc<Routes>>,
}

/// See the module.
pub(super) struct Life {
    pub(super) mdt: MdtName,
    pub(super) topics: Vec<TopicLife>,
    /// Rises with every change of a topic's routes.
    routes_version: AtomicU64,
    /// Some group's ranges are too large.
    full: AtomicBool,
    /// The broker says that it takes nothing now.
    pub(super) blocked: AtomicBool,
    dead: Mutex<Option<Death>>,
    /// Numbers of States that are durable and not yet reported.
    stored: Mutex<VecDeque<u64>>,
    /// Folds as the last confirmed State has them, by topic.
    confirmed: Mutex<Vec<Fold>>,
    /// Something was folded that no State has yet.
    pub(super) dirty: AtomicBool,
    pub(super) bell: Arc<Bell>,
    /// Answers that did not count: foreign, wrong, old.
    ignored: [AtomicU64; 3],
}

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TopicLife {
    pub(super) fn new(topic: Topic, stem: String, exchange: ShortString, fold: Fold) -> Self {
        let accepted = AtomicU64::new(fold.end);
        Self { topic, stem, exchange, accepted, fold: Mutex::new(fold), routes: Mutex::default() }
    }

    /// A record is about to go out: everything up to this slot is taken.
    pub(super) fn accept(&self, end: u64) {
        self.accepted.store(end, Ordering::SeqCst);
    }

    /// The fold with what was published by now.
    pub(super) fn fold(&self) -> MutexGuard<'_, Fold> {
        let mut fold = lock(&self.fold);
        fold.end = self.accepted.load(Ordering::SeqCst);
        fold
    }

    pub(super) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&lock(&self.routes))
    }

    fn add_route(&self, group: &str, queue: ShortString, member: &Member) {
        let mut routes = lock(&self.routes);
        let mut new = Routes::clone(&routes);
        new.bound.retain(|g| g != group);
        new.confirm.retain(|(g, _)| g != group);
        if member.confirm {
            new.confirm.push((group.to_owned(), queue));
        } else {
            new.bound.push(group.to_owned());
        }
        *routes = Arc::new(new);
    }
}

impl Life {
    pub(super) fn new(mdt: MdtName, topics: Vec<TopicLife>) -> Self {
        let confirmed = topics.iter().map(|t| t.fold().clone()).collect();
        Self {
            mdt,
            topics,
            routes_version: AtomicU64::new(1),
            full: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            dead: Mutex::default(),
            stored: Mutex::default(),
            confirmed: Mutex::new(confirmed),
            dirty: AtomicBool::new(false),
            bell: Arc::default(),
            ignored: Default::default(),
        }
    }

    /// A group has its queue. Returns the slot where it begins; one that is known goes on where it is.
    pub(super) fn join(&self, topic: &TopicLife, group: &str, queue: ShortString, member: &Member) -> u64 {
        topic.add_route(group, queue, member);
        // First the route is told, then it is asked what was taken: what the publisher takes afterwards goes there.
        self.routes_version.fetch_add(1, Ordering::SeqCst);
        let mut fold = topic.fold();
        let end = fold.end;
        let floor = fold.member(group, member.life, end).floor;
        drop(fold);
        // Its first position is written elsewhere and counts at once, not only when State tells it.
        if let Some(confirmed) = lock(&self.confirmed).get_mut(usize::from(topic.topic.ix.0)) {
            confirmed.member(group, member.life, floor);
        }
        self.dirty.store(true, Ordering::Release);
        floor
    }

    /// Where a topic's records go, for whoever has seen this version.
    pub(super) fn routes_version(&self) -> u64 {
        self.routes_version.load(Ordering::SeqCst)
    }

    /// The first reason wins.
    pub(super) fn die(&self, death: Death) {
        lock(&self.dead).get_or_insert(death);
        self.bell.ring();
    }

    pub(super) fn ensure_alive(&self) -> Result<(), SinkError> {
        let what = || format!("publishing {}", self.mdt);
        match &*lock(&self.dead) {
            None => Ok(()),
            Some(Death::Fenced(owner)) => Err(SinkError::Fenced { what: what(), owner: owner.clone() }),
            Some(Death::Lost(why)) => Err(SinkError::Unavailable { what: what(), why: why.clone() }),
        }
    }

    /// A State is durable, with these folds.
    pub(super) fn state_is_durable(&self, number: Option<u64>, folds: Vec<Fold>) {
        *lock(&self.confirmed) = folds;
        if let Some(number) = number {
            lock(&self.stored).push_back(number);
        }
        self.bell.ring();
    }

    pub(super) fn next_stored(&self) -> Option<u64> {
        lock(&self.stored).pop_front()
    }

    /// What a topic's groups have answered, as a confirmed State has it.
    pub(super) fn confirmed(&self, topic: &str) -> Option<Fold> {
        let at = self.topics.iter().position(|t| t.topic.name == topic)?;
        lock(&self.confirmed).get(at).cloned()
    }

    /// An answer did not count.
    pub(super) fn ignore(&self, why: Ignored, group: &str, name: &str) {
        let count = &self.ignored[why as usize];
        let before = count.fetch_add(1, Ordering::Relaxed);
        if before.is_power_of_two() || before == 0 {
            tracing::warn!(mdt = %self.mdt, group, name, count = before + 1, "an answer does not count: {why:?}");
        }
    }

    /// Answers that did not count so far: foreign, wrong, old.
    pub(super) fn ignored(&self) -> [u64; 3] {
        [0, 1, 2].map(|i| self.ignored[i].load(Ordering::Relaxed))
    }

    /// Looks whether any group's ranges are too large.
    pub(super) fn look_at_ranges(&self) {
        let mut largest: Option<(String, usize)> = None;
        for topic in &self.topics {
            if let Some((group, bytes)) = topic.fold().largest()
                && largest.as_ref().is_none_or(|(_, most)| bytes > *most)
            {
                largest = Some((group.to_owned(), bytes));
            }
        }
        let full = largest.as_ref().is_some_and(|(_, bytes)| *bytes > RANGES_MAX_BYTES);
        if self.full.swap(full, Ordering::AcqRel) != full {
            match largest {
                Some((group, bytes)) if full => tracing::warn!(
                    mdt = %self.mdt, group, bytes,
                    "nothing more is published: the group has answered too many records behind one that it has not; \
                     it goes on when that one is answered"
                ),
                _ => tracing::info!(mdt = %self.mdt, "publishing goes on: ranges of answers are small again"),
            }
            self.bell.ring();
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }
}

/// Wakes the publisher's thread where it waits in `poll`.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *lock(&self.rung) = true;
        self.heard.notify_all();
    }

    /// Waits until it rings or has rung since the last time, at most `wait`.
    pub(super) fn wait(&self, wait: Duration) {
        let rung = lock(&self.rung);
        let (mut rung, _) =
            self.heard.wait_timeout_while(rung, wait, |rung| !*rung).unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }
}
