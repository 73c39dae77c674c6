//! The encoder of the hot path: from a view straight into the message's buffer.

use super::wire::{NULL, SOME, put_bytes, put_long};
use super::{Entry, Framing, Retracts, SchemaVersion, TypeSymbol};
use crate::ids::{MdtName, RecordId};
use crate::lustre::{Fid, Nid, RecordType, Time, View};

/// Encodes the records of one MDT in one version and framing.
#[derive(Clone, Debug)]
pub struct Encoder {
    version: SchemaVersion,
    /// Framing and the MDT's name: the same bytes before every record.
    prefix: Vec<u8>,
}

/// What modules know beyond the record; written from version 5 on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Additions<'a> {
    /// The object's path.
    pub path: Option<&'a str>,
    /// The object's attributes.
    pub entry: Option<&'a Entry>,
}

/// Says that records published before never happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retraction {
    /// Its own place: where the next incarnation begins.
    pub at: RecordId,
    /// When the difference was found.
    pub time: Time,
    /// What is void.
    pub void: Retracts,
}

/// What nearly every record fits in, so that the buffer grows once, not field by field.
const USUAL: usize = 512;

impl Encoder {
    /// An encoder for `mdt`'s records.
    #[must_use]
    pub fn new(mdt: &MdtName, version: SchemaVersion, framing: Framing) -> Self {
        let mut prefix = Vec::new();
        framing.write(version, &mut prefix);
        put_bytes(mdt.as_str().as_bytes(), &mut prefix);
        Self { version, prefix }
    }

    /// The version that is written.
    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        self.version
    }

    /// Appends the framed record; nothing is allocated but what `out` itself needs to grow.
    pub fn encode(
        &self,
        view: &View<'_>,
        incarnation: u32,
        additions: Additions<'_>,
        out: &mut Vec<u8>,
    ) {
        out.reserve(USUAL);
        out.extend_from_slice(&self.prefix);
        put_identity(view, incarnation, out);
        nullable(view.parent(), out, put_fid);
        put_name(view.name(), out);
        if self.version >= SchemaVersion::V2 {
            // A remap that had nothing to fill in leaves zeroes: no rename.
            let rename = view.rename().filter(|r| !r.sfid.is_zero());
            nullable(rename, out, |r, out| {
                put_fid(r.sfid, out);
                put_fid(r.spfid, out);
                put_name(r.sname, out);
            });
        }
        if self.version >= SchemaVersion::V3 {
            nullable(view.jobid().filter(|j| !j.is_empty()), out, put_lossy);
        }
        if self.version >= SchemaVersion::V4 {
            let bits = |value: u64, out: &mut Vec<u8>| put_long(value.cast_signed(), out);
            nullable(view.extra_flags(), out, bits);
            nullable(view.uid_gid().map(|(uid, _)| uid), out, bits);
            nullable(view.uid_gid().map(|(_, gid)| gid), out, bits);
            nullable(view.nid().filter(|n| !n.is_zero()), out, put_nid);
            nullable(view.open_mode(), out, |mode, out| {
                put_long(i64::from(mode), out);
            });
            nullable(view.xattr().filter(|x| !x.is_empty()), out, put_lossy);
        }
        if self.version >= SchemaVersion::V5 {
            nullable(additions.path, out, |path, out| {
                put_bytes(path.as_bytes(), out);
            });
            nullable(additions.entry, out, put_entry);
            out.push(NULL);
        }
    }

    /// Appends a framed retraction: a MARK whose `retracts` says what is void. Below version 5 it is the MARK alone,
    /// and what is void has to go beside it.
    pub fn encode_retraction(&self, retraction: &Retraction, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        put_long(retraction.at.index.get().cast_signed(), out);
        put_int_bits(retraction.at.incarnation, out);
        put_long(i64::from(TypeSymbol::Mark.number()), out);
        put_long(i64::from(RecordType::MARK.0), out);
        put_long(retraction.time.nanos(), out);
        put_long(0, out);
        put_fid(Fid::ZERO, out);
        // All that is nullable but `retracts`, version by version.
        let nulls = match self.version {
            SchemaVersion::V1 => 3,
            SchemaVersion::V2 => 4,
            SchemaVersion::V3 => 5,
            SchemaVersion::V4 => 11,
            SchemaVersion::V5 => 13,
        };
        out.resize(out.len() + nulls, NULL);
        if self.version >= SchemaVersion::V5 {
            out.push(SOME);
            put_int_bits(retraction.void.incarnation, out);
            put_long(retraction.void.from.cast_signed(), out);
            put_long(retraction.void.to.cast_signed(), out);
        }
    }
}

/// The fields that every record has.
fn put_identity(view: &View<'_>, incarnation: u32, out: &mut Vec<u8>) {
    let rtype = view.rtype();
    put_long(view.index().cast_signed(), out);
    put_int_bits(incarnation, out);
    put_long(i64::from(TypeSymbol::from(rtype).number()), out);
    put_int_bits(rtype.0, out);
    put_long(view.time().nanos(), out);
    put_long(i64::from(view.flags()), out);
    put_fid(view.tfid(), out);
}

#[inline]
fn nullable<T>(value: Option<T>, out: &mut Vec<u8>, put: impl FnOnce(T, &mut Vec<u8>)) {
    match value {
        None => out.push(NULL),
        Some(value) => {
            out.push(SOME);
            put(value, out);
        }
    }
}

fn put_int_bits(value: u32, out: &mut Vec<u8>) {
    put_long(i64::from(value.cast_signed()), out);
}

fn put_fid(fid: Fid, out: &mut Vec<u8>) {
    put_long(fid.seq.cast_signed(), out);
    put_long(i64::from(fid.oid), out);
    put_long(i64::from(fid.ver), out);
}

/// A name as text, and as bytes too if it is not UTF-8.
fn put_name(name: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(name) = name else {
        out.extend_from_slice(&[NULL, NULL]);
        return;
    };
    out.push(SOME);
    if let Ok(text) = std::str::from_utf8(name) {
        put_bytes(text.as_bytes(), out);
        out.push(NULL);
    } else {
        put_replaced(name, out);
        out.push(SOME);
        put_bytes(name, out);
    }
}

/// Text that has no place for its bytes: what is not UTF-8 is replaced.
fn put_lossy(text: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(text) {
        Ok(text) => put_bytes(text.as_bytes(), out),
        Err(_) => put_replaced(text, out),
    }
}

/// As `String::from_utf8_lossy`, without its allocation.
fn put_replaced(text: &[u8], out: &mut Vec<u8>) {
    const REPLACEMENT: &str = "\u{fffd}";
    let parts = || {
        text.utf8_chunks().flat_map(|chunk| {
            let invalid = if chunk.invalid().is_empty() {
                ""
            } else {
                REPLACEMENT
            };
            [chunk.valid(), invalid]
        })
    };
    let length: usize = parts().map(str::len).sum();
    put_long(length as i64, out);
    for part in parts() {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The NID's text, written behind a length that is set when it is known.
fn put_nid(nid: Nid, out: &mut Vec<u8>) {
    let at = out.len();
    out.push(0);
    nid.write_text(out);
    let length = out.len() - at - 1;
    // A NID's text has at most 56 bytes, so its zigzag length is one byte.
    out[at] = (length * 2) as u8;
}

fn put_entry(entry: &Entry, out: &mut Vec<u8>) {
    put_int_bits(entry.mode, out);
    for number in [entry.nlink, entry.uid, entry.gid, entry.size, entry.blocks] {
        put_long(number.cast_signed(), out);
    }
    for time in [entry.atime, entry.mtime, entry.ctime] {
        put_long(time.nanos(), out);
    }
}
