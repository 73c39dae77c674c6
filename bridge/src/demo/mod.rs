//! `clbridge demo`: the whole way of a record on one machine, with things going wrong, and a verdict.
//!
//! Simulated MDTs, a broker, the bridge, members that are processes of their own; one of them is killed, an MDT
//! crashes; then everything has to be cleared, and is judged record by record. It uses the bridge as `run` does and
//! has no way into it: what it knows of it is `status`.

pub mod broker;
pub mod mdts;
pub mod member;
pub mod names;
pub mod screen;
pub mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clbridge_schemas::ids::MdtName;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::assembly;
use crate::config::Config;
use crate::run::Bridge;
use crate::status::{BridgeStatus, Phase};
use broker::Broker;
use mdts::{Mdts, Workload};
use member::Member;
use names::Names;
use screen::{Frame, GroupView, Screen};
use verdict::{Evidence, GroupEvidence, Verdict};

/// The persistent groups and how many members each has.
const GROUPS: [(&str, usize); 2] = [("robinhood", 3), ("lake", 1)];
/// Records a second over both MDTs.
const RATE: u64 = 2_400;
/// Records over both MDTs that the mock cluster surely holds: it drops beyond 5 MiB a partition, and 15,000 records
/// of an MDT over four partitions take about 1 MiB each at their longest usual size.
const MOCK_TOTAL: u64 = 30_000;
/// How long the workload goes on, seconds.
const GENERATE_S: u64 = 16;
/// How long a directory is watched, seconds.
const WATCH_S: u64 = 20;
/// How long the bridge may take to begin.
const BEGINNING: Duration = Duration::from_secs(20);
/// How long the rest may take to be cleared once the workload has ended.
const CLEARING: Duration = Duration::from_secs(20);
/// A crash of a generator's MDT should take back so many records; a watched directory's may take back any.
const WORTH_A_CRASH: u64 = 60;
/// How long a moment is waited for in which a crash takes back what was published.
const WORTHWHILE: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// What can be chosen.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `HOST:PORT` of a real Kafka instead of the mock cluster.
    pub broker: Option<String>,
    /// A real directory instead of the generator.
    pub watch: Option<PathBuf>,
    /// How long the workload goes on.
    pub seconds: Option<u64>,
}

impl Options {
    fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.watch.is_some() { WATCH_S } else { GENERATE_S }).max(1)
    }

    fn workload(&self) -> Workload {
        match &self.watch {
            Some(dir) => Workload::Watched(dir.clone()),
            None => {
                let total = if self.broker.is_some() { 0 } else { MOCK_TOTAL };
                let rate = if self.broker.is_some() { RATE } else { RATE.min(MOCK_TOTAL / self.seconds()).max(1) };
                Workload::Generated { rate, total }
            }
        }
    }
}

/// Runs the demonstration. Exit status 0 if the verdict is good, else 1.
///
/// # Errors
/// It could not be carried out.
pub async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let dir = tempfile::Builder::new().prefix("clbridge-demo-").tempdir()?;
    log_to(&dir.path().join("bridge.log"))?;
    let mut screen = Screen::new();
    let outcome = play(options, dir.path(), &mut screen).await;
    let good = matches!(&outcome, Ok(verdict) if verdict.problems.is_empty());
    if !good {
        screen.say(&format!("The logs of the bridge and of the members are in {}", dir.keep().display()))?;
    }
    let seconds = screen.elapsed().as_secs_f64();
    let verdict = outcome?;
    if good {
        screen.say(&format!("GOOD: every surviving record reached every persistent group, nothing was cleared early, nothing is left ({seconds:.1} s)"))?;
        return Ok(ExitCode::SUCCESS);
    }
    screen.say(&format!("WRONG ({seconds:.1} s):"))?;
    for problem in &verdict.problems {
        screen.say(&format!("  {problem}"))?;
    }
    Ok(ExitCode::FAILURE)
}

/// The bridge says on its log what it does; the screen is for the story.
fn log_to(file: &std::path::Path) -> anyhow::Result<()> {
    let file = std::fs::File::create(file)?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .with_writer(Arc::new(file))
        .with_ansi(false)
        .try_init()
        .map_err(|e| anyhow::anyhow!("logging cannot be started: {e}"))
}

/// Everything that runs.
struct Stage<'a> {
    screen: &'a mut Screen,
    mdts: Arc<Mdts>,
    names: Names,
    bridge: Bridge,
    /// By group, in the order of [`GROUPS`].
    groups: Vec<(&'static str, Vec<Member>)>,
    ephemeral: Member,
    interrupted: watch::Receiver<bool>,
}

async fn play(options: &Options, dir: &std::path::Path, screen: &mut Screen) -> anyhow::Result<Verdict> {
    let interrupted = interruptions()?;
    let mdts = Arc::new(Mdts::start(dir).context("starting the simulated MDTs")?);
    let broker = match &options.broker {
        None => Broker::mock(mdts.names())?,
        Some(bootstrap) => Broker::real(bootstrap, &run_id()),
    };
    screen
        .say("clbridge demo: two simulated MDTs, a broker, a bridge, two persistent groups and an ephemeral reader.")?;
    for line in broker.introduction() {
        screen.say(&line)?;
    }
    let names = broker.names().clone();
    let group_names = GROUPS.map(|(name, _)| name);
    let config = names.bridge(mdts.address(), &group_names);
    let bridge = start_bridge(&config, mdts.names()).await?;
    screen.event(
        "the bridge runs; both groups are registered and their first positions written, before any member starts",
    )?;

    let members = dir.join("members.toml");
    names.write_members(&members)?;
    let mut groups = Vec::new();
    for (name, size) in GROUPS {
        let all: anyhow::Result<Vec<_>> =
            (1..=size).map(|n| Member::start(Some(&names.group(name)), n, &members, dir)).collect();
        groups.push((name, all?));
    }
    let ephemeral = Member::start(None, 1, &members, dir)?;
    screen.event(
        "four members started (robinhood: 3, lake: 1) and an ephemeral reader; they join while records already come",
    )?;

    let mut stage = Stage { screen, mdts: mdts.clone(), names, bridge, groups, ephemeral, interrupted };
    stage.story(options).await?;
    let mdt_names = mdts.names().to_vec();
    let evidence = stage.finish(&broker, mdts).await?;
    let verdict = verdict::judge(&evidence);
    tell(screen, &verdict)?;
    if verdict.problems.is_empty()
        && let Err(e) = broker.tidy(&mdt_names, &group_names).await
    {
        screen.say(&format!("  Left in the broker under {}: {e:#}", broker.names().prefix()))?;
    }
    Ok(verdict)
}

/// True once Ctrl-C or SIGTERM came.
fn interruptions() -> anyhow::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell.send_replace(true);
        // Kept, so that whoever asks later is told too.
        tell.closed().await;
    });
    Ok(told)
}

/// Different for every run on a broker.
fn run_id() -> String {
    format!("{}-{}", mdt_sim::mdt::wall_ns() / 1_000_000, std::process::id())
}

/// Registers the groups, starts the bridge and waits until it publishes from both MDTs, which it does only after it
/// has written every group's first positions.
async fn start_bridge(config: &Config, mdts: &[MdtName]) -> anyhow::Result<Bridge> {
    let made = config.clone();
    let (sink, setup) =
        tokio::task::spawn_blocking(move || -> anyhow::Result<(Arc<dyn clbridge_sinks::Broker>, crate::run::Setup)> {
            let sink = assembly::sink(&made)?;
            let setup = assembly::setup(&made, &sink)?;
            Ok((sink, setup))
        })
        .await??;
    sink.change_registry(&mut |registry| {
        for (name, group) in &config.groups {
            registry.groups.insert(name.clone(), group.spec(name));
        }
    })
    .await
    .context("registering the groups")?;
    let bridge = Bridge::start(setup);
    let until = Instant::now() + BEGINNING;
    loop {
        let status = bridge.status();
        let running = |mdt: &MdtName| status.mdts.iter().any(|m| m.mdt == *mdt && m.phase == Phase::Running);
        if mdts.iter().all(running) {
            return Ok(bridge);
        }
        if Instant::now() > until {
            bail!("the bridge did not begin within {} s: {}", BEGINNING.as_secs(), phases(&status));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn phases(status: &BridgeStatus) -> String {
    let one = |m: &crate::status::MdtStatus| {
        let holding: Vec<_> = m.holding.iter().map(|h| h.text.as_str()).collect();
        let holding = if holding.is_empty() { String::new() } else { format!(", holding: {}", holding.join("; ")) };
        format!("{} {:?}{holding}", m.mdt, m.phase)
    };
    status.mdts.iter().map(one).collect::<Vec<_>>().join("; ")
}

impl Stage<'_> {
    /// The workload, a kill, a crash, and the wait until everything is cleared.
    async fn story(&mut self, options: &Options) -> anyhow::Result<()> {
        let seconds = options.seconds();
        let began = Instant::now();
        let part = |share: f64| began + Duration::from_secs_f64(seconds as f64 * share);
        self.mdts.work(&options.workload()).context("starting the workload")?;
        let what = match options.workload() {
            Workload::Generated { rate, .. } => format!("a played file system writes {rate} records/s over both MDTs"),
            Workload::Watched(dir) => format!("what happens in {} becomes records of demo-MDT0000", dir.display()),
        };
        self.screen.event(&format!("{what}, for {seconds} s"))?;

        self.watch_until(part(0.4), |_| false).await?;
        self.kill_a_member()?;
        self.watch_until(part(0.62), |_| false).await?;
        self.crash_an_mdt(options.watch.is_none()).await?;
        self.watch_until(part(1.0), |stage| !stage.mdts.working()).await?;

        let mdts = self.mdts.clone();
        tokio::task::spawn_blocking(move || mdts.rest()).await?;
        self.screen.event("the workload has ended; now everything has to be cleared")?;
        let until = Instant::now() + CLEARING;

        let cleared = |stage: &Self| stage.mdts.all_cleared();
        if !self.watch_until(until, cleared).await? {
            let text = format!(
                "not everything was cleared within {} s: {}",
                CLEARING.as_secs(),
                phases(&self.bridge.status())
            );
            self.screen.event(&text)?;
        }
        Ok(())
    }

    /// Shows how things stand until `done`, the end of the time, or the wish to stop. True if `done`.
    async fn watch_until(&mut self, until: Instant, done: impl Fn(&Self) -> bool) -> anyhow::Result<bool> {
        loop {
            let frame = self.frame();
            self.screen.show(&frame)?;
            if done(self) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
            anyhow::ensure!(!*self.interrupted.borrow(), "interrupted: no verdict");
        }
    }

    fn frame(&self) -> Frame {
        let status = self.bridge.status();
        let emitted = status.mdts.iter().map(|m| self.mdts.stats(&m.mdt).map_or(0, |s| s.last_index)).collect();
        let view = |(name, members): &(&str, Vec<Member>)| GroupView {
            name: (*name).to_owned(),
            id: self.names.group(name),
            members: members.iter().filter(|m| !m.over()).count(),
            written: members.iter().map(Member::count).sum(),
        };
        Frame { status, emitted, groups: self.groups.iter().map(view).collect(), ephemeral: self.ephemeral.count() }
    }

    /// The busiest member of the first group dies at once, in the middle of whatever it does.
    fn kill_a_member(&mut self) -> anyhow::Result<()> {
        let (group, members) = &mut self.groups[0];
        let Some(victim) = members.iter_mut().max_by_key(|m| m.count()) else { return Ok(()) };
        victim.kill()?;
        let text = format!(
            "kill -9 of {group} member {} (process {}), which had written {} records; the others take over what it had not acknowledged",
            victim.number,
            victim.id(),
            victim.count()
        );
        self.screen.event(&text)?;
        Ok(())
    }

    /// An MDT loses what it had not committed, and gives the indexes to other records.
    async fn crash_an_mdt(&mut self, invent: bool) -> anyhow::Result<()> {
        let Some(mdt) = (if invent { self.mdts.names().last() } else { self.mdts.names().first() }).cloned() else {
            return Ok(());
        };
        let worth = if invent { WORTH_A_CRASH } else { 2 };
        let until = Instant::now() + WORTHWHILE;
        let mut look = Instant::now();
        while !self.mdts.worth_a_crash(&mdt, self.durable(&mdt), worth) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if look.elapsed() > LOOK {
                look = Instant::now();
                let frame = self.frame();
                self.screen.show(&frame)?;
            }
        }
        let (mdts, target) = (self.mdts.clone(), mdt.clone());
        let crash = tokio::task::spawn_blocking(move || mdts.crash(&target, invent));
        // An MDT is away for a moment only; what goes on meanwhile is worth seeing.
        self.watch_until(Instant::now() + CLEARING, |_| crash.is_finished()).await?;
        let report = crash.await?.context("crashing an MDT")?;
        let text = match report {
            None => format!("{mdt} would have crashed, but had nothing uncommitted to lose"),
            Some(r) => format!(
                "{mdt} crashed: it lost {} readable, uncommitted records from index {} on; {} came back with a new time and {} others took the rest of the indexes",
                r.lost,
                r.committed_index + 1,
                r.replayed,
                r.fresh
            ),
        };
        self.screen.event(&text)?;
        Ok(())
    }

    /// The index up to which the broker has confirmed an MDT's records.
    fn durable(&self, mdt: &MdtName) -> u64 {
        self.bridge.status().mdts.iter().find(|m| m.mdt == *mdt).map_or(0, |m| m.durable)
    }

    /// Stops everything in order and hands out what it leaves behind.
    async fn finish(self, broker: &Broker, mdts: Arc<Mdts>) -> anyhow::Result<Evidence> {
        let status = self.bridge.status();
        for m in &status.mdts {
            self.screen.event(&format!(
                "{}: {} crashes noticed, incarnation {}, {} records between the bridge and its last clear",
                m.mdt, m.crashes, m.incarnation, m.backlog
            ))?;
        }
        self.groups.iter().flat_map(|(_, m)| m).chain([&self.ephemeral]).for_each(Member::ask_to_leave);
        let (groups, ephemeral) = (self.groups, self.ephemeral);
        let groups = tokio::task::spawn_blocking(move || -> anyhow::Result<Vec<GroupEvidence>> {
            ephemeral.finish().context("the ephemeral reader")?;
            let mut evidence = Vec::new();
            for (name, members) in groups {
                let mut written = Vec::new();
                for member in members {
                    let number = member.number;
                    written.extend(member.finish().with_context(|| format!("{name} member {number}"))?);
                }
                evidence.push(GroupEvidence { name: name.to_owned(), written });
            }
            Ok(evidence)
        })
        .await??;
        self.bridge.shutdown().await;
        let log_starts = broker.log_starts(mdts.names())?;
        drop(self.mdts);
        let mdts = Arc::into_inner(mdts).context("something still uses the simulated MDTs")?;
        let mdts = tokio::task::spawn_blocking(move || mdts.stop()).await?.context("reading the oracle")?;
        Ok(Evidence { mdts, groups, log_starts })
    }
}

/// The figures behind the verdict.
fn tell(screen: &mut Screen, verdict: &Verdict) -> anyhow::Result<()> {
    screen.say("")?;
    screen.say("Verdict, record by record, against what the simulated MDTs say happened:")?;
    for m in &verdict.mdts {
        screen.say(&format!(
            "  {}: {} records emitted, {} taken back by a crash, {} stand; {} clears carried out, {} refused",
            m.name, m.emitted, m.taken_back, m.surviving, m.clears, m.refused
        ))?;
    }
    for g in &verdict.groups {
        screen.say(&format!(
            "  {}: wrote out {} different records, {} of them retracted since; {} came more than once",
            g.name, g.records, g.void, g.repeated
        ))?;
    }
    Ok(())
}
