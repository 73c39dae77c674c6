//! The daemon: a task per MDT that lives again after every failure, and what `status` says of them all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{GroupObserver, Sink};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::pipeline::PipelineSettings;
use crate::pipeline::clock;
use crate::pipeline::life::{Death, Told, World};
use crate::rates::Rates;
use crate::source::SourceFactory;
use crate::status::{BridgeStatus, MdtStatus, Phase};

/// What the daemon is made of.
pub struct Setup {
    /// Settings of every pipeline.
    pub settings: PipelineSettings,
    /// Where records come from.
    pub sources: Arc<dyn SourceFactory>,
    /// MDTs to take; `None`: all that are found, those that appear later included.
    pub mdts: Option<Vec<MdtName>>,
    /// Changelog user id for MDTs without one of their own.
    pub user: String,
    /// By MDT.
    pub users: BTreeMap<MdtName, String>,
    /// MDTs that another bridge should have.
    pub standby: Vec<MdtName>,
    /// The broker.
    pub sink: Arc<dyn Sink>,
    /// Its groups.
    pub observer: Arc<dyn GroupObserver>,
    /// For `status`: `kafka` or `kafka-idempotent`.
    pub sink_name: String,
    /// Largest payload, bytes.
    pub max_message_bytes: usize,
    /// Backlog of an MDT at which `status` counts down, records.
    pub backlog_limit: Option<u64>,
    /// How often is looked for new MDTs.
    pub poll_mdts: Duration,
    /// How often groups' members are asked for.
    pub poll_members: Duration,
}

struct Mdt {
    world: World,
    task: JoinHandle<()>,
    rates: Mutex<Rates>,
}

/// A running bridge.
pub struct Bridge {
    setup: Arc<Setup>,
    mdts: Arc<Mutex<BTreeMap<MdtName, Mdt>>>,
    members: Arc<Mutex<BTreeMap<String, usize>>>,
    shutdown: watch::Sender<bool>,
    started: Instant,
    finder: JoinHandle<()>,
}

impl Bridge {
    /// Starts a pipeline for every MDT and goes on looking for new ones.
    #[must_use]
    pub fn start(setup: Setup) -> Self {
        Self::start_after(setup, std::future::ready(()))
    }

    /// As [`Bridge::start`], but nothing is taken up before `begin` is ready.
    #[must_use]
    pub fn start_after(setup: Setup, begin: impl Future<Output = ()> + Send + 'static) -> Self {
        let (shutdown, stopping) = watch::channel(false);
        let setup = Arc::new(setup);
        let mdts = Arc::new(Mutex::new(BTreeMap::new()));
        let members = Arc::new(Mutex::new(BTreeMap::new()));
        let finder = tokio::spawn({
            let (setup, mdts, members) = (setup.clone(), mdts.clone(), members.clone());
            async move {
                begin.await;
                find(setup, mdts, members, stopping).await;
            }
        });
        Self { setup, mdts, members, shutdown, started: Instant::now(), finder }
    }

    /// What `status` says now.
    #[must_use]
    pub fn status(&self) -> BridgeStatus {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mdts = self.mdts.lock().unwrap_or_else(PoisonError::into_inner);
        BridgeStatus {
            instance: self.setup.settings.owner.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            sink: self.setup.sink_name.clone(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            rss_bytes: rss_bytes(),
            mdts: mdts.iter().map(|(name, m)| self.mdt_status(name, m, &members)).collect(),
        }
    }

    fn mdt_status(&self, name: &MdtName, m: &Mdt, members: &BTreeMap<String, usize>) -> MdtStatus {
        let told = m.world.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut status = match &told.shared {
            Some(shared) => shared.core().snapshot(&m.world.user, clock::now()),
            None => MdtStatus::empty(name.clone(), m.world.user.clone()),
        };
        status.phase = told.phase.clone().unwrap_or(Phase::Starting { step: "waiting".into() });
        status.crashes = told.crashes;
        let (read_per_s, cleared_per_s) =
            m.rates.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), status.read, status.cleared);
        status.read_per_s = read_per_s;
        status.cleared_per_s = cleared_per_s;
        status.backlog_full_in_s = self.setup.backlog_limit.and_then(|limit| {
            let growth = read_per_s - cleared_per_s;
            (growth > 0.0).then(|| limit.saturating_sub(status.backlog) as f64 / growth)
        });
        for g in &mut status.groups {
            g.members = members.get(&g.name).copied().unwrap_or(0);
            g.state = match (&g.holding, g.members) {
                (Some(_), _) => "holding",
                (None, _) if g.released > g.floor => "released",
                (None, 0) => "idle",
                (None, _) => "active",
            }
            .into();
        }
        status
    }

    /// Stops reading, makes what was read durable, clears what it may, and returns.
    pub async fn shutdown(self) {
        self.shutdown.send_replace(true);
        self.finder.abort();
        let mdts = std::mem::take(&mut *self.mdts.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, mdt) in mdts {
            if let Err(e) = mdt.task.await {
                error!(mdt = %name, "pipeline task: {e}");
            }
        }
        info!("stopped");
    }
}

/// Looks for MDTs and for groups' members, now and then.
async fn find(
    setup: Arc<Setup>,
    mdts: Arc<Mutex<BTreeMap<MdtName, Mdt>>>,
    members: Arc<Mutex<BTreeMap<String, usize>>>,
    stopping: watch::Receiver<bool>,
) {
    let (mut looked, mut asked): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        if looked.is_none_or(|at| at.elapsed() >= setup.poll_mdts) {
            looked = Some(Instant::now());
            look(&setup, &mdts, &stopping).await;
        }
        if asked.is_none_or(|at| at.elapsed() >= setup.poll_members) {
            asked = Some(Instant::now());
            match setup.observer.list().await {
                Ok(list) => {
                    *members.lock().unwrap_or_else(PoisonError::into_inner) =
                        list.into_iter().map(|g| (g.name, g.members)).collect();
                }
                Err(e) => warn!("listing groups: {e}"),
            }
        }
        tokio::time::sleep(setup.poll_mdts.min(setup.poll_members)).await;
    }
}

/// Takes up the MDTs that are there.
async fn look(setup: &Arc<Setup>, mdts: &Mutex<BTreeMap<MdtName, Mdt>>, stopping: &watch::Receiver<bool>) {
    let sources = setup.sources.clone();
    match tokio::task::spawn_blocking(move || sources.discover()).await {
        Ok(Ok(found)) => {
            for name in found {
                if setup.mdts.as_ref().is_none_or(|l| l.contains(&name)) {
                    add(setup, mdts, name, stopping);
                }
            }
        }
        Ok(Err(e)) => warn!("looking for MDTs: {e}"),
        Err(e) => error!("looking for MDTs: {e}"),
    }
    // A listed MDT that is not there yet is shown as such.
    for name in setup.mdts.iter().flatten() {
        add(setup, mdts, name.clone(), stopping);
    }
}

fn add(setup: &Setup, mdts: &Mutex<BTreeMap<MdtName, Mdt>>, name: MdtName, stopping: &watch::Receiver<bool>) {
    let mut mdts = mdts.lock().unwrap_or_else(PoisonError::into_inner);
    if mdts.contains_key(&name) {
        return;
    }
    info!(mdt = %name, "taking up");
    let world = World {
        mdt: name.clone(),
        user: setup.users.get(&name).unwrap_or(&setup.user).clone(),
        standby: setup.standby.contains(&name),
        settings: Arc::new(setup.settings.clone()),
        sources: setup.sources.clone(),
        sink: setup.sink.clone(),
        observer: setup.observer.clone(),
        max_message_bytes: setup.max_message_bytes,
        told: Arc::new(Mutex::new(Told::default())),
        shutdown: stopping.clone(),
    };
    let task = tokio::spawn(lives(world.clone()));
    mdts.insert(name, Mdt { world, task, rates: Mutex::new(Rates::default()) });
}

/// How long a stop waits for what is on its way to become durable. Service managers kill after 90 s by default (systemd's
/// DefaultTimeoutStopSec), container engines after 10.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Returns when the bridge should have shut down long ago.
async fn patience_ends(mut shutdown: watch::Receiver<bool>) {
    // An error means that nobody can ask for a shutdown any more, which is one.
    let _ = shutdown.wait_for(|asked| *asked).await;
    tokio::time::sleep(STOP_PATIENCE).await;
}

/// Life after life, until the bridge shuts down.
async fn lives(world: World) {
    let mut pause = Duration::from_millis(100);
    let mut shutdown = world.shutdown.clone();
    let mut fenced = false;
    loop {
        let began = Instant::now();
        let death = tokio::select! {
            ended = world.live(fenced) => match ended {
                Ok(()) => return,
                Err(death) => death,
            },
            () = patience_ends(world.shutdown.clone()) => {
                let seconds = STOP_PATIENCE.as_secs();
                warn!(mdt = %world.mdt, "the broker did not answer within {seconds} s of the signal: left as by kill -9, which loses nothing");
                return;
            }
        };
        if *shutdown.borrow() {
            return;
        }
        if began.elapsed() > Duration::from_secs(30) {
            pause = Duration::from_millis(100);
        }
        warn!(mdt = %world.mdt, "{death}");
        fenced = matches!(death, Death::Fenced(_)) || (fenced && matches!(death, Death::Again(_)));
        let wait = match death {
            Death::Suspect(why) => {
                world.tell(|t| t.phase = Some(Phase::Starting { step: why }));
                Duration::from_millis(50)
            }
            Death::Again(error) => {
                world.tell(|t| t.phase = Some(Phase::Retrying { error }));
                pause = (pause * 2).min(world.settings.retry_max);
                pause
            }
            // `live` itself waits until the other one is silent.
            Death::Fenced(owner) => {
                world.tell(|t| t.phase = Some(Phase::Fenced { owner }));
                Duration::from_millis(500)
            }
            Death::Stop(stop) => {
                error!(mdt = %world.mdt, reason = stop.reason, "stopped: {}", stop.text);
                let command = crate::status::command_for(stop.reason, world.mdt.as_str());
                world.tell(|t| t.phase = Some(Phase::Stopped { error: stop.text, command }));
                // A restart finds the same unless an operator acted: it is tried again, slowly.
                Duration::from_secs(5)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = shutdown.changed() => return,
        }
    }
}

fn rss_bytes() -> u64 {
    // The second field of statm is resident pages (proc(5)); the page size is 4 KiB on every supported platform's
    // default, and asking the system is exact.
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|s| s.split_whitespace().nth(1).and_then(|f| f.parse::<u64>().ok()))
        .unwrap_or(0);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    pages * u64::try_from(page).unwrap_or(4096)
}
