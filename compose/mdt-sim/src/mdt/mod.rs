//! One simulated MDT: its log, its users, its commit point and its misfortunes, behind one lock.
//! It must never show a record that the oracle does not know, nor keep through a crash what was not committed.

mod crash;
mod faults;
mod log;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use crash::{Crash, CrashReport, Length};
pub use faults::{FaultOn, Malformed};

pub(crate) use faults::{Fault, Faults, spoil};

use crate::generation::{self, Generation};
use crate::journal::{Journal, Meta};
use crate::layout;
use crate::mask;
use crate::oracle::{Emitted, Event, Oracle};
use crate::users::{Errno, GcLimits, Users, UsersForm, parse_clear};
use log::Log;

/// Nanoseconds since 1970 by the wall clock.
#[must_use]
pub fn wall_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

/// How an MDT is set up. All but `name` and `dir` have a default.
#[derive(Clone, Debug)]
pub struct MdtConfig {
    /// The device name, `FS-MDT0000`.
    pub name: String,
    /// Folder of the journal and the oracle log, shared by all MDTs of a server.
    pub dir: PathBuf,
    /// Time between commits; zero: only on command. Lustre's default is 5 s.
    pub commit_interval: Duration,
    /// Bytes of records kept in memory; the rest is read from the journal.
    pub window: usize,
    /// A journal file ends at the first commit beyond this many bytes.
    pub journal_file: u64,
    /// Whether a commit also waits for the disk (else it survives `kill -9`, not a power cut).
    pub fsync: bool,
    /// Which Lustre this server is.
    pub generation: Generation,
    /// What skipping one uncleared record costs an open that seeks.
    pub seek_cost: Duration,
    /// When idle users are removed by force.
    pub gc: GcLimits,
}

impl MdtConfig {
    /// The defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            dir: dir.into(),
            commit_interval: Duration::from_secs(5),
            window: 64 << 20,
            journal_file: 64 << 20,
            fsync: false,
            generation: Generation::L2_16,
            seek_cost: Duration::ZERO,
            gc: GcLimits::default(),
        }
    }
}

/// What [`Mdt::emit`] does with index and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The next index and the present time; types outside the effective mask are not logged.
    Now,
    /// Both as they are in the record, which must have been logged once: no mask applies.
    Keep,
}

/// What came of an [`Mdt::emit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Records logged.
    pub count: u64,
    /// Records left out by the mask.
    pub masked: u64,
    /// The newest index now.
    pub last_index: u64,
}

/// Figures of one MDT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Stats {
    pub mdt: String,
    pub up: bool,
    pub life: u32,
    pub last_index: u64,
    pub committed_index: u64,
    /// The oldest index that can still be read (if any was logged).
    pub first_index: u64,
    /// Lowest index that every user has cleared; absent without users.
    pub cleared: Option<u64>,
    pub mask: String,
    pub emitted: u64,
    pub masked: u64,
    pub opens: u64,
    pub reads: u64,
    pub records_read: u64,
    pub clears_ok: u64,
    pub clears_refused: u64,
    pub resident_bytes: u64,
    pub commit_interval_ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) emitted: u64,
    pub(crate) masked: u64,
    pub(crate) opens: u64,
    pub(crate) reads: u64,
    pub(crate) records_read: u64,
    clears_ok: u64,
    clears_refused: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) log: Log,
    /// The present state; `clean` and `mdt` are set when it is written.
    pub(crate) meta: Meta,
    committed: Meta,
    oracle: Oracle,
    pub(crate) up: bool,
    /// Rises when clients are evicted: descriptors opened before fail.
    pub(crate) evictions: u64,
    pub(crate) faults: Faults,
    pub(crate) seek_cost: Duration,
    commit_interval: Duration,
    committed_at: Instant,
    gc: GcLimits,
    gc_at: Instant,
    clear_id: u64,
    pub(crate) counters: Counters,
    stopped: bool,
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

impl State {
    fn dirty(&self) -> bool {
        self.meta != self.committed
    }

    fn commit(&mut self) -> io::Result<()> {
        self.committed_at = Instant::now();
        if !self.dirty() {
            return Ok(());
        }
        self.log.commit(&self.meta)?;
        let newer = self.meta.last_index != self.committed.last_index;
        self.committed = self.meta.clone();
        if newer {
            self.oracle.event(&Event::Committed {
                at_ns: wall_ns(),
                upto: self.committed.last_index,
            })?;
        }
        Ok(())
    }

    /// Gives up what every user has cleared.
    fn purge(&mut self, reason: &str) -> io::Result<()> {
        let upto = self
            .meta
            .users
            .cleared_by_all()
            .unwrap_or(self.meta.last_index);
        if upto <= self.meta.purged {
            return Ok(());
        }
        let from = self.meta.purged + 1;
        self.meta.purged = upto;
        self.oracle.event(&Event::Purged {
            at_ns: wall_ns(),
            life: self.meta.life,
            from,
            to: upto,
            reason: reason.to_owned(),
        })
    }

    /// Logs records, until `limit` of them have passed the mask.
    fn append(&mut self, records: &[u8], stamp: Stamp, limit: u64) -> io::Result<Logged> {
        let mut logged = Logged::default();
        let mut copy = [0u8; 1024];
        let mut rest = records;
        while !rest.is_empty() && logged.count < limit {
            let len = layout::record_len(rest)
                .filter(|len| *len <= copy.len())
                .ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "emit: no whole record at byte {} of {}",
                            records.len() - rest.len(),
                            records.len()
                        ),
                    )
                })?;
            let record = &mut copy[..len];
            record.copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            let Some(head) = layout::head(record) else {
                continue;
            };
            let wall = wall_ns();
            let (index, time) = match stamp {
                Stamp::Now if !mask::allows(self.meta.users.effective_mask(), head.kind) => {
                    logged.masked += 1;
                    continue;
                }
                Stamp::Now => (
                    self.meta.last_index + 1,
                    wall.max(self.meta.last_time_ns + 1),
                ),
                Stamp::Keep if head.index <= self.meta.last_index => {
                    self.oracle.flush()?;
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!(
                            "emit: index {} is not above the newest, {}",
                            head.index, self.meta.last_index
                        ),
                    ));
                }
                Stamp::Keep => (head.index, head.time_ns),
            };
            layout::stamp(record, index, time);
            self.oracle.emitted(&Emitted {
                life: self.meta.life,
                index,
                kind: head.kind,
                time_ns: time,
                tfid: head.tfid,
                wall_ns: wall,
            });
            self.log.push(record, index)?;
            self.meta.last_index = index;
            self.meta.last_time_ns = time;
            logged.count += 1;
        }
        // Still under the lock: the oracle has them before anybody can read them.
        self.oracle.flush()?;
        self.counters.emitted += logged.count;
        self.counters.masked += logged.masked;
        logged.last_index = self.meta.last_index;
        Ok(logged)
    }

    fn deregister(&mut self, id: u32, forced: bool) -> io::Result<Result<(), Errno>> {
        let gone = match self.meta.users.deregister(id) {
            Ok(gone) => gone,
            Err(errno) => return Ok(Err(errno)),
        };
        self.oracle.event(&Event::Deregistered {
            at_ns: wall_ns(),
            user: id,
            index: gone.index,
            forced,
        })?;
        self.purge(if forced {
            "user removed by force"
        } else {
            "user deregistered"
        })?;
        self.commit()?;
        Ok(Ok(()))
    }

    fn collect_idle(&mut self) -> io::Result<()> {
        let due = Duration::from_secs(self.gc.min_interval_s);
        if self.gc_at.elapsed() < due {
            return Ok(());
        }
        self.gc_at = Instant::now();
        for id in self
            .meta
            .users
            .idle_beyond(&self.gc, self.meta.last_index, wall_ns())
        {
            tracing::warn!(
                mdt = self.meta.mdt,
                user = id,
                "force deregister of idle changelog user"
            );
            // It was in the list a moment ago, under this same lock.
            let _ = self.deregister(id, true)?;
        }
        Ok(())
    }
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
        oracle.event(&Event::Started {
            at_ns: now,
            life: meta.life,
            last_index: meta.last_index,
        })?;
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
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
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
            let wait = if interval.is_zero() || !state.up {
                Duration::from_secs(3600)
            } else {
                interval - elapsed
            };
            state = self
                .changed
                .wait_timeout(state, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
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
            state.oracle.event(&Event::Stopped {
                at_ns: wall_ns(),
                last_index,
            })?;
        }
        Ok(())
    }

    /// Registers a user; committed at once, as an administrator's command is.
    ///
    /// # Errors
    /// Those of the disk outside; `EEXIST`, `EINVAL` inside.
    pub fn register(
        &self,
        name: Option<&str>,
        mask: Option<u32>,
    ) -> io::Result<Result<String, Errno>> {
        let mut guard = self.wait_up(self.lock());
        let state = &mut *guard;
        let (now, last) = (wall_ns(), state.meta.last_index);
        let user = match state.meta.users.register(name, mask, last, now) {
            Ok(id) => id,
            Err(errno) => return Ok(Err(errno)),
        };
        state.oracle.event(&Event::Registered {
            at_ns: now,
            user,
            name: name.map(str::to_owned),
            index: last,
        })?;
        state.commit()?;
        let label = state
            .meta
            .users
            .list()
            .iter()
            .find(|u| u.id == user)
            .map(crate::users::User::label);
        Ok(Ok(label.unwrap_or_default()))
    }

    /// Removes a user given as `cl2`, `cl2-NAME` or `NAME`; the last one takes all records along.
    ///
    /// # Errors
    /// Those of the disk outside; `ENOENT` inside.
    pub fn deregister(&self, user: &str, forced: bool) -> io::Result<Result<(), Errno>> {
        let mut state = self.wait_up(self.lock());
        match state.meta.users.find(user) {
            Some(id) => state.deregister(id, forced),
            None => Ok(Err(Errno(libc::ENOENT))),
        }
    }

    /// Executes a clear, waiting (by `pause`, which returns false to give up) while the MDT is down. `opened` is the
    /// count of evictions when the descriptor was opened.
    ///
    /// # Errors
    /// The kernel's error; `EIO` for one whose client was evicted.
    pub(crate) fn clear(
        &self,
        text: &[u8],
        opened: u64,
        pause: &mut dyn FnMut(Duration) -> bool,
    ) -> Result<usize, Errno> {
        let received_ns = wall_ns();
        let shown = String::from_utf8_lossy(text).into_owned();
        let mut state = self.lock();
        state.clear_id += 1;
        let id = state.clear_id;
        let failed = |e: io::Error| {
            tracing::error!(mdt = self.name, error = %e, "clear failed");
            Errno(libc::EIO)
        };
        state
            .oracle
            .event(&Event::ClearReceived {
                at_ns: received_ns,
                id,
                text: shown.clone(),
            })
            .map_err(failed)?;
        // The client has sent it: it is executed after the recovery even if the writer is gone by then.
        while !state.up && !state.stopped {
            drop(state);
            if !pause(Duration::from_millis(20)) {
                state = self.wait_up(self.lock());
                break;
            }
            state = self.lock();
        }
        let parsed = parse_clear(text);
        let (life, last, at_ns) = (state.meta.life, state.meta.last_index, wall_ns());
        let backwards = Errno(if self.generation == Generation::L2_16 {
            libc::ENOENT
        } else {
            libc::EINVAL
        });
        let result = if state.stopped || state.evictions != opened {
            Err(Errno(libc::EIO))
        } else if let Some(errno) = state.faults.take(FaultOn::Clear) {
            Err(Errno(errno))
        } else {
            parsed.and_then(|(user, index)| {
                state.meta.users.clear(user, index, last, at_ns, backwards)
            })
        };
        state
            .oracle
            .event(&Event::Clear {
                received_ns,
                at_ns,
                id,
                text: shown,
                user: parsed.ok().map(|p| p.0),
                index: parsed.ok().map(|p| p.1),
                before: result.ok().map(|r| r.0),
                after: result.ok().map(|r| r.1),
                errno: result.err().map_or(0, |e| e.0),
                life,
            })
            .map_err(failed)?;
        match result {
            Ok(_) => {
                state.counters.clears_ok += 1;
                state.purge("cleared by all users").map_err(failed)?;
                Ok(text.len())
            }
            Err(errno) => {
                state.counters.clears_refused += 1;
                Err(errno)
            }
        }
    }

    /// The text of `changelog_users`, in this server's form unless another is asked for.
    #[must_use]
    pub fn users_text(&self, form: Option<UsersForm>) -> String {
        let state = self.lock();
        let own = match self.generation {
            Generation::L2_0 | Generation::L2_4 | Generation::L2_7 => UsersForm::V2_10,
            Generation::L2_11 => UsersForm::V2_12,
            _ => UsersForm::V2_15,
        };
        state
            .meta
            .users
            .text(form.unwrap_or(own), state.meta.last_index, wall_ns())
    }

    /// The registered users.
    #[must_use]
    pub fn users(&self) -> Vec<crate::users::User> {
        self.lock().meta.users.list().to_vec()
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let s = self.lock();
        Stats {
            mdt: self.name.clone(),
            up: s.up,
            life: s.meta.life,
            last_index: s.meta.last_index,
            committed_index: s.committed.last_index,
            first_index: s.meta.purged + 1,
            cleared: s.meta.users.cleared_by_all(),
            mask: mask::names(s.meta.users.effective_mask(), " "),
            emitted: s.counters.emitted,
            masked: s.counters.masked,
            opens: s.counters.opens,
            reads: s.counters.reads,
            records_read: s.counters.records_read,
            clears_ok: s.counters.clears_ok,
            clears_refused: s.counters.clears_refused,
            resident_bytes: s.log.resident_bytes() as u64,
            commit_interval_ms: s.commit_interval.as_millis() as u64,
        }
    }

    /// Sets the administrator's mask; `keep` as with `lctl set_param -P`.
    pub fn set_mask(&self, mask: u32, keep: bool) {
        self.lock().meta.users.set_mask(mask, keep);
    }

    /// Sets when idle users are removed by force; the next record or commit looks.
    pub fn set_gc(&self, limits: GcLimits) {
        self.lock().gc = limits;
    }

    /// Makes all users look idle for longer.
    pub fn age_users(&self, by: Duration) {
        self.lock().meta.users.age(by.as_nanos() as u64);
    }

    /// Sets what skipping one uncleared record costs an open that seeks.
    pub fn set_seek_cost(&self, per_record: Duration) {
        self.lock().seek_cost = per_record;
    }

    /// Makes the next calls fail: `times`, or until [`Mdt::reset_faults`].
    ///
    /// # Errors
    /// Those of the disk (the oracle notes it).
    pub fn fail(&self, on: FaultOn, errno: i32, times: Option<u64>) -> io::Result<()> {
        let mut state = self.lock();
        state.faults.add(Fault { on, errno, times });
        state.oracle.event(&Event::Fault {
            at_ns: wall_ns(),
            what: format!("{on:?} fails with {errno}, times: {times:?}"),
        })
    }

    /// Slows reads down: time added to each, and at most so many records in each (0: no limit).
    pub fn slow_reads(&self, delay: Duration, records: u32) {
        let mut state = self.lock();
        state.faults.read_delay = delay;
        state.faults.read_records = records;
    }

    /// Spoils the record of this index on its way to every reader.
    ///
    /// # Errors
    /// Those of the disk (the oracle notes it).
    pub fn spoil(&self, index: u64, how: Malformed) -> io::Result<()> {
        let mut state = self.lock();
        state.faults.malformed.insert(index, how);
        state.oracle.event(&Event::Fault {
            at_ns: wall_ns(),
            what: format!("record {index} is served malformed: {how:?}"),
        })
    }

    /// Takes all faults away.
    pub fn reset_faults(&self) {
        self.lock().faults = Faults::default();
    }

    /// A gap: everything up to `upto` is gone without anybody's clear, whoever still needed it.
    ///
    /// # Errors
    /// Those of the disk; `InvalidInput` beyond the newest index.
    pub fn purge(&self, upto: u64) -> io::Result<()> {
        let mut state = self.wait_up(self.lock());
        if upto > state.meta.last_index {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "purge to {upto}: the newest index of {} is {}",
                    self.name, state.meta.last_index
                ),
            ));
        }
        state.meta.users.push_forward(upto);
        state.purge("lost by the server")?;
        state.commit()
    }

    /// The log is made anew, as after a reformat: indexes start from 1. Users stay (at index 0) or are gone.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn reset(&self, keep_users: bool) -> io::Result<()> {
        let mut guard = self.wait_up(self.lock());
        let state = &mut *guard;
        let (at_ns, last_index) = (wall_ns(), state.meta.last_index);
        state.meta.life += 1;
        let life = state.meta.life;
        if last_index > state.meta.purged {
            let from = state.meta.purged + 1;
            state.oracle.event(&Event::Purged {
                at_ns,
                life,
                from,
                to: last_index,
                reason: "changelog reset".to_owned(),
            })?;
        }
        state.oracle.event(&Event::Reset {
            at_ns,
            life,
            last_index,
        })?;
        state.meta.last_index = 0;
        state.meta.purged = 0;
        if keep_users {
            state.meta.users.restart_indexes();
        } else {
            state.meta.users = Users::default();
        }
        let meta = state.meta.clone();
        state.log.reset(&meta)?;
        state.committed = meta;
        Ok(())
    }
}
