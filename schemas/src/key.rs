//! Message keys, and the partition that Kafka's own clients choose for a key.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::ids::MdtName;
use crate::lustre::{Fid, View};

/// What a message's key is made of. Records with the same key keep their order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// The object's FID; for a rename the renamed object's. Order per object.
    #[default]
    Object,
    /// The parent directory's FID, for a rename the new one's; the object's where no parent is known.
    Parent,
    /// The MDT's name: total order per MDT.
    Mdt,
    /// The job id; the object's FID where there is none.
    Jobid,
    /// No key.
    None,
}

/// Appends the key of a record; nothing for [`KeyKind::None`]. FIDs are in brackets as the tools print them. A MARK
/// is about no object: its key is the MDT's name.
pub fn key(kind: KeyKind, view: &View<'_>, mdt: &MdtName, out: &mut Vec<u8>) {
    let object = view.object();
    let fid = match (kind, object) {
        (KeyKind::None, _) => return,
        (KeyKind::Mdt, _) | (_, None) => {
            out.extend_from_slice(mdt.as_str().as_bytes());
            return;
        }
        (KeyKind::Object, Some(object)) => object,
        (KeyKind::Parent, Some(object)) => view.parent().unwrap_or(object),
        (KeyKind::Jobid, Some(object)) => match view.jobid().filter(|j| !j.is_empty()) {
            Some(jobid) => {
                out.extend_from_slice(jobid);
                return;
            }
            None => object,
        },
    };
    Fid::write_text(&fid, out);
}

/// The partition of a key among `partitions`, as Kafka's Java client chooses it.
#[must_use]
pub fn partition(key: &[u8], partitions: NonZeroU32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// MurmurHash2 (32 bit, Austin Appleby) with the seed of Kafka's Java client (`Utils.murmur2`).
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut h = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (byte, shift) in tail.iter().zip([0, 8, 16]) {
            h ^= u32::from(*byte) << shift;
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ h >> 15
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_gives_what_the_java_client_gives() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn a_partition_is_never_out_of_range() {
        let three = NonZeroU32::new(3).unwrap();
        assert_eq!(partition(b"21", three), ((-973_932_308_i32).cast_unsigned() & 0x7fff_ffff) % 3);
        assert_eq!(partition(b"", NonZeroU32::MIN), 0);
    }
}
