//! The system calls that the character device needs, as a trait: a stand-in of the device in user space, and a test
//! that compares them with a listing of a real Lustre, take the kernel's place here and nowhere else.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// The calls. Arguments and errors are the kernel's.
pub trait Syscalls: Clone + Send {
    /// `open(path, flags)`.
    ///
    /// # Errors
    /// The kernel's.
    fn open(&self, path: &Path, flags: libc::c_int) -> io::Result<RawFd>;
    /// `lseek(fd, offset, SEEK_SET)`.
    ///
    /// # Errors
    /// The kernel's.
    fn lseek(&self, fd: RawFd, offset: i64) -> io::Result<()>;
    /// `ioctl(fd, request, arg)` with the argument by value.
    ///
    /// # Errors
    /// The kernel's.
    fn ioctl(&self, fd: RawFd, request: u64, arg: u64) -> io::Result<()>;
    /// `poll` for `events` of one descriptor; the events that are there, 0 when `timeout` passed.
    ///
    /// # Errors
    /// The kernel's.
    fn poll(&self, fd: RawFd, events: i16, timeout: Duration) -> io::Result<i16>;
    /// `read` of at most `room` bytes, appended to `buf`; how many came.
    ///
    /// # Errors
    /// The kernel's.
    fn read(&self, fd: RawFd, buf: &mut Vec<u8>, room: usize) -> io::Result<usize>;
    /// `write(fd, bytes)`; how many were taken.
    ///
    /// # Errors
    /// The kernel's.
    fn write(&self, fd: RawFd, bytes: &[u8]) -> io::Result<usize>;
    /// `close(fd)`.
    fn close(&self, fd: RawFd);
}

/// The kernel's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Syscalls for Kernel {
    fn open(&self, path: &Path, flags: libc::c_int) -> io::Result<RawFd> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: `path` is a NUL-terminated string that lives over the call; no flag given here wants a third argument.
        check(unsafe { libc::open(path.as_ptr(), flags) })
    }

    fn lseek(&self, fd: RawFd, offset: i64) -> io::Result<()> {
        // SAFETY: no memory is passed.
        match unsafe { libc::lseek(fd, offset, libc::SEEK_SET) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    fn ioctl(&self, fd: RawFd, request: u64, arg: u64) -> io::Result<()> {
        // SAFETY: both requests in use take their argument by value, so the kernel touches no memory of ours.
        check(unsafe { libc::ioctl(fd, request, arg) }).map(drop)
    }

    fn poll(&self, fd: RawFd, events: i16, timeout: Duration) -> io::Result<i16> {
        let mut one = libc::pollfd { fd, events, revents: 0 };
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().min(86_400) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: `one` is one valid pollfd and the timeout a valid timespec, both live over the call; a null mask is allowed.
        check(unsafe { libc::ppoll(&raw mut one, 1, &raw const timeout, std::ptr::null()) })?;
        Ok(one.revents)
    }

    fn read(&self, fd: RawFd, buf: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        buf.reserve(room);
        let spare = buf.spare_capacity_mut();
        // SAFETY: `spare` has at least `room` writable bytes, which is all the kernel is allowed to fill.
        let got = unsafe { libc::read(fd, spare.as_mut_ptr().cast(), room) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the kernel has just initialised `got` bytes behind the old length, `got <= room <= spare.len()`.
        unsafe { buf.set_len(buf.len() + got) };
        Ok(got)
    }

    fn write(&self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: `bytes` is readable for its length over the call.
        let put = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        usize::try_from(put).map_err(|_| io::Error::last_os_error())
    }

    fn close(&self, fd: RawFd) {
        // SAFETY: the caller owns `fd` and gives it up here; an error leaves nothing to do (the descriptor is gone).
        unsafe { libc::close(fd) };
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
