//! Where records come from: a file system that is played, a capture that is replayed, a directory that is watched.
//! A source never waits for a reader, and never gives an MDT that is down an operation.

mod encode;
mod world;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::mdt::{Logged, Mdt, Stamp, wall_ns};
use crate::{replay, watch};
pub(crate) use encode::{Draft, encode};
use world::World;
pub(crate) use world::kind;

/// Records are handed to an MDT in batches of about this many.
const BATCH: u64 = 1024;
/// The grain of a rate.
const TICK: Duration = Duration::from_millis(1);

/// A workload: what a plausible file system does, how fast and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Records to log, over all MDTs (a few more: an operation is not cut in two). 0: until ended.
    pub total: u64,
    /// Records a second over all MDTs; 0: as fast as it goes.
    pub rate: u64,
    /// Records a second during a burst.
    pub burst_rate: u64,
    /// A burst begins so often, milliseconds; 0: none.
    pub burst_every_ms: u64,
    /// A burst lasts so long, milliseconds.
    pub burst_ms: u64,
    /// The same seed plays the same operations.
    pub seed: u64,
    /// Files that exist at a time, at most.
    pub max_files: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { total: 0, rate: 1000, burst_rate: 0, burst_every_ms: 0, burst_ms: 0, seed: 1, max_files: 50_000 }
    }
}

impl Plan {
    /// As many records as fast as possible, for benchmarks.
    #[must_use]
    pub fn fill(total: u64, seed: u64) -> Self {
        Self { total, rate: 0, seed, ..Self::default() }
    }

    fn rate_at(&self, elapsed: Duration) -> u64 {
        let every = u128::from(self.burst_every_ms);
        if every > 0 && elapsed.as_millis() % every < u128::from(self.burst_ms) { self.burst_rate } else { self.rate }
    }
}

/// One of the ways to make records.
#[derive(Clone, Debug)]
pub enum Source {
    /// A workload.
    Plan(Plan),
    /// A capture file.
    #[allow(missing_docs)]
    Replay { file: PathBuf, keep: bool, loops: u64, rate: u64 },
    /// A directory on this machine.
    Watch(PathBuf),
}

/// What a source logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Records logged.
    pub count: u64,
    /// Records that masks left out.
    pub masked: u64,
    /// How long it took, seconds.
    pub seconds: f64,
}

impl Report {
    pub(crate) fn add(&mut self, logged: Logged) {
        self.count += logged.count;
        self.masked += logged.masked;
    }
}

/// Runs a source until it is done or `ended` is set.
///
/// # Errors
/// Those of the disk, an unreadable capture, a directory that cannot be watched.
pub fn run(source: &Source, mdts: &[Arc<Mdt>], ended: &AtomicBool) -> io::Result<Report> {
    let start = Instant::now();
    let mut report = match (source, mdts) {
        (_, []) => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no MDT to log on"));
        }
        (Source::Plan(plan), _) => play(plan, mdts, ended)?,
        (Source::Replay { file, keep, loops, rate }, [mdt, ..]) => replay::run(file, mdt, *keep, *loops, *rate, ended)?,
        (Source::Watch(dir), [mdt, ..]) => watch::run(dir, mdt, ended)?,
    };
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

fn play(plan: &Plan, mdts: &[Arc<Mdt>], ended: &AtomicBool) -> io::Result<Report> {
    // FIDs of an earlier run on the same log never come back as other objects.
    let epoch = mdts.iter().map(|m| m.stats().last_index).max().unwrap_or(0);
    let mut world = World::new(mdts.len(), plan.seed, epoch, plan.max_files);
    let mut buffers = vec![Vec::new(); mdts.len()];
    let mut report = Report::default();
    let start = Instant::now();
    let mut tick = start;
    let mut owed = 0.0f64;
    while !ended.load(Ordering::Relaxed) && (plan.total == 0 || report.count < plan.total) {
        let rate = plan.rate_at(start.elapsed());
        let mut due = BATCH;
        if rate > 0 {
            let now = Instant::now();
            owed += rate as f64 * (now - tick).as_secs_f64();
            // After a long stall (all MDTs down) a real file system does not make up for lost time.
            owed = owed.min(rate as f64);
            tick = now;
            due = owed as u64;
            if due == 0 {
                std::thread::sleep(TICK);
                continue;
            }
            due = due.min(BATCH);
        } else {
            tick = Instant::now();
        }
        if plan.total > 0 {
            due = due.min(plan.total - report.count);
        }
        let up: Vec<bool> = mdts.iter().map(|m| m.is_up()).collect();
        if !up.contains(&true) {
            std::thread::sleep(TICK * 10);
            continue;
        }
        let mut made = 0;
        while made < due {
            made += world.step(&up, &mut buffers);
        }
        owed -= made as f64;
        for (mdt, buffer) in mdts.iter().zip(&mut buffers) {
            if !buffer.is_empty() {
                let logged = mdt.emit(buffer, Stamp::Now)?;
                report.add(logged);
                // What a mask leaves out was not to be logged: it does not count against the rate.
                owed += logged.masked as f64;
                buffer.clear();
            }
        }
        if report.count == 0 && report.masked > 10 * BATCH {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the masks let nothing through: register a changelog user first",
            ));
        }
        if rate > 0 && owed < 1.0 {
            std::thread::sleep(TICK);
        }
    }
    Ok(report)
}

/// New records for `mdt` that nobody has seen before, so many that at least `count` pass any usual mask.
#[must_use]
pub fn fresh(mdts: &[String], mdt: &str, count: u64) -> Vec<u8> {
    let own = mdts.iter().position(|m| m == mdt).unwrap_or(0);
    let mut up = vec![false; mdts.len()];
    up[own] = true;
    let epoch = wall_ns() / 1_000_000;
    let mut world = World::new(mdts.len(), epoch, epoch, 1000);
    let mut buffers = vec![Vec::new(); mdts.len()];
    let mut made = 0;
    while made < 2 * count + 16 {
        made += world.step(&up, &mut buffers);
    }
    buffers.swap_remove(own)
}

/// The workloads that run beside a server.
#[derive(Debug, Default)]
pub struct Jobs {
    state: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Jobs {
    fn state(&self) -> std::sync::MutexGuard<'_, Running> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sign by which the present workloads know that they are over.
    #[must_use]
    pub fn ended(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.state().ended)
    }

    /// Starts a source on a thread of its own.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(&self, source: Source, mdts: Vec<Arc<Mdt>>) -> io::Result<()> {
        let mut state = self.state();
        let ended = Arc::clone(&state.ended);
        let thread = std::thread::Builder::new().name("mdt-sim-workload".to_owned()).spawn(move || {
            match run(&source, &mdts, &ended) {
                Ok(report) => tracing::info!(?report, "workload ended"),
                Err(e) => tracing::error!(error = %e, ?source, "workload failed"),
            }
        })?;
        state.threads.retain(|t| !t.is_finished());
        state.threads.push(thread);
        Ok(())
    }

    /// Whether a workload started here still runs.
    #[must_use]
    pub fn running(&self) -> bool {
        self.state().threads.iter().any(|t| !t.is_finished())
    }

    /// Ends the present workloads and waits for them; later ones may start.
    pub fn end(&self) {
        self.stop();
        self.join();
    }

    pub(crate) fn stop(&self) {
        let mut state = self.state();
        state.ended.store(true, Ordering::Relaxed);
        state.ended = Arc::default();
    }

    pub(crate) fn join(&self) {
        let threads = std::mem::take(&mut self.state().threads);
        for thread in threads {
            // A panic has printed its message; the server goes on without that workload.
            let _ = thread.join();
        }
    }
}
