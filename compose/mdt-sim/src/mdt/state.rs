//! What an MDT's lock guards, and the steps that keep log, users, journal and oracle together.
//! Every step leaves the oracle ahead of what readers can see.

use std::io;
use std::time::{Duration, Instant};

use super::faults::Faults;
use super::log::Log;
use super::{Logged, Stamp, wall_ns};
use crate::journal::Meta;
use crate::layout;
use crate::mask;
use crate::oracle::{Emitted, Event, Oracle};
use crate::users::{Errno, GcLimits};

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) emitted: u64,
    pub(crate) masked: u64,
    pub(crate) opens: u64,
    pub(crate) reads: u64,
    pub(crate) records_read: u64,
    pub(super) clears_ok: u64,
    pub(super) clears_refused: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) log: Log,
    /// The present state; `clean` and `mdt` are set when it is written.
    pub(crate) meta: Meta,
    pub(super) committed: Meta,
    pub(super) oracle: Oracle,
    pub(crate) up: bool,
    /// Rises when clients are evicted: descriptors opened before fail.
    pub(crate) evictions: u64,
    pub(crate) faults: Faults,
    pub(crate) seek_cost: Duration,
    pub(super) commit_interval: Duration,
    pub(super) committed_at: Instant,
    pub(super) gc: GcLimits,
    pub(super) gc_at: Instant,
    pub(super) clear_id: u64,
    pub(crate) counters: Counters,
    pub(super) stopped: bool,
}

impl State {
    fn dirty(&self) -> bool {
        self.meta != self.committed
    }

    pub(super) fn commit(&mut self) -> io::Result<()> {
        self.committed_at = Instant::now();
        if !self.dirty() {
            return Ok(());
        }
        self.log.commit(&self.meta)?;
        let newer = self.meta.last_index != self.committed.last_index;
        self.committed = self.meta.clone();
        if newer {
            self.oracle.event(&Event::Committed { at_ns: wall_ns(), upto: self.committed.last_index })?;
        }
        Ok(())
    }

    /// Gives up what every user has cleared.
    pub(super) fn purge(&mut self, reason: &str) -> io::Result<()> {
        let upto = self.meta.users.cleared_by_all().unwrap_or(self.meta.last_index);
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
    pub(super) fn append(&mut self, records: &[u8], stamp: Stamp, limit: u64) -> io::Result<Logged> {
        let mut logged = Logged::default();
        let mut copy = [0u8; 1024];
        let mut rest = records;
        while !rest.is_empty() && logged.count < limit {
            let len = layout::record_len(rest).filter(|len| *len <= copy.len()).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("emit: no whole record at byte {} of {}", records.len() - rest.len(), records.len()),
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
                Stamp::Now => (self.meta.last_index + 1, wall.max(self.meta.last_time_ns + 1)),
                Stamp::Keep if head.index <= self.meta.last_index => {
                    self.oracle.flush()?;
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("emit: index {} is not above the newest, {}", head.index, self.meta.last_index),
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

    pub(super) fn deregister(&mut self, id: u32, forced: bool) -> io::Result<Result<(), Errno>> {
        let gone = match self.meta.users.deregister(id) {
            Ok(gone) => gone,
            Err(errno) => return Ok(Err(errno)),
        };
        self.oracle.event(&Event::Deregistered { at_ns: wall_ns(), user: id, index: gone.index, forced })?;
        self.purge(if forced { "user removed by force" } else { "user deregistered" })?;
        self.commit()?;
        Ok(Ok(()))
    }

    pub(super) fn collect_idle(&mut self) -> io::Result<()> {
        let due = Duration::from_secs(self.gc.min_interval_s);
        if self.gc_at.elapsed() < due {
            return Ok(());
        }
        self.gc_at = Instant::now();
        for id in self.meta.users.idle_beyond(&self.gc, self.meta.last_index, wall_ns()) {
            tracing::warn!(mdt = self.meta.mdt, user = id, "force deregister of idle changelog user");
            // It was in the list a moment ago, under this same lock.
            let _ = self.deregister(id, true)?;
        }
        Ok(())
    }
}
