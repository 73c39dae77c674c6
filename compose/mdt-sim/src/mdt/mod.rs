//! One simulated MDT: its log, its users, its commit point and its misfortunes, behind one lock.
//! It must never show a record that the oracle does not know, nor keep through a crash what was not committed.

mod admin;
mod clear;
mod config;
mod crash;
mod faults;
mod log;
mod state;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use config::{Logged, MdtConfig, Stamp, Stats};
pub use crash::{Crash, CrashReport, Length};
pub use faults::{FaultOn, Malformed};

pub(crate) use faults::spoil;
pub(crate) use state::State;

use crate::generation::{self, Generation};
use crate::journal::{Journal, Meta};
use crate::oracle::{Event, Oracle};
use crate::users::Users;
use faults::Faults;
use log::Log;
use state::Counters;

/// Nanoseconds since 1970 by the wall clock.
#[must_use]
pub fn wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// A simulated MDT. Shared by everything that serves, fills or torments it.
#[derive(Debug)]
pub struct Mdt {
    name: String,
    generation: Generation,
    oracle_path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

impl Mdt {
    /// Opens or creates an MDT in its folder.
    ///
    /// # Errors
    /// Those of the disk, a damaged journal, a folder of another MDT.
    pub fn open(config: &MdtConfig) -> io::Result<Arc<Self>> {
        let dir = config.dir.join(&config.name);
        let (journal, recovered) = Journal::open(&dir, config.journal_file, config.fsync)?;
        let oracle_path = dir.join("oracle");
        let (mut oracle, newest) = Oracle::open(&oracle_path)?;
        let new = recovered.is_none();
        let (mut meta, places) = match recovered {
            Some(r) => (r.meta, r.places),
            None => (
                Meta {
                    mdt: config.name.clone(),
                    users: Users::default(),
                    last_index: 0,
                    last_time_ns: 0,
                    purged: 0,
                    life: 0,
                    clean: true,
                },
                Vec::new(),
            ),
        };
        if meta.mdt != config.name {
            return Err(io::Error::other(format!(
                "{} is the folder of {}, not of {}",
                dir.display(),
                meta.mdt,
                config.name
            )));
        }
        let now = wall_ns();
        if !meta.clean || new {
            meta.life += 1;
        }
        if newest > meta.last_index {
            oracle.event(&Event::TakenBack {
                at_ns: now,
                life: meta.life,
                from: meta.last_index + 1,
                to: newest,
                reason: "the server was killed".to_owned(),
                clears: Vec::new(),
            })?;
        }
        oracle.event(&Event::Started { at_ns: now, life: meta.life, last_index: meta.last_index })?;
        meta.clean = false;
        if !new {
            meta.users.restart_masks();
        }
        let mut log = Log::new(journal, places, meta.purged, config.window);
        log.commit(&meta)?;
        Ok(Arc::new(Self {
            name: config.name.clone(),
            generation: config.generation,
            oracle_path,
            state: Mutex::new(State {
                log,
                committed: meta.clone(),
                meta,
                oracle,
                up: true,
                evictions: 0,
                faults: Faults::default(),
                seek_cost: config.seek_cost,
                commit_interval: config.commit_interval,
                committed_at: Instant::now(),
                gc: config.gc,
                gc_at: Instant::now(),
                clear_id: 0,
                counters: Counters::default(),
                stopped: false,
            }),
            changed: Condvar::new(),
        }))
    }

    /// The device name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which Lustre this server is.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Where the oracle log is.
    #[must_use]
    pub fn oracle_path(&self) -> &std::path::Path {
        &self.oracle_path
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not hide the log from the judge.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_up<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while !state.up && !state.stopped {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Logs records that stand back to back in `records`; waits while the MDT is down.
    ///
    /// # Errors
    /// Those of the disk, bytes that are no whole records, kept indexes that do not rise.
    pub fn emit(&self, records: &[u8], stamp: Stamp) -> io::Result<Logged> {
        let older = match stamp {
            Stamp::Now => generation::downgrade(records, self.generation)?,
            Stamp::Keep => None,
        };
        let mut state = self.wait_up(self.lock());
        let logged = state.append(older.as_deref().unwrap_or(records), stamp, u64::MAX)?;
        state.collect_idle()?;
        Ok(logged)
    }

    /// Whether the MDT answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.lock().up
    }

    /// Commits now what has been logged and cleared.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn commit(&self) -> io::Result<()> {
        self.wait_up(self.lock()).commit()
    }

    /// Changes the time between commits; zero: only on command.
    pub fn set_commit_interval(&self, interval: Duration) {
        self.lock().commit_interval = interval;
        self.changed.notify_all();
    }

    /// Commits when it is time, until [`Mdt::stop`]. Runs on a thread of its own.
    pub(crate) fn run_commits(&self) {
        let mut state = self.lock();
        while !state.stopped {
            let interval = state.commit_interval;
            let elapsed = state.committed_at.elapsed();
            if state.up && !interval.is_zero() && elapsed >= interval {
                if let Err(e) = state.commit().and_then(|()| state.collect_idle()) {
                    tracing::error!(mdt = self.name, error = %e, "commit failed");
                }
                continue;
            }
            let wait = if interval.is_zero() || !state.up { Duration::from_secs(3600) } else { interval - elapsed };
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Commits and lets go of everybody who waits.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn stop(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.stopped {
            return Ok(());
        }
        state.stopped = true;
        self.changed.notify_all();
        if state.up {
            state.meta.clean = true;
            state.commit()?;
            let last_index = state.meta.last_index;
            state.oracle.event(&Event::Stopped { at_ns: wall_ns(), last_index })?;
        }
        Ok(())
    }
}
