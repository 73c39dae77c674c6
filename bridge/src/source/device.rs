//! What every place that records are read from has in common, small enough that the kernel's character device, a
//! simulated MDT and a stand-in for tests all are one: open at an index, read, clear.
//!
//! Nothing here remembers a position across descriptors or decides when to open again: that is the reader's matter.

use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

/// The least room for a read, in bytes. The longest record has 947 bytes, liblustreapi allocates 952; with less room
/// than the next record needs the kernel's `read` returns 0, which looks like the end.
pub const LEAST_ROOM: usize = 952;

/// How a descriptor is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// No `ioctl` at all. Every kernel ends such a stream at its last record. Large (IPv6) NIDs come as zeroes.
    Plain,
    /// NIDs in the big-endian form. Ends at the last record; a kernel that takes the `ioctl`'s argument for a boolean
    /// follows instead.
    Once,
    /// NIDs in the big-endian form, and the kernel looks for new records once a second.
    Follow,
}

/// What a descriptor answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Whole records were appended.
    Records,
    /// Nothing within the time given; ask again.
    Nothing,
    /// The end of the stream, which is sticky: later records are seen by another descriptor only.
    End,
}

/// One open look at an MDT's changelog. Dropping it closes it.
pub trait Descriptor: Send {
    /// Appends whole records to `buf`, at most `room` bytes, waiting at most `wait` for the first.
    ///
    /// # Errors
    /// What the device says. `EIO` sticks to this descriptor.
    ///
    /// # Panics
    /// If `room` is below [`LEAST_ROOM`].
    fn read(&mut self, buf: &mut Vec<u8>, room: usize, wait: Duration) -> io::Result<Answer>;
}

/// One MDT's changelog.
pub trait Device: Send {
    /// An open look at it.
    type Descriptor: Descriptor;

    /// Opens a descriptor whose first record is `from`, or the first one behind it; without `from`, the oldest.
    ///
    /// # Errors
    /// What the device says; `ENOENT` or `ENODEV` when the MDT vanished.
    fn open(&mut self, from: Option<NonZeroU64>, mode: Mode) -> io::Result<Self::Descriptor>;

    /// Tells the MDT that `user` has no need of anything up to `upto`. Can block for as long as the MDT is away.
    ///
    /// # Errors
    /// What the device says: `ENOENT`, `EINVAL`, `EINPROGRESS` and so on.
    fn clear(&mut self, user: &UserId, upto: NonZeroU64) -> io::Result<()>;

    /// Where it is, for messages: a path or an address.
    fn place(&self) -> String;
}

/// A changelog user as the kernel takes it in a clear: `clN`, without the name that it may have been registered with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserId {
    number: u32,
}

/// A text that is not a changelog user.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "\"{0}\" is not a changelog user: expected what `lctl changelog_register` printed, for instance cl1 or cl2-clbridge"
)]
pub struct UserIdError(String);

impl FromStr for UserId {
    type Err = UserIdError;

    fn from_str(text: &str) -> Result<Self, UserIdError> {
        let number = text.strip_prefix("cl").and_then(|rest| {
            let digits = rest.split_once('-').map_or(rest, |(digits, _)| digits);
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|&n: &u32| plain && n > 0)
        });
        let number = number.ok_or_else(|| UserIdError(text.to_owned()))?;
        Ok(Self { number })
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cl{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_named_user_is_cut_to_its_number_and_anything_else_is_refused() {
        for (text, id) in [("cl1", "cl1"), ("cl4-robin", "cl4"), ("cl12-a-b", "cl12")] {
            assert_eq!(text.parse::<UserId>().unwrap().to_string(), id);
        }
        for bad in ["", "cl", "cl0", "cl-robin", "1", "robin", "cl+1", "cl1x", "CL1"] {
            assert!(bad.parse::<UserId>().is_err(), "{bad}");
        }
    }
}
