//! File identifiers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Lustre file identifier (`struct lu_fid`).
///
/// serde has `seq` as the signed integer with the same bits, as Avro does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Fid {
    /// Sequence.
    #[serde(with = "seq_bits")]
    pub seq: u64,
    /// Object within the sequence.
    pub oid: u32,
    /// Version, 0 in practice.
    pub ver: u32,
}

mod seq_bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(seq: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_i64(seq.cast_signed())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        i64::deserialize(d).map(i64::cast_unsigned)
    }
}

impl Fid {
    /// The FID of nothing, `[0:0x0:0x0]`.
    pub const ZERO: Self = Self { seq: 0, oid: 0, ver: 0 };

    /// True if all of it is zero: no object.
    #[must_use]
    #[inline]
    pub const fn is_zero(&self) -> bool {
        self.seq == 0 && self.oid == 0 && self.ver == 0
    }

    /// The 16 little-endian bytes of the record layout.
    #[must_use]
    #[inline]
    pub fn to_le_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.oid.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.ver.to_le_bytes());
        bytes
    }

    /// From the 16 little-endian bytes of the record layout.
    #[must_use]
    #[inline]
    pub fn from_le_bytes(bytes: [u8; 16]) -> Self {
        // One wide load and shifts: no sub-slices, hence nothing that could fail.
        let all = u128::from_le_bytes(bytes);
        Self { seq: all as u64, oid: (all >> 64) as u32, ver: (all >> 96) as u32 }
    }

    /// Appends the text form, brackets included, as the tools print it (`%#llx`: a zero has no `0x`).
    pub fn write_text(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.seq == 0 { b"[" } else { b"[0x" });
        push_hex(out, self.seq);
        out.extend_from_slice(b":0x");
        push_hex(out, u64::from(self.oid));
        out.extend_from_slice(b":0x");
        push_hex(out, u64::from(self.ver));
        out.push(b']');
    }
}

/// Lower-case hexadecimal without leading zeroes; by hand, for it is in the way of every record.
fn push_hex(out: &mut Vec<u8>, value: u64) {
    let digits = (67 - (value | 1).leading_zeros()) / 4;
    for shift in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * shift)) as usize & 15]);
    }
}

impl fmt::Display for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}:{:#x}:{:#x}]", Seq(self.seq), self.oid, self.ver)
    }
}

/// C's `%#x`: no prefix before a zero.
struct Seq(u64);

impl fmt::LowerHex for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("0") } else { fmt::LowerHex::fmt(&self.0, f) }
    }
}

/// A text that is not a FID.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("\"{0}\" is not a FID: expected [0xSEQ:0xOID:0xVER], for instance [0x200000401:0x5:0x0]")]
pub struct FidError(String);

impl FromStr for Fid {
    type Err = FidError;

    /// Reads the text form; the brackets and the `0x` may be missing.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let inner = s.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(s);
        let mut parts = inner.split(':').map(hex);
        let fid = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(seq)), Some(Some(oid)), Some(Some(ver)), None) => {
                match (u32::try_from(oid), u32::try_from(ver)) {
                    (Ok(oid), Ok(ver)) => Some(Self { seq, oid, ver }),
                    _ => None,
                }
            }
            _ => None,
        };
        fid.ok_or_else(|| FidError(s.to_owned()))
    }
}

fn hex(s: &str) -> Option<u64> {
    let digits = s.strip_prefix("0x").unwrap_or(s);
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_fid_prints_as_the_tools_do_in_both_ways_and_reads_back() {
        for (fid, text) in [
            (Fid::ZERO, "[0:0x0:0x0]"),
            (Fid { seq: 0x2_0000_0401, oid: 5, ver: 0 }, "[0x200000401:0x5:0x0]"),
            (Fid { seq: u64::MAX, oid: u32::MAX, ver: 16 }, "[0xffffffffffffffff:0xffffffff:0x10]"),
        ] {
            let mut out = Vec::new();
            fid.write_text(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
            assert_eq!(fid.to_string(), text);
            assert_eq!(text.parse::<Fid>().unwrap(), fid);
            assert_eq!(Fid::from_le_bytes(fid.to_le_bytes()), fid);
            let json = serde_json::to_string(&fid).unwrap();
            assert_eq!(serde_json::from_str::<Fid>(&json).unwrap(), fid);
        }
    }

    #[test]
    fn what_is_not_a_fid_is_refused() {
        for bad in ["", "[]", "1:2", "1:2:3:4", "[1:2:3", "1:2:3]", "x:1:2", "+1:2:3", "1:100000000:0"] {
            assert!(bad.parse::<Fid>().is_err(), "{bad}");
        }
    }
}
