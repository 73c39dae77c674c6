//! The character device that a Lustre client offers per MDT, `/dev/changelog-FSNAME-MDTxxxx` (kernel:
//! `mdc_changelog.c`; liblustreapi is only a thin wrapper around it and is not needed).
//!
//! Reads never block in the kernel: every descriptor is `O_NONBLOCK` and is polled with a timeout, so that an MDT that
//! restarts, or an old kernel that follows although it was not asked to, cannot hold this process. Only a clear can
//! block, which is why it has a thread of its own.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clbridge_schemas::ids::MdtName;

use super::device::{Answer, Descriptor, Device, LEAST_ROOM, Mode, UserId};
use super::syscalls::{Kernel, Syscalls};

/// `_IOR('f', 233, long)`: how the stream is given, its argument by value.
const SET_FLAGS: u64 = 0x8008_66e9;
/// Look for new records once a second instead of ending. Old kernels read any non-zero argument as this.
const FOLLOW: u64 = 0x01;
/// NIDs in the big-endian form, which alone can hold IPv6.
const NID_BE: u64 = 0x10;

/// Where a Lustre client's device nodes are.
pub const DEVICE_DIR: &str = "/dev";
/// What a device node's name begins with.
pub const DEVICE_PREFIX: &str = "changelog-";

/// One MDT's device node.
#[derive(Clone, Debug)]
pub struct LustreDevice<S: Syscalls = Kernel> {
    path: PathBuf,
    calls: S,
}

impl LustreDevice {
    /// The device of `mdt` in `dir`, usually [`DEVICE_DIR`].
    #[must_use]
    pub fn new(dir: &Path, mdt: &MdtName) -> Self {
        Self::with_calls(dir, mdt, Kernel)
    }
}

impl<S: Syscalls> LustreDevice<S> {
    /// The same over other system calls.
    #[must_use]
    pub fn with_calls(dir: &Path, mdt: &MdtName, calls: S) -> Self {
        let path = dir.join(format!("{DEVICE_PREFIX}{mdt}"));
        Self { path, calls }
    }

    fn fd(&self, flags: libc::c_int) -> io::Result<Fd<S>> {
        let raw = self.calls.open(&self.path, flags | libc::O_CLOEXEC)?;
        Ok(Fd { raw, calls: self.calls.clone() })
    }
}

impl<S: Syscalls> Device for LustreDevice<S> {
    type Descriptor = LustreDescriptor<S>;

    fn open(&mut self, from: Option<NonZeroU64>, mode: Mode) -> io::Result<LustreDescriptor<S>> {
        let fd = self.fd(libc::O_RDONLY | libc::O_NONBLOCK)?;
        if let Some(index) = from {
            let offset = i64::try_from(index.get()).map_err(io::Error::other)?;
            fd.calls.lseek(fd.raw, offset)?;
        }
        match mode {
            Mode::Plain => {}
            Mode::Once => match fd.calls.ioctl(fd.raw, SET_FLAGS, NID_BE) {
                // A kernel from before this call: it knows no large NIDs either.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {}
                other => other?,
            },
            Mode::Follow => fd.calls.ioctl(fd.raw, SET_FLAGS, NID_BE | FOLLOW)?,
        }
        Ok(LustreDescriptor { fd, polled: false })
    }

    fn clear(&mut self, user: &UserId, upto: NonZeroU64) -> io::Result<()> {
        // With its NUL, as liblustreapi writes it; "cl" and a u32, a u64: at most 40 of the 64 bytes allowed. Decimal,
        // for the kernel would parse anything else as 0, which clears everything.
        let command = format!("clear:{user}:{upto}\0");
        let fd = self.fd(libc::O_WRONLY)?;
        let put = fd.calls.write(fd.raw, command.as_bytes())?;
        if put != command.len() {
            let text = format!("the device took {put} of {} bytes of {command:?}", command.len());
            return Err(io::Error::other(text));
        }
        Ok(())
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// An open descriptor of the device.
#[derive(Debug)]
pub struct LustreDescriptor<S: Syscalls = Kernel> {
    fd: Fd<S>,
    /// On recent kernels only `poll` starts the thread that fetches records, never an `O_NONBLOCK` read.
    polled: bool,
}

impl<S: Syscalls> Descriptor for LustreDescriptor<S> {
    fn read(&mut self, buf: &mut Vec<u8>, room: usize, wait: Duration) -> io::Result<Answer> {
        assert!(room >= LEAST_ROOM, "a read with room for {room} bytes can look like the end");
        let Fd { raw, calls } = &self.fd;
        if !self.polled || !wait.is_zero() {
            self.polled = true;
            match calls.poll(*raw, libc::POLLIN, wait) {
                Ok(0) => return Ok(Answer::Nothing),
                // Data, the end, or an error: the read tells which.
                Ok(_) => {}
                Err(error) if is_passing(&error) => return Ok(Answer::Nothing),
                Err(error) => return Err(error),
            }
        }
        match calls.read(*raw, buf, room) {
            Ok(0) => Ok(Answer::End),
            Ok(_) => Ok(Answer::Records),
            Err(error) if is_passing(&error) => Ok(Answer::Nothing),
            Err(error) => Err(error),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

/// A descriptor that is closed as soon as it is not needed: one left open when Lustre is unmounted harms the client.
#[derive(Debug)]
struct Fd<S: Syscalls> {
    raw: RawFd,
    calls: S,
}

impl<S: Syscalls> Drop for Fd<S> {
    fn drop(&mut self) {
        self.calls.close(self.raw);
    }
}

/// The MDTs whose device nodes are in `dir`, in order of their names; of one file system only, if `fsname` is given.
///
/// # Errors
/// `dir` cannot be read.
pub fn discover(dir: &Path, fsname: Option<&str>) -> io::Result<Vec<MdtName>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        // What is not named like an MDT's device is another driver's.
        let mdt = name.to_str().and_then(|n| n.strip_prefix(DEVICE_PREFIX)).and_then(|n| n.parse::<MdtName>().ok());
        found.extend(mdt.filter(|mdt| fsname.is_none_or(|wanted| mdt.fsname() == wanted)));
    }
    found.sort();
    Ok(found)
}
