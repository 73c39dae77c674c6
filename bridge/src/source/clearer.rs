//! Looks at single records, and clears: over any device, always on descriptors opened for the one call.
//!
//! It decides nothing. What a difference means, and what may be cleared, is the core's business.

use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use clbridge_schemas::ids::{Digest, MdtName};
use clbridge_schemas::lustre::{View, records};

use super::clock::Clock;
use super::device::{Answer, Descriptor, Device, Mode, UserId};
use super::{ClearError, Clearer, Probe, SourceError};
use crate::core::Clearable;

/// Room for one read of a scan, in bytes.
const SCAN_ROOM: usize = 1 << 20;
/// Room for one read of a probe, in bytes: the kernel gives few records at first anyway.
const PROBE_ROOM: usize = 4096;
/// One wait for the device; only bounds how late `patience` is noticed.
const WAIT: Duration = Duration::from_secs(1);
/// How long an MDT may be away until a look at it is given up: a restart takes a minute, a failover some more.
const PATIENCE: Duration = Duration::from_secs(300);

/// A [`Clearer`] over any device.
#[derive(Debug)]
pub struct DeviceClearer<D, C> {
    mdt: MdtName,
    device: D,
    user: UserId,
    clock: C,
}

impl<D: Device, C: Clock> DeviceClearer<D, C> {
    /// Clears as `user`.
    pub fn new(mdt: MdtName, device: D, user: UserId, clock: C) -> Self {
        Self { mdt, device, user, clock }
    }

    /// Reads on a fresh descriptor from `from`, until `each` returns false or the stream ends.
    fn look(
        &mut self,
        from: Option<NonZeroU64>,
        room: usize,
        each: &mut dyn FnMut(&View<'_>) -> bool,
    ) -> Result<(), SourceError> {
        let io = |what: &str, place: String, source| SourceError::Io {
            mdt: self.mdt.clone(),
            what: format!("{what} {place}"),
            source,
        };
        // Without any ioctl, every kernel ends the stream, and what a digest is made of is the same.
        let opened = self.device.open(from, Mode::Plain);
        let mut descriptor = opened.map_err(|e| io("opening", self.device.place(), e))?;
        let mut buf = Vec::new();
        let mut last = None;
        let mut heard = self.clock.now();
        loop {
            buf.clear();
            let answer = descriptor.read(&mut buf, room, WAIT);
            match answer.map_err(|e| io("reading", self.device.place(), e))? {
                Answer::End => return Ok(()),
                Answer::Nothing if self.clock.now() - heard < PATIENCE => continue,
                Answer::Nothing => {
                    return Err(io("reading", self.device.place(), io::ErrorKind::TimedOut.into()));
                }
                Answer::Records => heard = self.clock.now(),
            }
            let mut each_record = records(&buf, 0);
            for view in each_record.by_ref() {
                let view = view.map_err(|source| SourceError::Malformed { mdt: self.mdt.clone(), source })?;
                let index = view.index();
                let below = from.is_some_and(|from| index < from.get());
                if below || last.is_some_and(|last| index <= last) {
                    let last = last.or(from.map(NonZeroU64::get)).unwrap_or_default();
                    return Err(SourceError::OutOfOrder { mdt: self.mdt.clone(), last, got: index });
                }
                last = Some(index);
                if !each(&view) {
                    return Ok(());
                }
            }
            let whole = each_record.finish();
            whole.map_err(|source| SourceError::Malformed { mdt: self.mdt.clone(), source })?;
        }
    }

    /// Clears without asking where the number comes from.
    pub(super) fn clear_index(&mut self, upto: NonZeroU64) -> Result<(), ClearError> {
        self.device.clear(&self.user, upto).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => ClearError::NotFound,
            Some(libc::EINVAL) => ClearError::Invalid,
            Some(libc::EINPROGRESS | libc::EAGAIN | libc::EINTR | libc::EBUSY) => ClearError::Busy(error),
            _ => ClearError::Source(SourceError::Io {
                mdt: self.mdt.clone(),
                what: format!("clearing up to {upto} for {} at {}", self.user, self.device.place()),
                source: error,
            }),
        })
    }
}

impl<D: Device, C: Clock> Clearer for DeviceClearer<D, C> {
    fn probe(&mut self, index: NonZeroU64) -> Result<Probe, SourceError> {
        let mut probe = Probe::Nothing;
        self.look(Some(index), PROBE_ROOM, &mut |view| {
            let found = view.index();
            probe = if found == index.get() { Probe::Found(view.digest()) } else { Probe::Gone { next: found } };
            false
        })?;
        Ok(probe)
    }

    fn oldest(&mut self) -> Result<Option<u64>, SourceError> {
        let mut oldest = None;
        self.look(None, PROBE_ROOM, &mut |view| {
            oldest = Some(view.index());
            false
        })?;
        Ok(oldest)
    }

    fn scan(&mut self, from: NonZeroU64, to: u64, each: &mut dyn FnMut(u64, Digest)) -> Result<(), SourceError> {
        if to < from.get() {
            return Ok(());
        }
        self.look(Some(from), SCAN_ROOM, &mut |view| {
            let index = view.index();
            if index <= to {
                each(index, view.digest());
            }
            index < to
        })
    }

    fn clear(&mut self, upto: Clearable) -> Result<(), ClearError> {
        self.clear_index(upto.index())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::clock::BootClock;
    use super::*;

    /// A device whose clears end in this error.
    struct Refuses(i32);

    struct Never;

    impl Descriptor for Never {
        fn read(&mut self, _: &mut Vec<u8>, _: usize, _: Duration) -> io::Result<Answer> {
            Ok(Answer::End)
        }
    }

    impl Device for Refuses {
        type Descriptor = Never;

        fn open(&mut self, _: Option<NonZeroU64>, _: Mode) -> io::Result<Never> {
            Ok(Never)
        }

        fn clear(&mut self, user: &UserId, _: NonZeroU64) -> io::Result<()> {
            assert_eq!(user.to_string(), "cl2");
            if self.0 == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(self.0)) }
        }

        fn place(&self) -> String {
            "/dev/changelog-lustre-MDT0000".to_owned()
        }
    }

    fn clear(errno: i32) -> Result<(), ClearError> {
        let (mdt, user) = ("lustre-MDT0000".parse().unwrap(), "cl2-clbridge".parse().unwrap());
        DeviceClearer::new(mdt, Refuses(errno), user, BootClock).clear_index(NonZeroU64::MIN)
    }

    #[test]
    fn every_error_of_a_clear_says_what_the_core_has_to_know() {
        assert!(clear(0).is_ok());
        assert!(matches!(clear(libc::ENOENT), Err(ClearError::NotFound)));
        assert!(matches!(clear(libc::EINVAL), Err(ClearError::Invalid)));
        for passing in [libc::EINPROGRESS, libc::EAGAIN, libc::EINTR, libc::EBUSY] {
            assert!(matches!(clear(passing), Err(ClearError::Busy(_))));
        }
        for other in [libc::EIO, libc::ENODEV, libc::EACCES] {
            let error = clear(other).unwrap_err();
            assert!(matches!(error, ClearError::Source(_)));
            assert!(error.to_string().contains("clearing up to 1 for cl2 at /dev/changelog-lustre-MDT0000"));
        }
    }
}
