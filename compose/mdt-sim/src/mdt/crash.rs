//! Going away and coming back: an orderly restart, and the crash that takes back what was not committed and gives its
//! indexes to other records. Nothing here invents a record: replayed ones are the lost ones, fresh ones are handed in.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Mdt, Stamp, State, wall_ns};
use crate::generation;
use crate::oracle::{ClearTakenBack, Event};

/// How long the new log is, compared with what was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Fewer records than were lost: the newest index falls.
    Shorter,
    /// As many as were lost: the newest index is the same again.
    #[default]
    Equal,
    /// More than were lost.
    Longer,
}

/// A crash to play.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Crash {
    /// How long the MDT is away, seconds.
    pub down_s: f64,
    /// Whether the clients are evicted (`EIO` on their descriptors) or see nothing.
    pub evict: bool,
    /// The share of the lost records that clients replay, 0 to 1, the earliest first.
    pub replay: f64,
    /// How many fresh records follow the replayed ones.
    pub length: Length,
}

impl Default for Crash {
    fn default() -> Self {
        Self { down_s: 0.0, evict: false, replay: 0.5, length: Length::Equal }
    }
}

/// What a crash did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashReport {
    /// The newest index that survived.
    pub committed_index: u64,
    /// How many records were taken back.
    pub lost: u64,
    /// How many of them came back with another time.
    pub replayed: u64,
    /// How many others followed.
    pub fresh: u64,
    /// The newest index after the recovery.
    pub last_index: u64,
    /// The clears that were taken back.
    pub clears: Vec<ClearTakenBack>,
}

impl State {
    /// Back to the commit point. Returns the lost records and the clears taken back.
    fn fall_back(&mut self) -> io::Result<(Vec<Vec<u8>>, u64, Vec<ClearTakenBack>)> {
        let old = self.meta.clone();
        let lost = self.log.rollback(self.committed.last_index)?;
        let count = old.last_index - self.committed.last_index;
        self.meta = self.committed.clone();
        self.meta.life = old.life + 1;
        // The clock goes on: a time is never used twice, also where an index is.
        self.meta.last_time_ns = old.last_time_ns;
        self.meta.users.restart_masks();
        let mut clears = Vec::new();
        for user in self.meta.users.list() {
            if let Some(before) = old.users.list().iter().find(|u| u.id == user.id)
                && before.index > user.index
            {
                clears.push(ClearTakenBack { user: user.id, from: before.index, to: user.index });
            }
        }
        if count > 0 || !clears.is_empty() {
            self.oracle.event(&Event::TakenBack {
                at_ns: wall_ns(),
                life: self.meta.life,
                from: self.meta.last_index + 1,
                to: old.last_index,
                reason: "crash".to_owned(),
                clears: clears.clone(),
            })?;
        }
        // The new life is on disk before anything of it can be read.
        self.log.commit(&self.meta)?;
        self.committed = self.meta.clone();
        Ok((lost, count, clears))
    }

    fn go_down(&mut self, crash: bool, evict: bool) -> io::Result<()> {
        if !self.up {
            return Err(io::Error::other(format!("{} is already down", self.meta.mdt)));
        }
        self.up = false;
        self.oracle.event(&Event::Down { at_ns: wall_ns(), crash, evict })
    }
}

impl Mdt {
    /// The MDT goes away for a while in good order: everything is committed; reads and clears wait. Returns when it is
    /// back.
    ///
    /// # Errors
    /// Those of the disk; an MDT that is already down.
    pub fn restart(&self, down: Duration, evict: bool) -> io::Result<()> {
        {
            let mut state = self.lock();
            state.go_down(false, evict)?;
            state.commit()?;
        }
        std::thread::sleep(down);
        let mut state = self.lock();
        state.meta.users.restart_masks();
        state.evictions += u64::from(evict);
        self.come_back(&mut state, 0, 0)
    }

    fn come_back(&self, state: &mut State, replayed: u64, fresh: u64) -> io::Result<()> {
        state.up = true;
        let life = state.meta.life;
        self.changed.notify_all();
        state.oracle.event(&Event::Up { at_ns: wall_ns(), life, replayed, fresh })
    }

    /// The MDT crashes. `fresh` gives new records back to back, enough that so many pass the mask. Returns when the MDT is
    /// back.
    ///
    /// # Errors
    /// Those of the disk; an MDT that is already down.
    pub fn crash(&self, how: &Crash, fresh: impl FnOnce(u64) -> Vec<u8>) -> io::Result<CrashReport> {
        let (lost, count, clears, committed_index) = {
            let mut state = self.lock();
            state.go_down(true, how.evict)?;
            let (lost, count, clears) = state.fall_back()?;
            (lost, count, clears, state.meta.last_index)
        };
        let down = Duration::try_from_secs_f64(how.down_s).unwrap_or_default();
        std::thread::sleep(down);

        let mut replay = (lost.len() as f64 * how.replay.clamp(0.0, 1.0)).round() as usize;
        let wanted_fresh = match how.length {
            Length::Shorter => {
                replay = replay.min(lost.len().saturating_sub(1));
                0
            }
            Length::Equal => count.saturating_sub(replay as u64),
            Length::Longer => count.saturating_sub(replay as u64) + (count / 2).max(1),
        };
        let new = fresh(wanted_fresh);
        let new = generation::downgrade(&new, self.generation)?.unwrap_or(new);
        let mut state = self.lock();
        let replayed = state.append(&lost[..replay].concat(), Stamp::Now, u64::MAX)?;
        let fresh_logged = state.append(&new, Stamp::Now, wanted_fresh)?;
        state.evictions += u64::from(how.evict);
        self.come_back(&mut state, replayed.count, fresh_logged.count)?;
        Ok(CrashReport {
            committed_index,
            lost: count,
            replayed: replayed.count,
            fresh: fresh_logged.count,
            last_index: state.meta.last_index,
            clears,
        })
    }
}
