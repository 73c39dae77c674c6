//! The encoder of the hot path: from a view straight into the message's buffer.

use super::wire::{LONG, NULL, SOME, Writer};
use super::{Entry, Framing, Retracts, SchemaVersion, TypeSymbol};
use crate::ids::{MdtName, RecordId};
use crate::lustre::{Fid, Nid, RecordType, Time, View};

/// Encodes the records of one MDT in one version and framing.
#[derive(Clone, Debug)]
pub struct Encoder {
    version: SchemaVersion,
    /// Framing and the MDT's name: the same bytes before every record, at most 10, a length and 16.
    prefix: [u8; PREFIX],
    prefix_len: usize,
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

/// Room for what stands before every record.
const PREFIX: usize = 32;

/// The most bytes that all numbers, lengths and branches of one record take: fewer than 48 of them, and a NID's text.
const NUMBERS: usize = 48 * LONG + Nid::MAX_TEXT;

impl Encoder {
    /// An encoder for `mdt`'s records.
    #[must_use]
    pub fn new(mdt: &MdtName, version: SchemaVersion, framing: Framing) -> Self {
        let mut frame = Vec::new();
        framing.write(version, &mut frame);
        let mut prefix = [0; PREFIX];
        let mut w = Writer::new(&mut prefix);
        w.raw(&frame);
        w.bytes(mdt.as_str().as_bytes());
        let prefix_len = w.at();
        Self { version, prefix, prefix_len }
    }

    /// The version that is written.
    #[must_use]
    pub fn version(&self) -> SchemaVersion {
        self.version
    }

    /// Appends the framed record; nothing is allocated but what `out` itself needs to grow.
    pub fn encode(&self, view: &View<'_>, incarnation: u32, additions: Additions<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + PREFIX + room_for(view, additions), 0);
        let mut w = Writer::new(&mut out[start..]);
        w.padded(&self.prefix, self.prefix_len);
        self.put(view, incarnation, additions, &mut w);
        let length = w.at();
        out.truncate(start + length);
    }

    #[inline(always)]
    fn put(&self, view: &View<'_>, incarnation: u32, additions: Additions<'_>, w: &mut Writer<'_>) {
        put_identity(view, incarnation, w);
        w.nullable(view.parent(), put_fid);
        put_name(view.name(), w);
        if self.version >= SchemaVersion::V2 {
            // A remap that had nothing to fill in leaves zeroes: no rename.
            let rename = view.rename().filter(|r| !r.sfid.is_zero());
            w.nullable(rename, |w, r| {
                put_fid(w, r.sfid);
                put_fid(w, r.spfid);
                put_name(r.sname, w);
            });
        }
        if self.version >= SchemaVersion::V3 {
            w.nullable(view.jobid().filter(|j| !j.is_empty()), put_lossy);
        }
        if self.version >= SchemaVersion::V4 {
            let bits = |w: &mut Writer<'_>, value: u64| w.long(value.cast_signed());
            w.nullable(view.extra_flags(), bits);
            w.nullable(view.uid_gid().map(|(uid, _)| uid), bits);
            w.nullable(view.uid_gid().map(|(_, gid)| gid), bits);
            w.nullable(view.nid().filter(|n| !n.is_zero()), put_nid);
            w.nullable(view.open_mode(), |w, mode| w.long(i64::from(mode)));
            w.nullable(view.xattr().filter(|x| !x.is_empty()), put_lossy);
        }
        if self.version >= SchemaVersion::V5 {
            w.nullable(additions.path, |w, path| w.bytes(path.as_bytes()));
            w.nullable(additions.entry, put_entry);
            w.byte(NULL);
        }
    }

    /// Appends a framed retraction: a MARK whose `retracts` says what is void. Below version 5 it is the MARK alone,
    /// and what is void has to go beside it.
    pub fn encode_retraction(&self, retraction: &Retraction, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + PREFIX + NUMBERS, 0);
        let mut w = Writer::new(&mut out[start..]);
        w.padded(&self.prefix, self.prefix_len);
        w.long(retraction.at.index.get().cast_signed());
        put_int_bits(&mut w, retraction.at.incarnation);
        w.long(i64::from(TypeSymbol::Mark.number()));
        w.long(i64::from(RecordType::MARK.0));
        w.long(retraction.time.nanos());
        w.long(0);
        put_fid(&mut w, Fid::ZERO);
        // All that is nullable but `retracts`, version by version.
        let nulls = match self.version {
            SchemaVersion::V1 => 3,
            SchemaVersion::V2 => 4,
            SchemaVersion::V3 => 5,
            SchemaVersion::V4 => 11,
            SchemaVersion::V5 => 13,
        };
        w.raw(&[NULL; 13][..nulls]);
        if self.version >= SchemaVersion::V5 {
            w.byte(SOME);
            put_int_bits(&mut w, retraction.void.incarnation);
            w.long(retraction.void.from.cast_signed());
            w.long(retraction.void.to.cast_signed());
        }
        let length = w.at();
        out.truncate(start + length);
    }
}

/// Room that the record's body surely fits in. Text that is not UTF-8 grows to three times its length by replacement
/// characters, and a name's bytes follow it.
#[inline(always)]
fn room_for(view: &View<'_>, additions: Additions<'_>) -> usize {
    let text = view.names_raw().len() + view.jobid().map_or(0, <[u8]>::len) + view.xattr().map_or(0, <[u8]>::len);
    NUMBERS + 4 * text + additions.path.map_or(0, str::len)
}

/// The fields that every record has.
#[inline(always)]
fn put_identity(view: &View<'_>, incarnation: u32, w: &mut Writer<'_>) {
    let rtype = view.rtype();
    w.long(view.index().cast_signed());
    put_int_bits(w, incarnation);
    w.long(i64::from(TypeSymbol::from(rtype).number()));
    put_int_bits(w, rtype.0);
    w.long(view.time().nanos());
    w.long(i64::from(view.flags()));
    put_fid(w, view.tfid());
}

#[inline(always)]
fn put_int_bits(w: &mut Writer<'_>, value: u32) {
    w.long(i64::from(value.cast_signed()));
}

#[inline(always)]
fn put_fid(w: &mut Writer<'_>, fid: Fid) {
    w.long(fid.seq.cast_signed());
    w.long(i64::from(fid.oid));
    w.long(i64::from(fid.ver));
}

/// A name as text, and as bytes too if it is not UTF-8.
#[inline(always)]
fn put_name(name: Option<&[u8]>, w: &mut Writer<'_>) {
    let Some(name) = name else {
        w.raw(&[NULL, NULL]);
        return;
    };
    w.byte(SOME);
    if is_text(name) {
        w.bytes(name);
        w.byte(NULL);
    } else {
        put_replaced(w, name);
        w.byte(SOME);
        w.bytes(name);
    }
}

/// Text that has no place for its bytes: what is not UTF-8 is replaced.
#[inline(always)]
fn put_lossy(w: &mut Writer<'_>, text: &[u8]) {
    if is_text(text) {
        w.bytes(text);
    } else {
        put_replaced(w, text);
    }
}

/// Whether it is UTF-8; nearly all names are ASCII, which is seen without a call.
#[inline(always)]
fn is_text(bytes: &[u8]) -> bool {
    let (words, tail) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0, |all, word| all | u64::from_le_bytes(*word));
    let tail = tail.iter().fold(0, |all, byte| all | byte);
    (words & 0x8080_8080_8080_8080 == 0 && tail < 0x80) || std::str::from_utf8(bytes).is_ok()
}

/// As `String::from_utf8_lossy`, without its allocation.
fn put_replaced(w: &mut Writer<'_>, text: &[u8]) {
    const REPLACEMENT: &str = "\u{fffd}";
    let parts = || {
        text.utf8_chunks().flat_map(|chunk| {
            let invalid = if chunk.invalid().is_empty() { "" } else { REPLACEMENT };
            [chunk.valid(), invalid]
        })
    };
    let length: usize = parts().map(str::len).sum();
    w.long(length as i64);
    for part in parts() {
        w.raw(part.as_bytes());
    }
}

#[inline(always)]
fn put_nid(w: &mut Writer<'_>, nid: Nid) {
    let mut text = [0; Nid::MAX_TEXT];
    let length = nid.text_in(&mut text);
    w.long(length as i64);
    w.padded(&text, length);
}

#[inline]
fn put_entry(w: &mut Writer<'_>, entry: &Entry) {
    put_int_bits(w, entry.mode);
    for number in [entry.nlink, entry.uid, entry.gid, entry.size, entry.blocks] {
        w.long(number.cast_signed());
    }
    for time in [entry.atime, entry.mtime, entry.ctime] {
        w.long(time.nanos());
    }
}
