//! A simulated MDT as a device: the same reader and clearer as the real one's, over a socket instead of a node in
//! `/dev`. What the simulated MDT does wrong on purpose comes through unchanged.

use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use mdt_sim::addr::Addr;
use mdt_sim::client::{Changelog, flags};

use super::device::{Answer, Descriptor, Device, LEAST_ROOM, Mode, UserId};
use super::factory::open_both;
use super::pace::PaceSettings;
use super::{Opened, SourceError, SourceFactory};

/// One answer of the client has at most 256 usual records: more room would only be filled with zeroes first.
const ROOM: usize = 64 << 10;

/// A connection whose descriptor was closed, to be used by the next one: a reopening then costs one message, as it
/// costs a few system calls on the real device, and not a connection.
type Spare = Arc<Mutex<Option<(Mode, Changelog)>>>;

/// One simulated MDT.
#[derive(Debug)]
pub struct SimDevice {
    addr: Addr,
    mdt: MdtName,
    spare: Spare,
}

impl SimDevice {
    /// The MDT `mdt` of the server at `addr`.
    #[must_use]
    pub fn new(addr: Addr, mdt: MdtName) -> Self {
        Self { addr, mdt, spare: Spare::default() }
    }

    fn take_spare(&self, mode: Mode) -> Option<Changelog> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.take().filter(|(was, _)| *was == mode).map(|(_, log)| log)
    }
}

impl Device for SimDevice {
    type Descriptor = SimDescriptor;

    fn open(&mut self, from: Option<NonZeroU64>, mode: Mode) -> io::Result<SimDescriptor> {
        let first = from.map_or(1, NonZeroU64::get);
        let reused = self.take_spare(mode).and_then(|mut log| log.reopen(first).is_ok().then_some(log));
        let log = match reused {
            Some(log) => log,
            None => {
                let as_asked = match mode {
                    Mode::Plain => 0,
                    Mode::Once => flags::NID_BE,
                    Mode::Follow => flags::NID_BE | flags::FOLLOW,
                };
                let mut log = Changelog::open(&self.addr, self.mdt.as_str(), flags::READ | as_asked)?;
                log.seek(first)?;
                log
            }
        };
        Ok(SimDescriptor { log: Some(log), mode, spare: Arc::clone(&self.spare) })
    }

    fn clear(&mut self, user: &UserId, upto: NonZeroU64) -> io::Result<()> {
        let mut log = Changelog::open(&self.addr, self.mdt.as_str(), flags::WRITE)?;
        log.clear(&format!("clear:{user}:{upto}\0")).map(drop)
    }

    fn place(&self) -> String {
        format!("{} at {}", self.mdt, self.addr)
    }
}

/// An open descriptor of a simulated MDT.
pub struct SimDescriptor {
    /// `None` after an error that the connection may not survive.
    log: Option<Changelog>,
    mode: Mode,
    spare: Spare,
}

impl fmt::Debug for SimDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDescriptor").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Descriptor for SimDescriptor {
    fn read(&mut self, buf: &mut Vec<u8>, room: usize, wait: Duration) -> io::Result<Answer> {
        assert!(room >= LEAST_ROOM, "a read with room for {room} bytes can look like the end");
        let log = self.log.as_mut().ok_or(io::ErrorKind::ConnectionReset)?;
        let old = buf.len();
        buf.resize(old + room.min(ROOM), 0);
        let got = log.read(&mut buf[old..], wait);
        buf.truncate(old + got.as_ref().map_or(0, |&n| n));
        match got {
            Ok(0) => Ok(Answer::End),
            Ok(_) => Ok(Answer::Records),
            Err(error) if is_passing(&error) => Ok(Answer::Nothing),
            Err(error) => {
                if error.raw_os_error().is_none() {
                    self.log = None;
                }
                Err(error)
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

impl Drop for SimDescriptor {
    fn drop(&mut self) {
        let spare = self.log.take().map(|log| (self.mode, log));
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = spare;
    }
}

/// The MDTs of a running `mdt-sim`.
#[derive(Clone, Debug)]
pub struct SimFactory {
    addr: Addr,
    pace: PaceSettings,
}

impl SimFactory {
    /// All MDTs of the server at `addr`.
    #[must_use]
    pub fn new(addr: Addr, pace: PaceSettings) -> Self {
        Self { addr, pace }
    }
}

impl SourceFactory for SimFactory {
    fn discover(&self) -> Result<Vec<MdtName>, SourceError> {
        let failed = |source| SourceError::Discovery { place: self.addr.to_string(), source };
        let names = Changelog::list(&self.addr).map_err(failed)?;
        let parse = |name: String| name.parse::<MdtName>().map_err(|e| failed(io::Error::other(e)));
        names.into_iter().map(parse).collect()
    }

    fn open(&self, mdt: &MdtName, user: &str) -> Result<Opened, SourceError> {
        open_both(mdt, user, self.pace, || SimDevice::new(self.addr.clone(), mdt.clone()))
    }
}
