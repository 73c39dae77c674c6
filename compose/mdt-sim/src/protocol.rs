//! The data protocol: the calls on a changelog device, over a stream. PROTOCOL.md is its description for others.
//! A frame is never larger than its header says, and a header that asks for too much ends the connection.

use std::io;

/// The protocol's version, in every request.
pub const VERSION: u8 = 1;
/// Bytes of a request's head.
pub const REQUEST_HEAD: usize = 20;
/// Bytes of a response's head.
pub const RESPONSE_HEAD: usize = 20;
/// The longest payload of a request, in bytes.
pub const MAX_REQUEST: usize = 4096;
/// The longest payload of a response, in bytes.
pub const MAX_RESPONSE: usize = 16 << 20;
/// In the value of a READ's response: the next READ will return nothing, the end is reached.
pub const END_FOLLOWS: u64 = 1;

/// Flags of OPEN and FLAGS; the low ones are the kernel's ioctl's.
pub mod flags {
    /// New records are waited for.
    pub const FOLLOW: u32 = 0x1;
    /// NIDs in the big-endian form.
    pub const NID_BE: u32 = 0x10;
    /// The bits that the ioctl takes.
    pub const IOCTL: u32 = 0xff;
    /// Open for reading.
    pub const READ: u32 = 0x100;
    /// Open for writing clears.
    pub const WRITE: u32 = 0x200;
}

/// The calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// `open`: argument is flags, and the prefetch in the high half (0: the kernel's 1024); payload the MDT's name.
    Open = 1,
    /// `lseek(SEEK_SET)`: argument is the index.
    Seek = 2,
    /// `read`: argument is the buffer's size, and the most records in the high half (0: no limit).
    Read = 3,
    /// The ioctl: argument is the flags.
    Flags = 4,
    /// `write`: payload is the clear.
    Clear = 5,
    /// `lseek(0, SEEK_CUR)`.
    Tell = 6,
    /// The names of the server's MDTs, one a line, as the names in `/dev` would be.
    List = 7,
}

impl Op {
    fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Open,
            2 => Self::Seek,
            3 => Self::Read,
            4 => Self::Flags,
            5 => Self::Clear,
            6 => Self::Tell,
            7 => Self::List,
            _ => return None,
        })
    }
}

/// A request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The call.
    pub op: Op,
    /// Comes back in the response.
    pub seq: u32,
    /// The call's argument.
    pub arg: u64,
    /// Bytes of payload that follow.
    pub len: usize,
}

/// A response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's.
    pub seq: u32,
    /// 0 or the kernel's error number.
    pub errno: i32,
    /// The call's value.
    pub value: u64,
    /// Bytes of payload that follow.
    pub len: usize,
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| (n << 8) | u64::from(*b))
}

impl Request {
    /// Appends the frame.
    pub fn write(op: Op, seq: u32, arg: u64, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&[op as u8, VERSION, 0, 0]);
        out.extend_from_slice(&seq.to_le_bytes());
        out.extend_from_slice(&arg.to_le_bytes());
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(payload);
    }

    /// Reads a head from the start of `bytes`; `None` if there are too few.
    ///
    /// # Errors
    /// Another version, an unknown call, a payload beyond [`MAX_REQUEST`].
    pub fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        if bytes.len() < REQUEST_HEAD {
            return Ok(None);
        }
        if bytes[1] != VERSION {
            return Err(invalid(format!("request of protocol version {}, this is version {VERSION}", bytes[1])));
        }
        let op = Op::from_u8(bytes[0]).ok_or_else(|| invalid(format!("unknown call {}", bytes[0])))?;
        let len = number(&bytes[16..20]) as usize;
        if len > MAX_REQUEST {
            return Err(invalid(format!("request with {len} bytes of payload, at most {MAX_REQUEST} are allowed")));
        }
        Ok(Some(Self { op, seq: number(&bytes[4..8]) as u32, arg: number(&bytes[8..16]), len }))
    }
}

impl Response {
    /// Fills the head's place at the start of `head`.
    pub fn write(&self, head: &mut [u8]) {
        head[..4].copy_from_slice(&self.seq.to_le_bytes());
        head[4..8].copy_from_slice(&self.errno.to_le_bytes());
        head[8..16].copy_from_slice(&self.value.to_le_bytes());
        head[16..20].copy_from_slice(&(self.len as u32).to_le_bytes());
    }

    /// Reads a head.
    ///
    /// # Errors
    /// A payload beyond [`MAX_RESPONSE`].
    pub fn parse(head: &[u8; RESPONSE_HEAD]) -> io::Result<Self> {
        let len = number(&head[16..20]) as usize;
        if len > MAX_RESPONSE {
            return Err(invalid(format!("response with {len} bytes of payload, at most {MAX_RESPONSE} are allowed")));
        }
        Ok(Self {
            seq: number(&head[..4]) as u32,
            errno: number(&head[4..8]) as u32 as i32,
            value: number(&head[8..16]),
            len,
        })
    }
}
