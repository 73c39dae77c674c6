//! Reads an MDT's records in order over any device, and hides that a stream has an end.
//!
//! One code for the real device and the simulated MDT. At every new descriptor it begins *at* the last record that it
//! gave out, not behind it: where that record stands unchanged, all before it stand too, and nothing has to be asked
//! elsewhere. Where it does not, the reader says so and goes on; what that means is the core's to judge.

use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use clbridge_schemas::ids::{Digest, MdtName};
use clbridge_schemas::lustre::{RecordType, clfe, records};

use super::clock::Clock;
use super::device::{Answer, Descriptor, Device, LEAST_ROOM, Mode};
use super::pace::{Pace, PaceSettings};
use super::{Read, Source, SourceError};

/// A caller that stayed away this long gets a new descriptor: what the old one prefetched may no longer be true.
const STALE: Duration = Duration::from_secs(2);
/// Small answers are gathered into one for this long at most: the kernel gives what it has just fetched, often few.
const GATHER: Duration = Duration::from_millis(2);
/// A descriptor that should end but is silent this long follows: more than the second between the kernel's looks.
const FOLLOWS_UNASKED: Duration = Duration::from_millis(1200);
/// This many descriptors in a row may fail without an answer.
const FAILURES: u32 = 6;
/// The pause after the first failure; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// A [`Source`] over any device.
#[derive(Debug)]
pub struct DeviceSource<D: Device, C: Clock> {
    mdt: MdtName,
    device: D,
    clock: C,
    pace: Pace,
    open: Option<Open<D::Descriptor>>,
    /// Where a first descriptor begins; behind that, `last` decides.
    start: Option<NonZeroU64>,
    last: Option<(NonZeroU64, Digest)>,
    /// The next descriptor is to follow.
    follow: bool,
    kernel: Kernel,
    /// Opened again, and `last` was not found as it was.
    doubt: bool,
    /// When records came last, or were last seen to stand.
    heard: Duration,
    /// When the caller was last here.
    left: Duration,
    failures: u32,
}

#[derive(Debug)]
struct Open<T> {
    descriptor: T,
    mode: Mode,
    at: Duration,
    answered: bool,
    /// The highest index that this descriptor gave.
    seen: Option<u64>,
}

/// What was learnt about the client's kernel: an old one takes the flags for a boolean, and follows when it is asked
/// for big-endian NIDs.
#[derive(Clone, Copy, Default, Debug)]
struct Kernel {
    /// A stream with big-endian NIDs has ended, so they do not mean following.
    ends: bool,
    /// The newest record was not in the big-endian form although that was asked for.
    little_endian: bool,
    /// Asking is of no use, and makes it follow.
    boolean: bool,
}

impl<D: Device, C: Clock> DeviceSource<D, C> {
    /// Reads from the oldest record, until told otherwise by [`Source::seek`]. Opens nothing yet.
    pub fn new(mdt: MdtName, device: D, clock: C, settings: PaceSettings) -> Self {
        let now = clock.now();
        Self {
            mdt,
            device,
            pace: Pace::new(settings, now),
            clock,
            open: None,
            start: None,
            last: None,
            follow: false,
            kernel: Kernel::default(),
            doubt: true,
            heard: now,
            left: now,
            failures: 0,
        }
    }

    /// Opens the first descriptor now, so that a device that cannot be read is an error at once.
    ///
    /// # Errors
    /// What the device says.
    pub fn begin(mut self) -> Result<Self, SourceError> {
        self.reopen()?;
        Ok(self)
    }

    fn reopen(&mut self) -> Result<(), SourceError> {
        let mode = match (self.follow, self.kernel.boolean) {
            (true, _) => Mode::Follow,
            (false, false) => Mode::Once,
            (false, true) => Mode::Plain,
        };
        self.follow = false;
        let at = self.clock.now();
        if mode == Mode::Follow {
            self.pace.opened_to_follow(at);
        } else {
            self.pace.opened(at);
        }
        let from = self.last.map(|(index, _)| index).or(self.start);
        match self.device.open(from, mode) {
            Ok(descriptor) => {
                self.open = Some(Open { descriptor, mode, at, answered: false, seen: None });
                Ok(())
            }
            Err(error) => self.failed("opening", error),
        }
    }

    /// Tries again by a new descriptor where that can help, a few times.
    fn failed(&mut self, what: &str, error: io::Error) -> Result<(), SourceError> {
        self.open = None;
        if is_curable(&error) && self.failures < FAILURES {
            self.pace.hold(self.clock.now() + FIRST_PAUSE * 2_u32.pow(self.failures));
            self.failures += 1;
            return Ok(());
        }
        Err(SourceError::Io { mdt: self.mdt.clone(), what: format!("{what} {}", self.device.place()), source: error })
    }

    /// The open descriptor has answered.
    fn answered(&mut self, now: Duration) {
        self.failures = 0;
        if let Some(open) = &mut self.open
            && !open.answered
        {
            open.answered = true;
            if open.mode != Mode::Follow {
                self.pace.answered(now);
            }
        }
    }

    /// The open descriptor has no more to give.
    fn ended(&mut self) {
        if let Some(open) = self.open.take() {
            self.kernel.ends |= open.mode == Mode::Once;
            // Not even the last record given out was there. It may have been cleared; or taken back.
            self.doubt |= open.seen.is_none() && self.last.is_some();
        }
        self.follow = self.pace.follows();
    }

    /// The open descriptor has nothing yet.
    fn silent(&mut self, now: Duration) {
        let Some(open) = &self.open else { return };
        let drop = match open.mode {
            Mode::Follow => now >= self.pace.measure_due(),
            Mode::Plain => false,
            Mode::Once => {
                let silence = now.saturating_sub(self.heard.max(open.at));
                let follows = !self.kernel.ends && self.kernel.little_endian && silence >= FOLLOWS_UNASKED;
                self.kernel.boolean |= follows;
                follows
            }
        };
        if drop {
            self.open = None;
        }
    }

    /// Takes in what was appended behind `from`: checks the order, and removes the record that was given out before.
    fn take(&mut self, buf: &mut Vec<u8>, from: usize, now: Duration) -> Result<(), SourceError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let asked_big_endian = open.mode != Mode::Plain;
        let mut again = 0;
        let mut newest = None;
        let mut each = records(&buf[from..], 0);
        for view in each.by_ref() {
            let view = view.map_err(|source| SourceError::Malformed { mdt: self.mdt.clone(), source })?;
            let index = view.index();
            let floor = match open.seen {
                Some(seen) => Some(seen),
                None => {
                    let (begin, last) = (self.last.map(|(index, _)| index).or(self.start), self.last);
                    if last.is_some_and(|(last, _)| last.get() == index) {
                        again = view.bytes().len();
                        open.seen = Some(index);
                        let stands = last.is_some_and(|(_, digest)| digest == view.digest());
                        self.doubt |= !stands;
                        if stands {
                            self.heard = now;
                        }
                        continue;
                    }
                    // Opened again, and the last record given out is no longer there.
                    self.doubt |= last.is_some();
                    begin.map(|begin| begin.get() - 1)
                }
            };
            if index == 0 || floor.is_some_and(|floor| index <= floor) {
                let last = floor.unwrap_or_default();
                return Err(SourceError::OutOfOrder { mdt: self.mdt.clone(), last, got: index });
            }
            open.seen = Some(index);
            newest = Some(view);
        }
        each.finish().map_err(|source| SourceError::Malformed { mdt: self.mdt.clone(), source })?;
        if let Some(view) = newest {
            self.last = NonZeroU64::new(view.index()).map(|index| (index, view.digest()));
            // Records that the server made itself may lack what every other has.
            if asked_big_endian && view.rtype() != RecordType::MARK {
                let flags = view.extra_flags().unwrap_or_default();
                self.kernel.little_endian = flags & clfe::NID_BE == 0;
            }
        }
        if again > 0 {
            buf.drain(from..from + again);
        }
        Ok(())
    }

    /// More of what is there already, so that one read of the caller's holds many of the kernel's.
    fn gather(&mut self, buf: &mut Vec<u8>, from: usize, room: usize, since: Duration) -> io::Result<Answer> {
        let Some(open) = &mut self.open else { return Ok(Answer::Nothing) };
        loop {
            let left = room.saturating_sub(buf.len() - from);
            if left < LEAST_ROOM || self.clock.now().saturating_sub(since) >= GATHER {
                return Ok(Answer::Records);
            }
            match open.descriptor.read(buf, left, Duration::ZERO)? {
                Answer::Records => {}
                other => return Ok(other),
            }
        }
    }
}

impl<D: Device, C: Clock> Source for DeviceSource<D, C> {
    fn read(&mut self, buf: &mut Vec<u8>, limit: usize, wait: Duration) -> Result<Read, SourceError> {
        let (from, room) = (buf.len(), limit.max(LEAST_ROOM));
        let entered = self.clock.now();
        let deadline = entered + wait;
        if entered.saturating_sub(self.left) >= STALE && self.pace.due() <= entered {
            self.open = None;
        }
        if self.open.as_ref().is_some_and(|open| !open.answered && open.at >= self.left) {
            // Opened by `begin`: what the caller did until now is no cost of the opening.
            self.pace.opened(entered);
        }
        let mut now = entered;
        while buf.len() == from {
            let Some(open) = &mut self.open else {
                let due = if self.follow { now } else { self.pace.due() };
                if due > now {
                    self.clock.sleep(due.min(deadline).saturating_sub(now));
                    if due > deadline {
                        break;
                    }
                }
                self.reopen()?;
                now = self.clock.now();
                if self.open.is_none() && now >= deadline {
                    break;
                }
                continue;
            };
            let answer = open.descriptor.read(buf, room, deadline.saturating_sub(now));
            now = self.clock.now();
            match answer {
                Ok(Answer::Records) => {
                    self.answered(now);
                    // An error sticks to the descriptor, so the next call meets it again.
                    let ended = matches!(self.gather(buf, from, room, now), Ok(Answer::End));
                    self.take(buf, from, now)?;
                    if ended {
                        self.ended();
                    }
                }
                Ok(Answer::End) => {
                    self.answered(now);
                    self.ended();
                }
                Ok(Answer::Nothing) => {
                    self.silent(now);
                    if now >= deadline {
                        break;
                    }
                    // Back before its time: something passing, which must not become a busy loop.
                    self.clock.sleep(self.pace.quickest().min(deadline - now));
                    now = self.clock.now();
                }
                Err(error) => self.failed("reading", error)?,
            }
        }
        now = self.clock.now();
        self.left = now;
        let read = Read { bytes: buf.len() - from, paused: now.saturating_sub(self.heard), reopened: self.doubt };
        if read.bytes > 0 {
            self.pace.record(now);
            (self.heard, self.doubt) = (now, false);
        }
        Ok(read)
    }

    fn seek(&mut self, index: NonZeroU64) -> Result<(), SourceError> {
        self.open = None;
        (self.start, self.last, self.doubt) = (Some(index), None, true);
        Ok(())
    }
}

/// Can a new descriptor help? An evicted client's `EIO` sticks to its descriptors; a lost connection likewise.
fn is_curable(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    let lost = [
        Kind::BrokenPipe,
        Kind::ConnectionAborted,
        Kind::ConnectionRefused,
        Kind::ConnectionReset,
        Kind::Interrupted,
        Kind::UnexpectedEof,
        Kind::WouldBlock,
    ];
    error.raw_os_error() == Some(libc::EIO) || lost.contains(&error.kind())
}
