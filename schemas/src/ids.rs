//! Names of things that outlive a process: a record's identity, its digest, its MDT.
//!
//! All three are persisted in brokers, so neither their text nor their arithmetic may ever change.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::lustre::{Fid, RecordType, Time};

/// Identity and order of a record on its MDT.
///
/// The incarnation rises whenever indexes of the MDT were, or may have been, published with other content; order is
/// by incarnation, then by index. Index 0 does not exist (clearing 0 clears everything).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RecordId {
    /// How often this MDT's indexes began to mean something else, from 0.
    pub incarnation: u32,
    /// The record's index on its MDT.
    pub index: NonZeroU64,
}

impl RecordId {
    /// The identity of record `index` in `incarnation`.
    #[must_use]
    pub const fn new(incarnation: u32, index: NonZeroU64) -> Self {
        Self { incarnation, index }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.incarnation, self.index)
    }
}

/// A text that is not `INCARNATION:INDEX`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("\"{0}\" is not a record id: expected INCARNATION:INDEX, for instance 0:1234, with an index above 0")]
pub struct RecordIdError(String);

impl FromStr for RecordId {
    type Err = RecordIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parts = s
            .split_once(':')
            .and_then(|(incarnation, index)| Some(Self { incarnation: decimal(incarnation)?, index: decimal(index)? }));
        parts.ok_or_else(|| RecordIdError(s.to_owned()))
    }
}

/// Digits only: `parse` alone would take a sign too, and an identity must have one spelling.
fn decimal<T: FromStr>(s: &str) -> Option<T> {
    s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok()).flatten()
}

/// What two records must share to count as the same record: a hash over index, type, time and target FID.
///
/// The value is XXH64 with seed 0 over these 36 bytes, little-endian and packed: index u64, type u32, time i64
/// (nanoseconds since the epoch), tfid as seq u64, oid u32, ver u32. For a MARK the tfid is its marker flags as seq
/// and zeroes, since the kernel leaves the rest unspecified. Digests are persisted: this never changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub u64);

impl Digest {
    /// The digest of a record with these fields.
    #[must_use]
    pub fn of(index: u64, rtype: RecordType, time: Time, tfid: Fid) -> Self {
        let tfid = rtype.meaningful_tfid(tfid);
        let mut bytes = [0u8; 36];
        bytes[0..8].copy_from_slice(&index.to_le_bytes());
        bytes[8..12].copy_from_slice(&rtype.0.to_le_bytes());
        bytes[12..20].copy_from_slice(&time.nanos().to_le_bytes());
        bytes[20..28].copy_from_slice(&tfid.seq.to_le_bytes());
        bytes[28..32].copy_from_slice(&tfid.oid.to_le_bytes());
        bytes[32..36].copy_from_slice(&tfid.ver.to_le_bytes());
        Self(xxhash_rust::xxh64::xxh64(&bytes, 0))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The device name of an MDT, `FSNAME-MDTxxxx`: 1 to 8 characters of `[A-Za-z0-9_-]` and 4 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MdtName {
    text: String,
}

/// A text that is not the device name of an MDT.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("\"{text}\" is not the name of an MDT: {why}; expected FSNAME-MDTxxxx, for instance lustre-MDT0000")]
pub struct MdtNameError {
    text: String,
    why: &'static str,
}

const MDT: &str = "-MDT";

impl MdtName {
    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The file system's name, the part before `-MDT`.
    #[must_use]
    pub fn fsname(&self) -> &str {
        let (fsname, _) = self.text.split_at(self.text.len() - MDT.len() - 4);
        fsname
    }

    /// The MDT's number in its file system, 0 to 65535.
    #[must_use]
    pub fn mdt_index(&self) -> u16 {
        self.text
            .bytes()
            .rev()
            .take(4)
            .zip([0, 4, 8, 12])
            .map(|(digit, shift)| (char::from(digit).to_digit(16).unwrap_or(0) as u16) << shift)
            .sum()
    }
}

impl FromStr for MdtName {
    type Err = MdtNameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::try_from(s.to_owned())
    }
}

impl TryFrom<String> for MdtName {
    type Error = MdtNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let why = match text.rsplit_once(MDT) {
            None => "it has no -MDT",
            Some((_, number)) if number.len() != 4 || !number.bytes().all(|b| b.is_ascii_hexdigit()) => {
                "behind -MDT there must be 4 hexadecimal digits"
            }
            Some((fsname, _)) if fsname.is_empty() || fsname.len() > 8 => "a file system's name has 1 to 8 characters",
            Some((fsname, _)) if !fsname.bytes().all(is_fsname_byte) => {
                "a file system's name has only letters, digits, _ and -"
            }
            Some(_) => return Ok(Self { text }),
        };
        Err(MdtNameError { text, why })
    }
}

fn is_fsname_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

impl From<MdtName> for String {
    fn from(name: MdtName) -> Self {
        name.text
    }
}

impl AsRef<str> for MdtName {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for MdtName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_id_reads_back_what_it_prints_and_orders_by_incarnation_first() {
        let early = RecordId::new(0, NonZeroU64::new(9).unwrap());
        let late = RecordId::new(1, NonZeroU64::new(2).unwrap());
        assert!(early < late);
        assert_eq!("0:9".parse::<RecordId>().unwrap(), early);
        assert_eq!(late.to_string(), "1:2");
        for bad in ["", "1", "1:0", "1:+2", ":2", "1:", "1:2:3", "-1:2"] {
            assert!(bad.parse::<RecordId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_mdt_name_gives_its_parts_and_says_what_is_wrong_with_a_bad_one() {
        let name: MdtName = "my-fs_1-MDT00aF".parse().unwrap();
        assert_eq!(name.fsname(), "my-fs_1");
        assert_eq!(name.mdt_index(), 0xaf);
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"my-fs_1-MDT00aF\"");
        for (bad, why) in [
            ("lustre", "it has no -MDT"),
            ("lustre-MDT000", "4 hexadecimal digits"),
            ("lustre-MDT000g", "4 hexadecimal digits"),
            ("-MDT0000", "1 to 8"),
            ("ninechars-MDT0000", "1 to 8"),
            ("lu/tre-MDT0000", "only letters"),
        ] {
            let error = bad.parse::<MdtName>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(bad), "{error}");
        }
        assert!(serde_json::from_str::<MdtName>("\"x\"").is_err());
    }

    #[test]
    fn a_digest_is_xxh64_over_the_documented_bytes_for_ever() {
        let fid = Fid { seq: 0x2_0000_0402, oid: 7, ver: 0 };
        let time = Time::from_nanos(1_795_367_193_495_754_041);
        // Computed by another implementation of XXH64 (python-xxhash) over struct.pack("<QIqQII", ...).
        assert_eq!(Digest::of(27, RecordType::CREAT, time, fid), Digest(0x443d_c9b8_8798_0ef3));
    }

    #[test]
    fn what_the_kernel_leaves_unspecified_in_a_mark_is_not_in_its_digest() {
        let time = Time::from_nanos(5);
        let a = Fid { seq: 0x14_0000, oid: 0, ver: 0 };
        let b = Fid { seq: 0xdead_beef_0014_0000, oid: 4, ver: 9 };
        assert_eq!(Digest::of(1, RecordType::MARK, time, a), Digest::of(1, RecordType::MARK, time, b));
        assert_ne!(Digest::of(1, RecordType::CREAT, time, a), Digest::of(1, RecordType::CREAT, time, b));
    }
}
