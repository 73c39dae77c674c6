//! The client: a changelog device over a socket, with the calls and the errors of the real one.
//! What it holds back for its caller (read-ahead) plus what the server prefetches is never more than the kernel's 1024
//! records, so an outage hides behind it exactly as far as behind a real device's prefetch.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::addr::{Addr, Stream};
use crate::descriptor::PREFETCH;
use crate::layout;
use crate::protocol::{END_FOLLOWS, Op, RESPONSE_HEAD, Request, Response};

pub use crate::protocol::flags;

/// Records asked for in one READ.
const CHUNK: u32 = 256;
/// READs in flight while records abound; with one chunk prefetched by the server that makes 1024 records.
const DEPTH: usize = 3;
const SERVER_PREFETCH: u32 = PREFETCH - CHUNK * DEPTH as u32;
/// Room for [`CHUNK`] of the longest records.
const CHUNK_BYTES: u32 = CHUNK * layout::MAX_RECORD as u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Open,
    Seek,
    Read,
    /// Belongs to a descriptor that was replaced by a reopen.
    Stale,
}

/// An open changelog device.
#[derive(Debug)]
pub struct Changelog {
    addr: Addr,
    stream: Stream,
    /// The connection is lost: a reopen makes a new one.
    broken: bool,
    timeout: Option<Duration>,
    mdt: String,
    open_flags: u32,
    seq: u32,
    pending: VecDeque<(u32, Pending)>,
    /// Bytes from the server that are not yet a whole frame begin at `input_at`.
    input: Vec<u8>,
    input_at: usize,
    /// Records received and not yet handed out, from `ready_at` on.
    ready: Vec<u8>,
    ready_at: usize,
    depth: usize,
    end: bool,
    error: Option<i32>,
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "mdt-sim closed the connection")
}

impl Changelog {
    /// Opens the device of `mdt` (`FS-MDT0000`) at a server. `open_flags` is of [`flags`]: `READ` and `WRITE` as with
    /// `open`, `FOLLOW` and `NID_BE` as with the ioctl.
    ///
    /// # Errors
    /// `ENOENT` for an unknown MDT, an injected error, those of the connection.
    pub fn open(addr: &Addr, mdt: &str, open_flags: u32) -> io::Result<Self> {
        let mut changelog = Self {
            addr: addr.clone(),
            stream: addr.connect()?,
            broken: false,
            timeout: None,
            mdt: mdt.to_owned(),
            open_flags,
            seq: 0,
            pending: VecDeque::new(),
            input: Vec::with_capacity(512 << 10),
            input_at: 0,
            ready: Vec::new(),
            ready_at: 0,
            depth: 1,
            end: false,
            error: None,
        };
        changelog.call(Op::Open, changelog.open_argument(), mdt.as_bytes())?;
        Ok(changelog)
    }

    /// The MDTs of a server, as the names in `/dev` would be.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn list(addr: &Addr) -> io::Result<Vec<String>> {
        let mut stream = addr.connect()?;
        let mut frame = Vec::new();
        Request::write(Op::List, 1, 0, &[], &mut frame);
        stream.write_all(&frame)?;
        let mut head = [0; RESPONSE_HEAD];
        stream.read_exact(&mut head)?;
        let mut names = vec![0; Response::parse(&head)?.len];
        stream.read_exact(&mut names)?;
        Ok(String::from_utf8_lossy(&names).lines().map(str::to_owned).collect())
    }

    fn open_argument(&self) -> u64 {
        u64::from(self.open_flags) | (u64::from(SERVER_PREFETCH) << 32)
    }

    fn send(&mut self, requests: &[(Op, u64, &[u8], Pending)]) -> io::Result<()> {
        let mut frames = Vec::with_capacity(128);
        for (op, arg, payload, pending) in requests {
            self.seq = self.seq.wrapping_add(1);
            Request::write(*op, self.seq, *arg, payload, &mut frames);
            self.pending.push_back((self.seq, *pending));
        }
        let sent = self.stream.write_all(&frames);
        self.broken |= sent.is_err();
        sent
    }

    /// A call that is answered before anything else happens. Reads in flight are taken in first.
    fn call(&mut self, op: Op, arg: u64, payload: &[u8]) -> io::Result<u64> {
        self.send(&[(op, arg, payload, Pending::Stale)])?;
        let seq = self.seq;
        loop {
            let (response, start) = self.response(None)?.ok_or_else(broken)?;
            if response.seq == seq {
                self.pending.pop_front();
                return match response.errno {
                    0 => Ok(response.value),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                };
            }
            self.take_in(response, start);
        }
    }

    /// The next whole frame and where its payload starts in `input`; `None` when the time is over.
    fn response(&mut self, until: Option<Instant>) -> io::Result<Option<(Response, usize)>> {
        let response = self.receive(until);
        self.broken |= response.is_err();
        response
    }

    fn receive(&mut self, until: Option<Instant>) -> io::Result<Option<(Response, usize)>> {
        loop {
            if let Some(head) = self.input.get(self.input_at..self.input_at + RESPONSE_HEAD) {
                let head: &[u8; RESPONSE_HEAD] = head.try_into().map_err(io::Error::other)?;
                let response = Response::parse(head)?;
                let start = self.input_at + RESPONSE_HEAD;
                if self.input.len() >= start + response.len {
                    self.input_at = start + response.len;
                    return Ok(Some((response, start)));
                }
            }
            self.input.drain(..self.input_at);
            self.input_at = 0;
            let timeout = match until {
                None => None,
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    Some(left)
                }
            };
            if timeout != self.timeout {
                self.stream.set_read_timeout(timeout)?;
                self.timeout = timeout;
            }
            let old = self.input.len();
            self.input.resize(old + (256 << 10), 0);
            let got = self.stream.read(&mut self.input[old..]);
            self.input.truncate(old + *got.as_ref().unwrap_or(&0));
            match got {
                Ok(0) => return Err(broken()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes in an answer to a request in flight.
    fn take_in(&mut self, response: Response, start: usize) {
        let Some((seq, pending)) = self.pending.pop_front() else {
            return;
        };
        // The server answers in order; anything else is an answer that cannot be trusted.
        if seq != response.seq {
            self.error = Some(libc::EPROTO);
            return;
        }
        if pending == Pending::Stale || self.error.is_some() {
            return;
        }
        if response.errno != 0 {
            self.error = Some(response.errno);
            return;
        }
        if pending == Pending::Read {
            if self.ready_at == self.ready.len() {
                self.ready.clear();
                self.ready_at = 0;
            }
            self.ready.extend_from_slice(&self.input[start..start + response.len]);
            self.depth = if response.len == 0 { 1 } else { DEPTH };
            if response.len == 0 || response.value & END_FOLLOWS != 0 {
                self.end = true;
            }
        }
    }

    /// Goes forward to an index.
    ///
    /// # Errors
    /// `EINVAL` backwards, those of the connection.
    pub fn seek(&mut self, index: u64) -> io::Result<u64> {
        // Records that are here already but not handed out: the server is ahead of the caller, so seek here first.
        while self.pending.iter().any(|p| p.1 == Pending::Read) {
            let (response, start) = self.response(None)?.ok_or_else(broken)?;
            self.take_in(response, start);
        }
        let position = self.tell_locally();
        if position.is_some_and(|p| index < p) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        while let Some(head) = layout::head(&self.ready[self.ready_at..]) {
            if head.index >= index {
                return Ok(index);
            }
            match layout::record_len(&self.ready[self.ready_at..]) {
                Some(len) => self.ready_at += len,
                None => break,
            }
        }
        self.call(Op::Seek, index, &[])
    }

    /// The next index to be handed out, if it is known here.
    fn tell_locally(&self) -> Option<u64> {
        layout::head(&self.ready[self.ready_at..]).map(|h| h.index)
    }

    /// Closes the device and opens it again at `index`, in one message and on a new connection if the old one is lost;
    /// the device's errors show at the next read.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn reopen(&mut self, index: u64) -> io::Result<()> {
        // A following read may wait for ever in the server: it does not end by what is sent behind it.
        let waiting = self.open_flags & flags::FOLLOW != 0 && !self.pending.is_empty();
        if self.broken || waiting {
            self.stream = self.addr.connect()?;
            self.broken = false;
            self.timeout = None;
            self.pending.clear();
            self.input.clear();
            self.input_at = 0;
        }
        for entry in &mut self.pending {
            entry.1 = Pending::Stale;
        }
        self.ready.clear();
        self.ready_at = 0;
        self.end = false;
        self.error = None;
        self.depth = 1;
        let mdt = self.mdt.clone();
        let open = self.open_argument();
        self.send(&[
            (Op::Open, open, mdt.as_bytes(), Pending::Open),
            (Op::Seek, index, &[], Pending::Seek),
            (Op::Read, Self::READ, &[], Pending::Read),
        ])
    }

    const READ: u64 = CHUNK_BYTES as u64 | ((CHUNK as u64) << 32);

    /// Whole records into `buf`, as many as are here and fit; 0 at the end, which is final until [`Changelog::reopen`],
    /// and 0 if `buf` is smaller than the next record.
    ///
    /// # Errors
    /// `TimedOut` if nothing came in `wait`; the device's own (`EIO`, `ENODEV` stay until a reopen, `EAGAIN` does not);
    /// those of the connection.
    pub fn read(&mut self, buf: &mut [u8], wait: Duration) -> io::Result<usize> {
        if self.ready_at == self.ready.len() {
            self.fetch(wait)?;
        }
        let rest = &self.ready[self.ready_at..];
        let mut fits = 0;
        while fits < rest.len() {
            // A malformed record has no length of its own: it comes with all that follows in its answer.
            let len = layout::record_len(&rest[fits..]).unwrap_or(rest.len() - fits);
            if fits + len > buf.len() {
                break;
            }
            fits += len;
        }
        buf[..fits].copy_from_slice(&rest[..fits]);
        self.ready_at += fits;
        Ok(fits)
    }

    /// Waits until records, the end or an error are here.
    fn fetch(&mut self, wait: Duration) -> io::Result<()> {
        let until = Instant::now() + wait;
        loop {
            if self.ready_at < self.ready.len() {
                return Ok(());
            }
            if let Some(errno) = self.error {
                if errno == libc::EAGAIN || errno == libc::EINTR {
                    self.error = None;
                }
                return Err(io::Error::from_raw_os_error(errno));
            }
            if self.end {
                return Ok(());
            }
            let in_flight = self.pending.iter().filter(|p| p.1 == Pending::Read).count();
            if in_flight < self.depth {
                let reads = vec![(Op::Read, Self::READ, &[] as &[u8], Pending::Read); self.depth - in_flight];
                self.send(&reads)?;
            }
            match self.response(Some(until))? {
                Some((response, start)) => self.take_in(response, start),
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no record of {} came in {wait:?}", self.mdt),
                    ));
                }
            }
        }
    }

    /// Writes `clear:clN:RECNO` (or anything else) and waits for the answer, however long the MDT is away.
    ///
    /// # Errors
    /// The device's: `EINVAL`, `ENOENT`, `EIO` after an eviction, `EBADF` if not opened with `WRITE`; those of the
    /// connection.
    pub fn clear(&mut self, text: &str) -> io::Result<usize> {
        self.call(Op::Clear, 0, text.as_bytes()).map(|n| n as usize)
    }
}
