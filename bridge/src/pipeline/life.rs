//! One life of an MDT's pipeline: from fencing older writers to the error or signal that ends it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use clbridge_schemas::avro::{fingerprint, schema_json};
use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{GroupObserver, Owner, Sink, SinkError, State, TopicSpec};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

use super::clearing;
use super::control::{Control, Ended};
use super::recovery::{self, RecoveryError};
use super::writer::{Parts, Writer, WriterError};
use super::{PipelineSettings, Shared, clock, groups};
use crate::core::{Core, Event, Found, Stop};
use crate::failpoint;
use crate::source::{SourceError, SourceFactory};
use crate::status::Phase;

/// What ended a life, sorted by what follows.
#[derive(Debug, Error)]
pub enum Death {
    /// Start again.
    #[error("{0}")]
    Again(String),
    /// An MDT crash is suspected: start again at once.
    #[error("{0}")]
    Suspect(String),
    /// Another bridge has this MDT.
    #[error("fenced by {0}")]
    Fenced(String),
    /// An operator has to act.
    #[error("{}", .0.text)]
    Stop(Stop),
}

impl From<SinkError> for Death {
    fn from(e: SinkError) -> Self {
        match e {
            SinkError::Fenced { owner, .. } => Self::Fenced(owner.unwrap_or_else(|| "another bridge".into())),
            SinkError::Mismatch { .. } => Self::Stop(Stop { reason: "broker_mismatch", text: e.to_string() }),
            SinkError::Unavailable { .. } | SinkError::Unauthorised { .. } => Self::Again(e.to_string()),
        }
    }
}

impl From<SourceError> for Death {
    fn from(e: SourceError) -> Self {
        match e {
            SourceError::Malformed { .. } => Self::Stop(Stop { reason: "malformed", text: e.to_string() }),
            // The next start tells a reset from a crash.
            SourceError::OutOfOrder { .. } => Self::Suspect(e.to_string()),
            SourceError::Io { .. } | SourceError::Discovery { .. } | SourceError::User { .. } => {
                Self::Again(e.to_string())
            }
        }
    }
}

impl From<RecoveryError> for Death {
    fn from(e: RecoveryError) -> Self {
        match e {
            RecoveryError::Source(e) => e.into(),
            RecoveryError::Sink(e) => e.into(),
            RecoveryError::Stop(s) => Self::Stop(s),
            RecoveryError::Panicked(e) => Self::Again(e.to_string()),
        }
    }
}

impl From<WriterError> for Death {
    fn from(e: WriterError) -> Self {
        match e {
            WriterError::Source(e) => e.into(),
            WriterError::Sink(e) => e.into(),
            WriterError::Suspect(why) => Self::Suspect(why),
            WriterError::Stop(s) => Self::Stop(s),
        }
    }
}

/// What outlives a life: shown by `status`.
#[derive(Default)]
pub struct Told {
    /// What the pipeline does.
    pub phase: Option<Phase>,
    /// The running life.
    pub shared: Option<Arc<Shared>>,
    /// MDT crashes noticed.
    pub crashes: u64,
}

/// Everything a life needs from outside.
#[derive(Clone)]
pub struct World {
    /// The MDT.
    pub mdt: MdtName,
    /// Changelog user id.
    pub user: String,
    /// Another bridge should have it: it is taken up only when nobody has had it for a while.
    pub standby: bool,
    /// Settings.
    pub settings: Arc<PipelineSettings>,
    /// Opens the MDT.
    pub sources: Arc<dyn SourceFactory>,
    /// The broker.
    pub sink: Arc<dyn Sink>,
    /// Its groups.
    pub observer: Arc<dyn GroupObserver>,
    /// Largest payload, bytes.
    pub max_message_bytes: usize,
    /// For `status`.
    pub told: Arc<std::sync::Mutex<Told>>,
    /// True once the bridge shuts down.
    pub shutdown: watch::Receiver<bool>,
}

/// Whether another bridge than `me` wrote this State last. One of the same name may be this one before a restart, which
/// goes on at once; but once this process has had the MDT (`lived`), State by another run was written since: by one that
/// was started with this name by mistake, or on purpose.
fn is_anothers(state: &State, me: &Owner, lived: bool) -> bool {
    state.owner != me.name || (lived && !state.run.is_empty() && state.run != me.run)
}

impl World {
    /// Changes what `status` says.
    pub fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn step(&self, step: impl Into<String>) {
        let step = step.into();
        self.tell(|t| t.phase = Some(Phase::Starting { step }));
    }

    /// One life. Returns when the bridge shuts down. `fenced`: the last life was ended by another bridge, which must
    /// have fallen silent before it is fenced in turn, whatever its name.
    ///
    /// # Errors
    /// What ended it otherwise.
    pub async fn live(&self, fenced: bool) -> Result<(), Death> {
        self.step("opening the changelog");
        let (sources, mdt, user) = (self.sources.clone(), self.mdt.clone(), self.user.clone());
        let opened = tokio::task::spawn_blocking(move || sources.open(&mdt, &user)).await;
        let (source, clearer) = opened.map_err(|e| Death::Again(e.to_string()))??;

        self.step("reading State");
        let peeked = self.sink.peek_state(&self.mdt).await?;
        self.wait_for_other_owner(peeked.as_ref(), fenced).await?;
        if *self.shutdown.borrow() {
            return Ok(());
        }

        self.step("preparing topics");
        let want: Vec<TopicSpec> = self
            .settings
            .feeds
            .iter()
            .map(|f| TopicSpec {
                mdt: self.mdt.clone(),
                feed: f.name.clone(),
                partitions: f.partitions,
                max_message_bytes: self.max_message_bytes,
            })
            .collect();
        let topics = self.sink.prepare(&want, peeked.as_ref()).await?;

        for version in self.settings.feeds.iter().map(|f| f.version) {
            self.sink.publish_schema(fingerprint(version), schema_json(version)).await?;
        }

        self.step("fencing older writers");
        let recovered = self.sink.recover(&self.mdt, &topics).await?;
        let registry = self.observer.registry().await?;
        let known =
            groups::at_start(&self.mdt, &registry, recovered.state.as_ref(), &topics, self.observer.as_ref()).await?;

        self.step("comparing with the MDT");
        let capabilities = self.sink.capabilities();
        let found = Found {
            state: recovered.state.clone(),
            tails: recovered.tails.clone(),
            used: recovered.used,
            capabilities,
        };
        let mut waiting = |why| self.step(why);
        let (plan, clearer) =
            recovery::plan(&self.mdt, found, self.sink.as_ref(), &topics, clearer, &mut waiting).await?;
        info!(mdt = %self.mdt, ?plan, "plan");
        if plan.retract.is_some() {
            self.tell(|t| t.crashes += 1);
            failpoint::hit(failpoint::BEFORE_RETRACTION);
        }

        let state = recovered.state.unwrap_or_else(|| State::first(self.mdt.clone(), self.settings.owner.name.clone()));
        let mut core = Core::new(
            self.settings.core,
            self.settings.owner.clone(),
            &state,
            &plan,
            topics.clone(),
            &recovered.tails,
            clock::now(),
        );
        for (topic, mut group) in known {
            if let Some(r) = plan.retract {
                group.voided(r.from);
            }
            core.remember_group(topic.ix, group);
        }
        // Positions are looked at before anything is published: one beyond the end would soon look like a commit.
        let names: Vec<String> = core.ledger().groups().map(|(_, g)| g.spec.name.clone()).collect();
        let progress = self.observer.progress(&names, &topics).await?;
        core.on(Event::Registry { version: registry.version }, clock::now());
        core.on(Event::Progress(&progress), clock::now());
        let shared = Arc::new(Shared::new(core));
        let (clearing, requests) = channel();
        let clear_thread = clearing::spawn(self.mdt.as_str(), clearer, requests, shared.clone())
            .map_err(|e| Death::Again(e.to_string()))?;
        let parts = Parts {
            mdt: self.mdt.clone(),
            source,
            publisher: recovered.publisher,
            capabilities,
            shared: shared.clone(),
            clearing: clearing.clone(),
        };
        let writer = Writer::new(parts, &self.settings.feeds, &topics, self.settings.batch, &plan);
        let ended = tokio::sync::oneshot::channel();
        let (tell, mut wrote) = ended;
        let write_thread = std::thread::Builder::new()
            .name(format!("mdt-{}", self.mdt))
            .spawn(move || {
                // Nobody listens any more only if the life has ended already.
                let _ = tell.send(writer.run(&plan));
            })
            .map_err(|e| Death::Again(e.to_string()))?;
        self.tell(|t| {
            t.phase = Some(Phase::Running);
            t.shared = Some(shared.clone());
        });
        let control = Control {
            mdt: self.mdt.clone(),
            settings: self.settings.clone(),
            sink: self.sink.clone(),
            observer: self.observer.clone(),
            sources: self.sources.clone(),
            user: self.user.clone(),
            topics,
            shared: shared.clone(),
            clearing,
            shutdown: self.shutdown.clone(),
        };
        let outcome = tokio::select! {
            result = &mut wrote => match result {
                Ok(Ok(())) => Ok(()),
                Ok(Err(e)) => Err(e.into()),
                Err(_) => Err(Death::Stop(Stop {
                    reason: "broken_invariant",
                    text: "the publishing thread panicked: see the log; nothing was cleared since".into(),
                })),
            },
            ended = control.run() => match ended {
                Ended::Over | Ended::Drained => Ok(()),
                Ended::Restart(why) => Err(Death::Suspect(why)),
                Ended::Stop(stop) => Err(Death::Stop(stop)),
            },
        };
        shared.over.store(true, Ordering::Release);
        // Both threads look at `over` at least every few milliseconds, but for a read, probe or clear that the
        // kernel holds; those are left behind, and can no longer publish or clear anything.
        let deadline = Instant::now() + Duration::from_secs(2);
        while !(write_thread.is_finished() && clear_thread.is_finished()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        outcome
    }

    /// Another bridge's State must not have changed for `takeover_after` before anybody is fenced, unless that bridge
    /// said that it has left. On standby the same holds whoever wrote State last, and when nobody has.
    async fn wait_for_other_owner(&self, peeked: Option<&State>, fenced: bool) -> Result<(), Death> {
        let lived = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).shared.is_some();
        let has_it = |s: &State| fenced || is_anothers(s, &self.settings.owner, lived);
        if !self.standby && !peeked.is_some_and(|s| !s.left && has_it(s)) {
            return Ok(());
        }
        let known = |s: Option<&State>| s.map(|s| (s.number, s.owner.clone()));
        let mut last = known(peeked);
        let owner = |last: &Option<(u64, String)>| last.as_ref().map_or("nobody yet", |(_, owner)| owner).to_owned();
        warn!(mdt = %self.mdt, owner = owner(&last), "another bridge has this MDT, or should: waiting until it is silent");
        let mut since = Instant::now();
        let mut shutdown = self.shutdown.clone();
        while since.elapsed() < self.settings.takeover_after {
            self.tell(|t| t.phase = Some(Phase::Fenced { owner: owner(&last) }));
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
                _ = shutdown.changed() => return Ok(()),
            }
            // While State cannot be read, nobody can be said to be silent.
            let now = self.sink.peek_state(&self.mdt).await?;
            if let Some(s) = now.as_ref().filter(|s| s.left && !self.standby) {
                info!(mdt = %self.mdt, owner = s.owner, "the other bridge has left: taking over");
                return Ok(());
            }
            let now = known(now.as_ref());
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        info!(mdt = %self.mdt, owner = owner(&last), "silent for long enough: taking over");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn me() -> Owner {
        Owner { name: "bridge-a".into(), run: "7-1".into() }
    }

    fn written_by(name: &str, run: &str) -> State {
        State { run: run.into(), ..State::first("fs-MDT0000".parse().unwrap(), name.into()) }
    }

    #[test]
    fn a_bridge_of_another_name_has_the_mdt() {
        assert!(is_anothers(&written_by("bridge-b", "9-1"), &me(), false));
        assert!(is_anothers(&written_by("bridge-b", ""), &me(), true));
    }

    #[test]
    fn a_restart_goes_on_with_what_the_run_before_wrote() {
        assert!(!is_anothers(&written_by("bridge-a", "3-1"), &me(), false));
    }

    #[test]
    fn a_twin_that_wrote_since_this_run_did_has_the_mdt_whatever_ended_the_life() {
        assert!(is_anothers(&written_by("bridge-a", "9-1"), &me(), true));
        assert!(!is_anothers(&written_by("bridge-a", "7-1"), &me(), true));
    }

    #[test]
    fn a_reset_under_its_name_does_not_make_a_bridge_wait() {
        assert!(!is_anothers(&written_by("bridge-a", ""), &me(), true));
    }
}
