//! What happens in the demonstration: everything that runs, the kill, the crash, and the end in good order.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{Positions, Registry};
use mdt_sim::mdt::CrashReport;
use tokio::sync::watch;

use super::mdts::{Mdts, Workload};
use super::member::Member;
use super::place::{Place, Starts};
use super::screen::{Frame, GroupView, Screen};
use super::verdict::{Evidence, GroupEvidence, LogStart, Written};
use super::{GROUPS, MEMBERS, Options};
use crate::assembly;
use crate::run::Bridge;
use crate::status::{BridgeStatus, Phase};

/// How long the bridge may take to begin.
const BEGINNING: Duration = Duration::from_secs(60);
/// How long the rest may take to be cleared once the workload has ended.
const CLEARING: Duration = Duration::from_secs(60);
/// A crash should take back a fortieth of what a second records; a watched directory's may take back any.
const WORTH_A_CRASH: u64 = 40;
/// How long a moment is waited for in which a crash takes back what was published.
const WORTHWHILE: Duration = Duration::from_secs(3);
/// The same once everything was published.
const WORTHWHILE_AGAIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Everything that runs.
pub(super) struct Stage<'a> {
    screen: &'a mut Screen,
    place: &'a Place,
    mdts: Arc<Mdts>,
    bridge: Bridge,
    /// By group, in the order of [`GROUPS`].
    groups: Vec<(&'static str, Vec<Member>)>,
    ephemeral: Option<Member>,
    interrupted: watch::Receiver<bool>,
}

/// What is there when nothing runs any more.
pub(super) struct Left {
    mdts: Arc<Mdts>,
    /// What each member of each group wrote.
    groups: Vec<(&'static str, Vec<Vec<Written>>)>,
}

impl<'a> Stage<'a> {
    /// Registers the groups, starts the bridge and waits until it publishes from both MDTs, which it does only after it
    /// has written every group's first positions.
    pub(super) async fn set(
        screen: &'a mut Screen,
        place: &'a Place,
        mdts: Arc<Mdts>,
        interrupted: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let (config, sink) = (place.config().clone(), place.sink().clone());
        let setup = tokio::task::spawn_blocking(move || assembly::setup(&config, &sink)).await??;
        let groups = &place.config().groups;
        let mut register = |registry: &mut Registry| {
            registry.groups.extend(groups.iter().map(|(name, group)| (name.clone(), group.spec(name))));
        };
        place.sink().change_registry(&mut register).await.context("registering the groups")?;
        let bridge = Bridge::start(setup);
        let begun = begun(&bridge, mdts.names(), &interrupted).await;
        let stage = Self { screen, place, mdts, bridge, groups: Vec::new(), ephemeral: None, interrupted };
        match begun {
            Ok(()) => Ok(stage),
            Err(e) => {
                stage.leave().await?;
                Err(e)
            }
        }
    }

    /// The members, the workload, a kill, a crash, and the wait until everything is cleared. Tells what the broker still
    /// has then.
    pub(super) async fn play(&mut self, options: &Options, dir: &Path) -> anyhow::Result<Vec<LogStart>> {
        self.screen.event(
            "the bridge runs; both groups are registered and their first positions written, before any member starts",
        )?;
        let starts: Starts = self.place.starts().await?;
        self.enter(dir)?;
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
        self.crash_an_mdt(&options.workload()).await?;
        self.watch_until(part(1.0), |stage| !stage.mdts.working()).await?;

        let mdts = self.mdts.clone();
        tokio::task::spawn_blocking(move || mdts.rest()).await?;
        self.screen.event("the workload has ended; now everything has to be cleared")?;
        let until = Instant::now() + CLEARING;
        if !self.watch_until(until, |stage| stage.mdts.all_cleared()).await? {
            let phases = phases(&self.bridge.status());
            self.screen.event(&format!("not everything was cleared within {} s: {phases}", CLEARING.as_secs()))?;
        }
        for m in &self.bridge.status().mdts {
            self.screen.event(&format!(
                "{}: {} crashes noticed, incarnation {}, {} records between the bridge and its last clear",
                m.mdt, m.crashes, m.incarnation, m.backlog
            ))?;
        }
        self.place.log_starts(&starts).await
    }

    /// The members come.
    fn enter(&mut self, dir: &Path) -> anyhow::Result<()> {
        let (names, members) = (self.place.names(), dir.join(MEMBERS));
        names.write_members(&members)?;
        for (name, size) in GROUPS {
            let all: anyhow::Result<Vec<_>> =
                (1..=size).map(|n| Member::start(Some(&names.group(name)), n, &members, dir)).collect();
            self.groups.push((name, all?));
        }
        self.ephemeral = Some(Member::start(None, 1, &members, dir)?);
        self.screen.event(
            "four members started (robinhood: 3, lake: 1) and an ephemeral reader; they join while records already come",
        )?;
        Ok(())
    }

    /// Shows how things stand until `done`, the end of the time, or the wish to stop. True if `done`.
    async fn watch_until(&mut self, until: Instant, done: impl Fn(&Self) -> bool) -> anyhow::Result<bool> {
        loop {
            anyhow::ensure!(!*self.interrupted.borrow(), "interrupted: no verdict");
            let frame = self.frame();
            self.screen.show(&frame)?;
            if done(self) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    fn frame(&self) -> Frame {
        let status = self.bridge.status();
        let emitted = status.mdts.iter().map(|m| self.mdts.stats(&m.mdt).map_or(0, |s| s.last_index)).collect();
        let view = |(name, members): &(&str, Vec<Member>)| GroupView {
            name: (*name).to_owned(),
            id: self.place.names().group(name),
            members: members.iter().filter(|m| !m.over()).count(),
            written: members.iter().map(Member::count).sum(),
        };
        let ephemeral = self.ephemeral.as_ref().map_or(0, Member::count);
        Frame { status, emitted, groups: self.groups.iter().map(view).collect(), ephemeral }
    }

    /// The busiest member of the first group dies at once, in the middle of whatever it does.
    fn kill_a_member(&mut self) -> anyhow::Result<()> {
        let Some((group, members)) = self.groups.first_mut() else { return Ok(()) };
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
    async fn crash_an_mdt(&mut self, workload: &Workload) -> anyhow::Result<()> {
        let invent = matches!(workload, Workload::Generated { .. });
        let (mdt, worth) = match workload {
            Workload::Generated { rate, .. } => (self.mdts.names().last(), (rate / WORTH_A_CRASH).max(2)),
            Workload::Watched(_) => (self.mdts.names().first(), 2),
        };
        let Some(mdt) = mdt.cloned() else { return Ok(()) };
        self.mdts.is_going_to_crash(&mdt);
        let mut report = self.crash_when(&mdt, invent, Some(worth), WORTHWHILE).await?;
        if report.is_none() && invent {
            self.catch_up(workload).await?;
            report = self.crash_when(&mdt, invent, Some(worth), WORTHWHILE_AGAIN).await?;
        }
        if report.is_none() {
            report = self.crash_when(&mdt, invent, None, Duration::ZERO).await?;
        }
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

    /// Crashes an MDT at a moment in which that takes back `worth` records, half of them published; without `worth` now.
    /// `None` if no such moment came.
    async fn crash_when(
        &mut self,
        mdt: &MdtName,
        invent: bool,
        worth: Option<u64>,
        patience: Duration,
    ) -> anyhow::Result<Option<CrashReport>> {
        let (until, mut look) = (Instant::now() + patience, Instant::now());
        loop {
            let worth = worth.map(|worth| (self.durable(mdt), worth));
            if worth.is_none_or(|(published, worth)| self.mdts.worth_a_crash(mdt, published, worth)) {
                let (mdts, target) = (self.mdts.clone(), mdt.clone());
                let crash = tokio::task::spawn_blocking(move || mdts.crash(&target, invent, worth));
                // An MDT is away for a moment only; what goes on meanwhile is worth seeing.
                self.watch_until(Instant::now() + CLEARING, |_| crash.is_finished()).await?;
                if let Some(report) = crash.await?.context("crashing an MDT")? {
                    return Ok(Some(report));
                }
            }
            if !self.mdts.working() || Instant::now() >= until {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            if look.elapsed() > LOOK {
                look = Instant::now();
                self.watch_until(look, |_| true).await?;
            }
        }
    }

    /// The workload pauses until everything is published: on a machine that is too busy for it the bridge would stay so far
    /// behind that no crash could take back what it has shown.
    async fn catch_up(&mut self, workload: &Workload) -> anyhow::Result<()> {
        self.screen.event("the bridge is behind: the workload pauses until everything is published")?;
        let mdts = self.mdts.clone();
        tokio::task::spawn_blocking(move || mdts.rest()).await?;
        let all = |stage: &Self| {
            let newest = |mdt| stage.mdts.stats(mdt).map_or(0, |s| s.last_index);
            stage.mdts.names().iter().all(|mdt| stage.durable(mdt) >= newest(mdt))
        };
        self.watch_until(Instant::now() + CLEARING, all).await?;
        self.mdts.work(workload).context("starting the workload again")
    }

    /// The index up to which the broker has confirmed an MDT's records.
    fn durable(&self, mdt: &MdtName) -> u64 {
        self.bridge.status().mdts.iter().find(|m| m.mdt == *mdt).map_or(0, |m| m.durable)
    }

    /// Ends everything in order: the members, then the bridge.
    pub(super) async fn leave(self) -> anyhow::Result<Left> {
        let (groups, ephemeral) = (self.groups, self.ephemeral);
        groups.iter().flat_map(|(_, m)| m).chain(&ephemeral).for_each(Member::ask_to_leave);
        let ended = tokio::task::spawn_blocking(move || -> anyhow::Result<Vec<_>> {
            ephemeral.map_or(Ok(Vec::new()), Member::finish).context("the ephemeral reader")?;
            let mut all = Vec::new();
            for (name, members) in groups {
                let mut written = Vec::new();
                for member in members {
                    let number = member.number;
                    written.push(member.finish().with_context(|| format!("{name} member {number}"))?);
                }
                all.push((name, written));
            }
            Ok(all)
        });
        let ended = ended.await;
        self.bridge.shutdown().await;
        Ok(Left { mdts: self.mdts, groups: ended?? })
    }
}

impl Left {
    /// Stops the MDTs and puts together what is known of the run.
    pub(super) async fn evidence(self, place: &Place, log_starts: Vec<LogStart>) -> anyhow::Result<Evidence> {
        let mdts = Arc::into_inner(self.mdts).context("something still uses the simulated MDTs")?;
        let mdts = tokio::task::spawn_blocking(move || mdts.stop()).await?.context("reading the oracle")?;
        let (sink, by_object) = (place.sink().capabilities(), place.names().members_share_by_object());
        let groups = self.groups.into_iter().map(|(name, members)| GroupEvidence {
            name: name.to_owned(),
            in_order: by_object || members.len() == 1,
            members,
        });
        Ok(Evidence {
            mdts,
            groups: groups.collect(),
            log_starts,
            exactly_once: sink.exactly_once,
            one_sequence: sink.positions != Positions::Offsets,
        })
    }
}

/// Waits until the bridge publishes from these MDTs.
async fn begun(bridge: &Bridge, mdts: &[MdtName], interrupted: &watch::Receiver<bool>) -> anyhow::Result<()> {
    let until = Instant::now() + BEGINNING;
    loop {
        let status = bridge.status();
        let running = |mdt: &MdtName| status.mdts.iter().any(|m| m.mdt == *mdt && m.phase == Phase::Running);
        if mdts.iter().all(running) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("the bridge did not begin within {} s: {}", BEGINNING.as_secs(), phases(&status));
        }
        anyhow::ensure!(!*interrupted.borrow(), "interrupted: no verdict");
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
