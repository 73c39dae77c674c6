//! Reads a body of any version, in place.
//!
//! The version need not be known: a later version's body is an earlier one's with fields behind it, so the version
//! is the one at whose last field the body ends.

use super::decode::{DecodeError, DecodeErrorKind, framing_of};
use super::wire::Reader;
use super::{Entry, Retracts, SchemaVersion};
use crate::lustre::{Fid, Time};

/// All fields of a record, strings where they lie.
pub(super) struct Body<'a> {
    pub(super) version: SchemaVersion,
    pub(super) mdt: &'a str,
    pub(super) index: u64,
    pub(super) incarnation: u32,
    pub(super) symbol: u8,
    pub(super) type_code: u32,
    pub(super) time: Time,
    pub(super) flags: u16,
    pub(super) tfid: Fid,
    pub(super) pfid: Option<Fid>,
    pub(super) name: Option<&'a str>,
    pub(super) name_raw: Option<&'a [u8]>,
    pub(super) rename: Option<Source<'a>>,
    pub(super) jobid: Option<&'a str>,
    pub(super) extra: Extra<'a>,
    pub(super) path: Option<&'a str>,
    pub(super) entry: Option<Entry>,
    pub(super) retracts: Option<Retracts>,
}

/// The source of a rename.
pub(super) struct Source<'a> {
    pub(super) sfid: Fid,
    pub(super) spfid: Fid,
    pub(super) sname: Option<&'a str>,
    pub(super) sname_raw: Option<&'a [u8]>,
}

/// The fields of version 4.
#[derive(Default)]
pub(super) struct Extra<'a> {
    pub(super) extra_flags: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) nid: Option<&'a str>,
    pub(super) open_mode: Option<u16>,
    pub(super) xattr: Option<&'a str>,
}

/// Symbols of the type's enum, `UNKNOWN` included.
const SYMBOLS: i64 = 26;

impl<'a> Body<'a> {
    /// The record in a framed payload.
    pub(super) fn read(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let (_, version, start) = framing_of(payload)?;
        let mut reader = Reader::new(payload.get(start..).unwrap_or_default());
        read(&mut reader, version).map_err(|kind| DecodeError { offset: start + reader.at(), kind })
    }
}

/// The length of the body that `bodies` begins with, which was written with `version`: in a container file's block
/// bodies stand behind each other without a word of their lengths.
///
/// # Errors
/// If no such body stands there.
pub fn body_length(version: SchemaVersion, bodies: &[u8]) -> Result<usize, DecodeError> {
    let mut reader = Reader::new(bodies);
    match fields(&mut reader, Some(version)) {
        Ok(_) => Ok(reader.at()),
        Err(kind) => Err(DecodeError { offset: reader.at(), kind }),
    }
}

fn read<'a>(r: &mut Reader<'a>, version: Option<SchemaVersion>) -> Result<Body<'a>, DecodeErrorKind> {
    let body = fields(r, version)?;
    if r.is_empty() { Ok(body) } else { Err(DecodeErrorKind::Trailing) }
}

fn fields<'a>(r: &mut Reader<'a>, version: Option<SchemaVersion>) -> Result<Body<'a>, DecodeErrorKind> {
    let mut body = first(r)?;
    for next in SchemaVersion::ALL.into_iter().skip(1) {
        let ends = version.map_or_else(|| r.is_empty(), |version| version < next);
        if ends {
            break;
        }
        body.version = next;
        match next {
            SchemaVersion::V1 => {}
            SchemaVersion::V2 => body.rename = r.nullable(source)?,
            SchemaVersion::V3 => body.jobid = r.nullable(Reader::string)?,
            SchemaVersion::V4 => body.extra = extra(r)?,
            SchemaVersion::V5 => {
                body.path = r.nullable(Reader::string)?;
                body.entry = r.nullable(entry)?;
                body.retracts = r.nullable(retracts)?;
            }
        }
    }
    Ok(body)
}

fn first<'a>(r: &mut Reader<'a>) -> Result<Body<'a>, DecodeErrorKind> {
    Ok(Body {
        version: SchemaVersion::V1,
        mdt: r.string()?,
        index: bits(r)?,
        incarnation: r.int_bits()?,
        symbol: match r.long()? {
            symbol @ 0..SYMBOLS => symbol as u8,
            _ => return Err(DecodeErrorKind::Symbol),
        },
        type_code: r.int_bits()?,
        time: Time::from_nanos(r.long()?),
        flags: r.number()?,
        tfid: fid(r)?,
        pfid: r.nullable(fid)?,
        name: r.nullable(Reader::string)?,
        name_raw: r.nullable(Reader::bytes)?,
        rename: None,
        jobid: None,
        extra: Extra::default(),
        path: None,
        entry: None,
        retracts: None,
    })
}

/// A long whose bits are an unsigned number.
fn bits(r: &mut Reader<'_>) -> Result<u64, DecodeErrorKind> {
    r.long().map(i64::cast_unsigned)
}

fn fid(r: &mut Reader<'_>) -> Result<Fid, DecodeErrorKind> {
    Ok(Fid { seq: bits(r)?, oid: r.number()?, ver: r.number()? })
}

fn source<'a>(r: &mut Reader<'a>) -> Result<Source<'a>, DecodeErrorKind> {
    Ok(Source {
        sfid: fid(r)?,
        spfid: fid(r)?,
        sname: r.nullable(Reader::string)?,
        sname_raw: r.nullable(Reader::bytes)?,
    })
}

fn extra<'a>(r: &mut Reader<'a>) -> Result<Extra<'a>, DecodeErrorKind> {
    Ok(Extra {
        extra_flags: r.nullable(bits)?,
        uid: r.nullable(bits)?,
        gid: r.nullable(bits)?,
        nid: r.nullable(Reader::string)?,
        open_mode: r.nullable(Reader::number)?,
        xattr: r.nullable(Reader::string)?,
    })
}

fn entry(r: &mut Reader<'_>) -> Result<Entry, DecodeErrorKind> {
    Ok(Entry {
        mode: r.int_bits()?,
        nlink: bits(r)?,
        uid: bits(r)?,
        gid: bits(r)?,
        size: bits(r)?,
        blocks: bits(r)?,
        atime: Time::from_nanos(r.long()?),
        mtime: Time::from_nanos(r.long()?),
        ctime: Time::from_nanos(r.long()?),
    })
}

fn retracts(r: &mut Reader<'_>) -> Result<Retracts, DecodeErrorKind> {
    Ok(Retracts { incarnation: r.int_bits()?, from: bits(r)?, to: bits(r)? })
}
