//! The few offsets of the kernel's record that serving needs: its length, its index, its time, its NID's form.
//! Decoding belongs to `clbridge_schemas`; this room only finds bounds and patches fixed places, and never trusts a
//! length that leads out of the bytes it was given.

/// Bytes of the fixed head (`struct changelog_rec`).
pub const HEAD: usize = 64;
/// The longest record a server sends, in bytes.
pub const MAX_RECORD: usize = 947;

const RENAME: u16 = 0x2000;
const JOBID: u16 = 0x4000;
const EXTRA: u16 = 0x8000;
const CLFE_UIDGID: u64 = 0x1;
const CLFE_NID: u64 = 0x2;
const CLFE_OPEN: u64 = 0x4;
const CLFE_XATTR: u64 = 0x8;
const CLFE_NID_BE: u64 = 0x10;

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}

/// Where the extra flags stand, if the record has any.
fn extra_at(flags: u16) -> Option<usize> {
    (flags & EXTRA != 0)
        .then(|| HEAD + if flags & RENAME != 0 { 32 } else { 0 } + if flags & JOBID != 0 { 32 } else { 0 })
}

/// The length of the record at the start of `b`, or `None` if `b` does not hold it wholly.
#[must_use]
pub fn record_len(b: &[u8]) -> Option<usize> {
    let name = usize::from(u16_at(b, 0)?);
    let flags = u16_at(b, 2)?;
    let mut len = HEAD + name;
    if flags & RENAME != 0 {
        len += 32;
    }
    if flags & JOBID != 0 {
        len += 32;
    }
    if let Some(at) = extra_at(flags) {
        let extra = u64_at(b, at)?;
        len += 8;
        for (bit, size) in [(CLFE_UIDGID, 16), (CLFE_NID, 24), (CLFE_OPEN, 4), (CLFE_XATTR, 256)] {
            if extra & bit != 0 {
                len += size;
            }
        }
    }
    (b.len() >= len).then_some(len)
}

/// The fields of the fixed head that the server and the oracle use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The type's number.
    pub kind: u32,
    /// The record's index.
    pub index: u64,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// The target FID: sequence, object, version.
    pub tfid: (u64, u32, u32),
}

/// The head of the record at the start of `b`, or `None` if `b` is shorter than a head.
#[must_use]
pub fn head(b: &[u8]) -> Option<Head> {
    let time = u64_at(b, 24)?;
    Some(Head {
        kind: u32_at(b, 4)?,
        index: u64_at(b, 8)?,
        time_ns: (time >> 30) * 1_000_000_000 + (time & ((1 << 30) - 1)),
        tfid: (u64_at(b, 32)?, u32_at(b, 40)?, u32_at(b, 44)?),
    })
}

/// Writes index and time (nanoseconds since 1970) into a record.
pub fn stamp(record: &mut [u8], index: u64, time_ns: u64) {
    if record.len() >= HEAD {
        let time = ((time_ns / 1_000_000_000) << 30) | (time_ns % 1_000_000_000);
        record[8..16].copy_from_slice(&index.to_le_bytes());
        record[24..32].copy_from_slice(&time.to_le_bytes());
    }
}

/// Puts a record's NID into the form that a descriptor asked for: `be` for the big-endian structure of `NID_BE`
/// (Lustre 2.16), else the old u64, where a client with a large address is all zero.
pub fn set_nid_form(record: &mut [u8], be: bool) {
    let Some(at) = u16_at(record, 2).and_then(extra_at) else {
        return;
    };
    let Some(extra) = u64_at(record, at) else {
        return;
    };
    if (extra & CLFE_NID_BE != 0) == be || extra & CLFE_NID == 0 {
        return;
    }
    let nid_at = at + 8 + if extra & CLFE_UIDGID != 0 { 16 } else { 0 };
    let Some(nid) = record.get_mut(nid_at..nid_at + 20) else {
        return;
    };
    if be {
        let old = u64::from_le_bytes([nid[0], nid[1], nid[2], nid[3], nid[4], nid[5], nid[6], nid[7]]);
        let net = (old >> 32) as u32;
        nid.fill(0);
        nid[1] = (net >> 16) as u8;
        nid[2..4].copy_from_slice(&(net as u16).to_be_bytes());
        nid[4..8].copy_from_slice(&(old as u32).to_be_bytes());
    } else {
        let large = nid[0] != 0;
        let net = (u32::from(nid[1]) << 16) | u32::from(u16::from_be_bytes([nid[2], nid[3]]));
        let addr = u32::from_be_bytes([nid[4], nid[5], nid[6], nid[7]]);
        nid.fill(0);
        if !large {
            nid[..8].copy_from_slice(&((u64::from(net) << 32) | u64::from(addr)).to_le_bytes());
        }
    }
    let flipped = extra ^ CLFE_NID_BE;
    record[at..at + 8].copy_from_slice(&flipped.to_le_bytes());
}
