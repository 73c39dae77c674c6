//! What an administrator does on the server, and what goes wrong there on command.
//! Users are registered and removed durably at once, as `lctl` returns only when it is done.

use std::io;
use std::time::Duration;

use super::faults::{Fault, FaultOn, Faults, Malformed};
use super::{Mdt, Stats, wall_ns};
use crate::generation::Generation;
use crate::mask;
use crate::oracle::Event;
use crate::users::{Errno, GcLimits, Users, UsersForm};

impl Mdt {
    /// Registers a user; committed at once, as an administrator's command is.
    ///
    /// # Errors
    /// Those of the disk outside; `EEXIST`, `EINVAL` inside.
    pub fn register(&self, name: Option<&str>, mask: Option<u32>) -> io::Result<Result<String, Errno>> {
        let mut guard = self.wait_up(self.lock());
        let state = &mut *guard;
        let (now, last) = (wall_ns(), state.meta.last_index);
        let user = match state.meta.users.register(name, mask, last, now) {
            Ok(id) => id,
            Err(errno) => return Ok(Err(errno)),
        };
        state.oracle.event(&Event::Registered { at_ns: now, user, name: name.map(str::to_owned), index: last })?;
        state.commit()?;
        let label = state.meta.users.list().iter().find(|u| u.id == user).map(crate::users::User::label);
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

    /// The text of `changelog_users`, in this server's form unless another is asked for.
    #[must_use]
    pub fn users_text(&self, form: Option<UsersForm>) -> String {
        let state = self.lock();
        let own = match self.generation {
            Generation::L2_0 | Generation::L2_4 | Generation::L2_7 => UsersForm::V2_10,
            Generation::L2_11 => UsersForm::V2_12,
            _ => UsersForm::V2_15,
        };
        state.meta.users.text(form.unwrap_or(own), state.meta.last_index, wall_ns())
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
        state
            .oracle
            .event(&Event::Fault { at_ns: wall_ns(), what: format!("{on:?} fails with {errno}, times: {times:?}") })
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
        state
            .oracle
            .event(&Event::Fault { at_ns: wall_ns(), what: format!("record {index} is served malformed: {how:?}") })
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
                format!("purge to {upto}: the newest index of {} is {}", self.name, state.meta.last_index),
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
        state.oracle.event(&Event::Reset { at_ns, life, last_index })?;
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
