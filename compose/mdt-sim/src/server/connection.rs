//! One data connection: requests in, responses out in the same order, one descriptor at a time.
//! A blocked call keeps listening, so that a client that goes away takes its thread along.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::addr::Stream;
use crate::descriptor::Descriptor;
use crate::protocol::{END_FOLLOWS, MAX_RESPONSE, Op, REQUEST_HEAD, RESPONSE_HEAD, Request, Response};
use crate::users::Errno;

/// Responses are handed over when this many bytes are waiting, or when no request is.
const FLUSH: usize = 256 << 10;
/// A client with more unread requests than this has to wait.
const MAX_INPUT: usize = 256 << 10;

struct Wire {
    stream: Stream,
    input: Vec<u8>,
    output: Vec<u8>,
    timeout: bool,
}

impl Wire {
    fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// Reads more requests; false at the end of the connection or when the time is over.
    fn receive(&mut self, wait: Option<Duration>) -> io::Result<Received> {
        if wait.is_some() || self.timeout {
            self.stream.set_read_timeout(wait)?;
            self.timeout = wait.is_some();
        }
        let mut chunk = [0u8; 16 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(Received::Gone),
            Ok(n) => {
                self.input.extend_from_slice(&chunk[..n]);
                Ok(Received::Some)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(Received::Nothing),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Received::Some),
            Err(e) => Err(e),
        }
    }

    /// Waits, answering nothing, but noticing a client that goes away.
    fn pause(&mut self, wait: Duration, stopping: bool) -> bool {
        if stopping || self.flush().is_err() {
            return false;
        }
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            if self.input.len() > MAX_INPUT {
                std::thread::sleep(left);
                return true;
            }
            match self.receive(Some(left.max(Duration::from_millis(1)))) {
                Ok(Received::Some | Received::Nothing) => {}
                Ok(Received::Gone) | Err(_) => return false,
            }
        }
    }

    fn respond(&mut self, seq: u32, result: Result<u64, Errno>, payload: &[u8]) {
        let start = self.output.len();
        self.output.resize(start + RESPONSE_HEAD, 0);
        self.output.extend_from_slice(payload);
        self.seal(start, seq, result);
    }

    /// Fills the head that was left free at `start`, for the payload behind it.
    fn seal(&mut self, start: usize, seq: u32, result: Result<u64, Errno>) {
        let response = Response {
            seq,
            errno: result.err().map_or(0, |e| e.0),
            value: result.unwrap_or(0),
            len: self.output.len() - start - RESPONSE_HEAD,
        };
        response.write(&mut self.output[start..start + RESPONSE_HEAD]);
    }
}

enum Received {
    Some,
    Nothing,
    Gone,
}

/// Serves a connection until it ends.
pub(super) fn serve(shared: &Arc<Shared>, stream: Stream) -> io::Result<()> {
    let id = shared.enter(&stream)?;
    let wire = Wire { stream, input: Vec::new(), output: Vec::new(), timeout: false };
    let result = run(shared, id, wire);
    shared.leave(id);
    result
}

fn run(shared: &Arc<Shared>, id: u64, mut wire: Wire) -> io::Result<()> {
    let mut descriptor: Option<Descriptor> = None;
    let mut at = 0;
    loop {
        while let Some(request) = Request::parse(&wire.input[at..])? {
            let end = at + REQUEST_HEAD + request.len;
            if wire.input.len() < end {
                break;
            }
            let payload = wire.input[at + REQUEST_HEAD..end].to_vec();
            at = end;
            handle(shared, id, &mut wire, &mut descriptor, request, &payload);
            if wire.output.len() >= FLUSH {
                wire.flush()?;
            }
        }
        wire.input.drain(..at);
        at = 0;
        wire.flush()?;
        if let Received::Gone = wire.receive(None)? {
            return Ok(());
        }
    }
}

fn handle(
    shared: &Arc<Shared>,
    id: u64,
    wire: &mut Wire,
    slot: &mut Option<Descriptor>,
    request: Request,
    payload: &[u8],
) {
    let (low, high) = (request.arg as u32, (request.arg >> 32) as u32);
    match (request.op, slot.as_mut()) {
        (Op::Open, _) => {
            *slot = None;
            let name = String::from_utf8_lossy(payload);
            let opened = match shared.mdts.get(name.as_ref()) {
                Some(mdt) => Descriptor::open(Arc::clone(mdt), low, high),
                None => Err(Errno(libc::ENOENT)),
            };
            let result = opened.map(|descriptor| {
                shared.opened(id, &name);
                *slot = Some(descriptor);
                0
            });
            wire.respond(request.seq, result, &[]);
        }
        (Op::List, _) => {
            let names: Vec<&str> = shared.mdts.keys().map(String::as_str).collect();
            wire.respond(request.seq, Ok(names.len() as u64), names.join("\n").as_bytes());
        }
        (_, None) => wire.respond(request.seq, Err(Errno(libc::EBADF)), &[]),
        (Op::Seek, Some(descriptor)) => {
            let result = descriptor.seek(request.arg);
            wire.respond(request.seq, result, &[]);
        }
        (Op::Tell, Some(descriptor)) => wire.respond(request.seq, Ok(descriptor.tell()), &[]),
        (Op::Flags, Some(descriptor)) => {
            descriptor.set_flags(low);
            wire.respond(request.seq, Ok(0), &[]);
        }
        (Op::Clear, Some(descriptor)) => {
            let result = descriptor.clear(payload, &mut |wait| wire.pause(wait, shared.stopping()));
            wire.respond(request.seq, result.map(|n| n as u64), &[]);
        }
        (Op::Read, Some(descriptor)) => {
            let ready = descriptor.wait_ready(&mut |wait| wire.pause(wait, shared.stopping()));
            let start = wire.output.len();
            wire.output.resize(start + RESPONSE_HEAD, 0);
            let result = ready.map(|()| {
                let end = descriptor.take(&mut wire.output, (low as usize).min(MAX_RESPONSE), high);
                if end { END_FOLLOWS } else { 0 }
            });
            wire.seal(start, request.seq, result);
        }
    }
}
