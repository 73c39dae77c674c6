//! Avro object container files: a header with the schema, then blocks of records, each with its count and length and
//! closed by the file's own marker. Written and read without a schema library: bodies are already encoded.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;

use clbridge_schemas::avro::{Retracts, SchemaVersion, schema_json};

use super::config::Codec;
use crate::retraction::{RETRACTS_HEADER, read_header};

const MAGIC: &[u8; 4] = b"Obj\x01";
const SYNC: usize = 16;
/// A header is the schema and some words.
const HEADER_MAX: u64 = 128 << 10;
/// A block's longest content; beyond it a file is not one of ours.
const BLOCK_MAX: u64 = 1 << 30;
/// Zstandard's level: about deflate's size at a fraction of its time.
const ZSTD_LEVEL: i32 = 3;

/// What a file's header says.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) codec: Codec,
    pub(super) version: SchemaVersion,
    /// What every record in it makes void: a retraction has a file of its own.
    pub(super) retracts: Option<Retracts>,
    pub(super) sync: [u8; SYNC],
    /// Where the first block begins.
    pub(super) length: u64,
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    long(value.len() as i64, out);
    out.extend_from_slice(value);
}

fn take_long(data: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(first & 0x7f) << shift;
        if *first < 0x80 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

fn take_bytes<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_long(data)?).ok()?;
    let taken = data.get(..length)?;
    *data = data.get(length..)?;
    Some(taken)
}

impl Codec {
    fn avro_name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Deflate => "deflate",
            Self::Zstd => "zstandard",
        }
    }

    fn of_avro(name: &[u8]) -> Option<Self> {
        [Self::Null, Self::Deflate, Self::Zstd].into_iter().find(|c| c.avro_name().as_bytes() == name)
    }

    /// The content of a block of records whose bodies these are.
    pub(super) fn pack(self, records: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Null => Ok(records),
            Self::Deflate => {
                let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(&records)?;
                out.finish()
            }
            Self::Zstd => zstd::bulk::compress(&records, ZSTD_LEVEL),
        }
    }

    fn unpack(self, packed: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::Null => return Ok(packed),
            Self::Deflate => flate2::read::DeflateDecoder::new(&packed[..]).take(BLOCK_MAX).read_to_end(&mut out)?,
            Self::Zstd => zstd::stream::read::Decoder::new(&packed[..])?.take(BLOCK_MAX).read_to_end(&mut out)?,
        };
        Ok(out)
    }
}

/// The header of a new file, as it is written. `retracts`: the retraction's text, if it is to hold one.
pub(super) fn header(
    codec: Codec,
    version: SchemaVersion,
    retracts: Option<&str>,
) -> io::Result<(Vec<u8>, [u8; SYNC])> {
    let mut sync = [0; SYNC];
    File::open("/dev/urandom")?.read_exact(&mut sync)?;
    let mut meta: Vec<(&str, &[u8])> =
        vec![("avro.codec", codec.avro_name().as_bytes()), ("avro.schema", schema_json(version).as_bytes())];
    meta.extend(retracts.map(|text| (RETRACTS_HEADER, text.as_bytes())));
    let mut out = MAGIC.to_vec();
    long(meta.len() as i64, &mut out);
    for (key, value) in meta {
        bytes(key.as_bytes(), &mut out);
        bytes(value, &mut out);
    }
    long(0, &mut out);
    out.extend_from_slice(&sync);
    Ok((out, sync))
}

/// A block, as it is written; `content` as [`Codec::pack`] gave it.
pub(super) fn block(sync: &[u8; SYNC], count: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + SYNC + 20);
    long(count as i64, &mut out);
    bytes(content, &mut out);
    out.extend_from_slice(sync);
    out
}

/// Reads a file's header; `None` if it is not whole, and the reason if it is none of ours.
pub(super) fn read_header_of(file: &File) -> io::Result<Result<Option<Header>, String>> {
    let mut all = Vec::new();
    read_some(file, 0, HEADER_MAX, &mut all)?;
    if !all.starts_with(&MAGIC[..all.len().min(4)]) {
        return Ok(Err("is no Avro object container file".to_owned()));
    }
    let mut data = all.get(4..).unwrap_or_default();
    let Some(meta) = metadata(&mut data) else { return Ok(Ok(None)) };
    let Some(sync) = data.first_chunk::<SYNC>() else { return Ok(Ok(None)) };
    let length = (all.len() - data.len() + SYNC) as u64;
    let value = |key: &str| meta.iter().find(|(k, _)| *k == key.as_bytes()).map(|(_, v)| *v);
    let codec = value("avro.codec").map_or(Some(Codec::Null), Codec::of_avro);
    let schema = value("avro.schema").unwrap_or_default();
    let version = SchemaVersion::ALL.into_iter().find(|v| schema_json(*v).as_bytes() == schema);
    let retracts = value(RETRACTS_HEADER);
    let void = retracts.map(read_header);
    Ok(match (codec, version, void) {
        (None, ..) => Err("has a codec that clbridge never writes".to_owned()),
        (_, None, _) => Err("has a schema that clbridge never writes".to_owned()),
        (.., Some(None)) => Err(format!("its {RETRACTS_HEADER} cannot be understood")),
        (Some(codec), Some(version), void) => {
            Ok(Some(Header { codec, version, retracts: void.flatten(), sync: *sync, length }))
        }
    })
}

type Pairs<'a> = Vec<(&'a [u8], &'a [u8])>;

fn metadata<'a>(data: &mut &'a [u8]) -> Option<Pairs<'a>> {
    let mut pairs = Vec::new();
    loop {
        let count = take_long(data)?;
        if count == 0 {
            return Some(pairs);
        }
        if count < 0 {
            take_long(data)?;
        }
        for _ in 0..count.unsigned_abs() {
            pairs.push((take_bytes(data)?, take_bytes(data)?));
        }
    }
}

/// Where a block lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    /// How many records are in it.
    pub(super) count: u64,
    /// Where its content begins.
    content: u64,
    length: u64,
    /// Where the next one begins.
    pub(super) end: u64,
}

/// The block at `at`, if it ends at or before `limit`; only its ends are looked at.
pub(super) fn block_at(file: &File, header: &Header, at: u64, limit: u64) -> io::Result<Option<Block>> {
    let mut head = Vec::with_capacity(20);
    read_some(file, at, 20.min(limit.saturating_sub(at)), &mut head)?;
    let mut rest = &head[..];
    let (Some(count), Some(length)) = (take_long(&mut rest), take_long(&mut rest)) else { return Ok(None) };
    let (Ok(count), Ok(length)) = (u64::try_from(count), u64::try_from(length)) else { return Ok(None) };
    let content = at + (head.len() - rest.len()) as u64;
    let end = content.saturating_add(length).saturating_add(SYNC as u64);
    if length > BLOCK_MAX || end > limit {
        return Ok(None);
    }
    let mut mark = [0; SYNC];
    match file.read_exact_at(&mut mark, content + length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
        Ok(()) => Ok((mark == header.sync).then_some(Block { count, content, length, end })),
    }
}

/// The bodies of a block's records, one behind the other.
pub(super) fn bodies(file: &File, header: &Header, block: &Block) -> io::Result<Vec<u8>> {
    let mut packed = vec![0; block.length as usize];
    file.read_exact_at(&mut packed, block.content)?;
    header.codec.unpack(packed)
}

/// Up to `most` bytes from `at` on.
fn read_some(file: &File, at: u64, most: u64, out: &mut Vec<u8>) -> io::Result<()> {
    out.resize(most as usize, 0);
    let mut got = 0;
    while got < out.len() {
        match file.read_at(&mut out[got..], at + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    out.truncate(got);
    Ok(())
}
