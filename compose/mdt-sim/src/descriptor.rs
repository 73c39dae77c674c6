//! An open changelog device: position, prefetch, end, follow, as the kernel's `mdc_changelog.c` has them.
//! It must never deliver part of a record, nor notice what the kernel's would not: what is prefetched is delivered,
//! whatever has become of the log since.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::generation::Generation;
use crate::layout;
use crate::mdt::{FaultOn, Mdt, State, spoil};
use crate::protocol::flags;
use crate::users::Errno;

/// The kernel's prefetch, in records (`CDEV_CHLG_MAX_PREFETCH`).
pub const PREFETCH: u32 = 1024;
/// A seek skips through at most one log file, about this many records.
const MAX_SKIPPED: u64 = 64_000;
/// How often a following reader looks for new records.
const LOOK: Duration = Duration::from_secs(1);
/// How often a blocked call looks whether the MDT is back.
const BLOCKED: Duration = Duration::from_millis(20);

/// Lets a blocked call wait for so long; false: the caller is gone, give up.
pub type Pause<'a> = dyn FnMut(Duration) -> bool + 'a;

/// An open descriptor.
#[derive(Debug)]
pub struct Descriptor {
    mdt: Arc<Mdt>,
    /// Evictions of clients of this MDT when it was opened.
    evictions: u64,
    readable: bool,
    writable: bool,
    follow: bool,
    nid_be: bool,
    prefetch: usize,
    /// The index behind the last one delivered: where a seek must not go back of.
    position: u64,
    /// The next index to prefetch.
    next: u64,
    queue: Vec<u8>,
    queue_at: usize,
    queued: VecDeque<(u64, u32)>,
    started: bool,
    end: bool,
    error: Option<Errno>,
    /// When a following reader last saw the end.
    looked: Option<Instant>,
}

impl Descriptor {
    /// Opens the MDT's device. `prefetch` is how many records it reads ahead, 1 to [`PREFETCH`]; 0 is the kernel's own.
    ///
    /// # Errors
    /// An injected one.
    pub fn open(mdt: Arc<Mdt>, open_flags: u32, prefetch: u32) -> Result<Self, Errno> {
        let evictions = {
            let mut state = mdt.lock();
            state.counters.opens += 1;
            if let Some(errno) = state.faults.take(FaultOn::Open) {
                return Err(Errno(errno));
            }
            state.evictions
        };
        let prefetch = if prefetch == 0 { PREFETCH } else { prefetch.min(PREFETCH) };
        let mut descriptor = Self {
            mdt,
            evictions,
            readable: open_flags & flags::READ != 0,
            writable: open_flags & flags::WRITE != 0,
            follow: false,
            nid_be: false,
            prefetch: prefetch as usize,
            position: 0,
            next: 0,
            queue: Vec::new(),
            queue_at: 0,
            queued: VecDeque::new(),
            started: false,
            end: false,
            error: None,
            looked: None,
        };
        descriptor.set_flags(open_flags & flags::IOCTL);
        Ok(descriptor)
    }

    /// The ioctl. Servers before 2.16 go with clients that take the argument as a boolean: anything but 0 follows.
    pub fn set_flags(&mut self, value: u32) {
        if self.mdt.generation() == Generation::L2_16 {
            self.follow = value & flags::FOLLOW != 0;
            self.nid_be = value & flags::NID_BE != 0;
        } else {
            self.follow = value != 0;
        }
    }

    /// The index behind the last one delivered (`lseek(fd, 0, SEEK_CUR)`).
    #[must_use]
    pub fn tell(&self) -> u64 {
        self.position
    }

    /// Goes forward to an index.
    ///
    /// # Errors
    /// `EINVAL` backwards.
    pub fn seek(&mut self, index: u64) -> Result<u64, Errno> {
        if index < self.position || index > i64::MAX as u64 {
            return Err(Errno(libc::EINVAL));
        }
        self.position = index;
        while let Some(&(first, len)) = self.queued.front() {
            if first >= index {
                break;
            }
            self.queued.pop_front();
            self.queue_at += len as usize;
        }
        self.next = self.next.max(index);
        Ok(index)
    }

    /// Waits until there is something to deliver or the end is known.
    ///
    /// # Errors
    /// Injected ones (sticky but for `EAGAIN`), `EIO` after an eviction (sticky), `EBADF` if not open for reading,
    /// `EINTR` when `pause` gives up.
    pub fn wait_ready(&mut self, pause: &mut Pause<'_>) -> Result<(), Errno> {
        if !self.readable {
            return Err(Errno(libc::EBADF));
        }
        if let Some(errno) = self.error {
            return Err(errno);
        }
        let mdt = Arc::clone(&self.mdt);
        let (fault, delay) = {
            let mut state = mdt.lock();
            state.counters.reads += 1;
            (state.faults.take(FaultOn::Read), state.faults.read_delay)
        };
        if let Some(errno) = fault {
            return Err(self.fail(errno));
        }
        if !delay.is_zero() && !pause(delay) {
            return Err(Errno(libc::EINTR));
        }
        while self.queued.is_empty() && !self.end {
            let wait = self.advance(&mdt)?;
            if !wait.is_zero() && !pause(wait) {
                return Err(Errno(libc::EINTR));
            }
        }
        Ok(())
    }

    /// One step of the prefetch; returns how long to wait before the next.
    fn advance(&mut self, mdt: &Mdt) -> Result<Duration, Errno> {
        let mut state = mdt.lock();
        if state.evictions != self.evictions {
            drop(state);
            return Err(self.fail(libc::EIO));
        }
        if !state.up {
            return Ok(BLOCKED);
        }
        if let Some(since) = self.looked {
            let left = LOOK.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Ok(left);
            }
        }
        if !self.started {
            self.started = true;
            let oldest = state.meta.purged + 1;
            if !state.seek_cost.is_zero() && self.next > oldest {
                let skipped = state.log.count(oldest, self.next).min(MAX_SKIPPED);
                let cost = state.seek_cost * skipped as u32;
                if !cost.is_zero() {
                    return Ok(cost);
                }
            }
        }
        self.fill(&mut state).map_err(|_| self.fail(libc::EIO))?;
        Ok(Duration::ZERO)
    }

    fn fail(&mut self, errno: i32) -> Errno {
        let errno = Errno(errno);
        if errno.0 != libc::EAGAIN && errno.0 != libc::EINTR {
            self.error = Some(errno);
        }
        errno
    }

    fn fill(&mut self, state: &mut State) -> std::io::Result<()> {
        if self.queued.is_empty() {
            self.queue.clear();
            self.queue_at = 0;
        }
        let from = self.next.max(state.meta.purged + 1);
        let State { log, faults, .. } = state;
        let reached_end = log.read(from, |index, record| {
            if self.queued.len() >= self.prefetch {
                return false;
            }
            let start = self.queue.len();
            match faults.malformed.get(&index) {
                Some(how) => spoil(record, *how, &mut self.queue),
                None => {
                    self.queue.extend_from_slice(record);
                    layout::set_nid_form(&mut self.queue[start..], self.nid_be);
                }
            }
            self.queued.push_back((index, (self.queue.len() - start) as u32));
            self.next = index + 1;
            true
        })?;
        if reached_end {
            if self.follow {
                self.looked = Some(Instant::now());
            } else {
                self.end = true;
            }
        } else {
            self.looked = None;
        }
        Ok(())
    }

    /// Appends whole records to `out`: at most `max_bytes`, at most `max_records` (0: no limit). Nothing is appended at
    /// the end, nor if the next record is longer than `max_bytes`. Then prefetches again. Never blocks; call
    /// [`Descriptor::wait_ready`] first. Returns true if the end follows at once.
    pub fn take(&mut self, out: &mut Vec<u8>, max_bytes: usize, max_records: u32) -> bool {
        let mdt = Arc::clone(&self.mdt);
        let mut state = mdt.lock();
        let mut limit = if max_records == 0 { u32::MAX } else { max_records };
        if state.faults.read_records != 0 {
            limit = limit.min(state.faults.read_records);
        }
        let start = self.queue_at;
        let mut taken = 0;
        while let Some(&(index, len)) = self.queued.front() {
            let end = self.queue_at + len as usize;
            if taken == limit || end - start > max_bytes {
                break;
            }
            self.queued.pop_front();
            self.queue_at = end;
            self.position = index + 1;
            taken += 1;
        }
        out.extend_from_slice(&self.queue[start..self.queue_at]);
        state.counters.records_read += u64::from(taken);
        let asleep = self.looked.is_some_and(|since| since.elapsed() < LOOK);
        let may = !self.end && !asleep && state.up && state.evictions == self.evictions;
        if may && taken > 0 {
            if self.queue_at > self.queue.len() / 2 {
                self.queue.drain(..self.queue_at);
                self.queue_at = 0;
            }
            // A disk error shows at the read that needs what is missing.
            let _ = self.fill(&mut state);
        }
        self.end && self.queued.is_empty()
    }

    /// Writes a clear. Returns the bytes taken.
    ///
    /// # Errors
    /// The kernel's (LUSTRE: a clear's errors), `EBADF` if not open for writing.
    pub fn clear(&self, text: &[u8], pause: &mut Pause<'_>) -> Result<usize, Errno> {
        if !self.writable {
            return Err(Errno(libc::EBADF));
        }
        self.mdt.clear(text, self.evictions, pause)
    }
}
