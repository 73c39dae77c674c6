//! The codec's figure: records a second through view and encode on one core, against apache-avro's serde writer.
//!
//! Both start from the same bytes of the kernel and end in the same bytes, which is asserted. apache-avro gets its
//! record filled by borrowing from the view, without any copy, and the faster of its two ways on this machine:
//! `Writer::append_ser` (straight from serde into its block buffer, even without a frame around each record) or
//! `to_value` and `to_avro_datum`. `codec_bench [RUNS]` prints one JSON object; medians of the runs.

use std::error::Error;
use std::hint::black_box;
use std::time::Duration;

use apache_avro::{Schema, Writer, to_avro_datum, to_value};
use clbridge_schemas::avro::{Additions, Encoder, Entry, Framing, Retracts, SchemaVersion, TypeSymbol, schema_json};
use clbridge_schemas::ids::MdtName;
use clbridge_schemas::lustre::{Fid, Nid, OwnedRename, Record, RecordType, Time, View, clfe, records};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::json;

const RECORDS: u64 = 20_000;
const MDT: &str = "lustre-MDT0000";
const VERSION: SchemaVersion = SchemaVersion::V5;
/// Bytes of single-object framing.
const FRAME: usize = 10;
/// Bytes of the marker that ends a container's block.
const SYNC_MARKER: usize = 16;
/// apache-avro's default size of a block.
const BLOCK: usize = 16_000;

/// The record of version 5 as a user of apache-avro would have it, borrowing what can be borrowed.
#[derive(Serialize)]
#[serde(rename = "ChangelogRecord")]
struct Borrowed<'a> {
    mdt: &'a str,
    index: i64,
    incarnation: i32,
    #[serde(rename = "type")]
    symbol: TypeSymbol,
    type_code: i32,
    time: i64,
    flags: i32,
    tfid: BorrowedFid,
    pfid: Option<BorrowedFid>,
    name: Option<&'a str>,
    name_raw: Option<&'a [u8]>,
    rename: Option<BorrowedRename<'a>>,
    jobid: Option<&'a str>,
    extra_flags: Option<i64>,
    uid: Option<i64>,
    gid: Option<i64>,
    nid: Option<&'a str>,
    open_mode: Option<i32>,
    xattr: Option<&'a str>,
    path: Option<&'a str>,
    entry: Option<Entry>,
    retracts: Option<Retracts>,
}

#[derive(Serialize)]
#[serde(rename = "Fid")]
struct BorrowedFid {
    seq: i64,
    oid: i64,
    ver: i64,
}

#[derive(Serialize)]
#[serde(rename = "Rename")]
struct BorrowedRename<'a> {
    sfid: BorrowedFid,
    spfid: BorrowedFid,
    sname: Option<&'a str>,
    sname_raw: Option<&'a [u8]>,
}

impl From<Fid> for BorrowedFid {
    fn from(fid: Fid) -> Self {
        Self { seq: fid.seq.cast_signed(), oid: i64::from(fid.oid), ver: i64::from(fid.ver) }
    }
}

/// `nid` is a buffer for the NID's text, used again.
fn borrowed<'a>(view: &View<'a>, nid: &'a mut Vec<u8>) -> Result<Borrowed<'a>, std::str::Utf8Error> {
    let text = |bytes: Option<&'a [u8]>| bytes.map(std::str::from_utf8).transpose();
    nid.clear();
    if let Some(value) = view.nid() {
        value.write_text(nid);
    }
    let rename = match view.rename() {
        None => None,
        Some(r) => {
            Some(BorrowedRename { sfid: r.sfid.into(), spfid: r.spfid.into(), sname: text(r.sname)?, sname_raw: None })
        }
    };
    Ok(Borrowed {
        mdt: MDT,
        index: view.index().cast_signed(),
        incarnation: 0,
        symbol: view.rtype().into(),
        type_code: view.rtype().0.cast_signed(),
        time: view.time().nanos(),
        flags: i32::from(view.flags()),
        tfid: view.tfid().into(),
        pfid: view.parent().map(Into::into),
        name: text(view.name())?,
        name_raw: None,
        rename,
        jobid: text(view.jobid())?,
        extra_flags: view.extra_flags().map(u64::cast_signed),
        uid: view.uid_gid().map(|(uid, _)| uid.cast_signed()),
        gid: view.uid_gid().map(|(_, gid)| gid.cast_signed()),
        nid: Some(std::str::from_utf8(nid)?),
        open_mode: view.open_mode().map(u32::cast_signed),
        xattr: text(view.xattr())?,
        path: None,
        entry: None,
        retracts: None,
    })
}

/// A usual stream: names of 20 bytes, job id, uid and gid, NID; creates, closes, unlinks, one rename in ten.
fn stream() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    for n in 1..=RECORDS {
        let rtype = match n % 10 {
            0 => RecordType::RENME,
            1..=3 => RecordType::CLOSE,
            4..=6 => RecordType::UNLNK,
            _ => RecordType::CREAT,
        };
        let fid = |oid: u64| Fid { seq: 0x2_0000_0401 + n / 4096, oid: oid as u32, ver: 0 };
        let time = Time::from_nanos(1_795_000_000_000_000_000 + n as i64 * 12_345);
        let mut record = Record::new(479_000 + n, rtype, time, fid(n % 4096 + 2));
        if rtype != RecordType::CLOSE {
            record.name = format!("output-{n:010}.da").into_bytes();
            record.pfid = fid(1);
        }
        if rtype == RecordType::RENME {
            record.rename = Some(OwnedRename {
                sfid: fid(n % 4096 + 1),
                spfid: fid(1),
                sname: Some(format!("output-{n:010}.tm").into_bytes()),
            });
        }
        record.jobid = Some(format!("mdtest.{}", n % 100).into_bytes());
        record.extra_flags = Some(clfe::NID_BE);
        record.uid_gid = Some((1000 + n % 50, 100));
        record.nid = Some(Nid::short(2, 0, 0x0a01_0200 + (n % 200) as u32));
        record.write(&mut bytes)?;
    }
    Ok(bytes)
}

/// What this thread has had of its core: what else the machine does is not in it.
fn cpu_time() -> Result<Duration, nix::Error> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from)
}

/// Records a second of one way through the whole stream.
fn timed(encode: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let start = cpu_time()?;
    encode()?;
    Ok(RECORDS as f64 / (cpu_time()? - start).as_secs_f64())
}

fn by_clbridge(encoder: &Encoder, stream: &[u8], out: &mut Vec<u8>) -> Result<(), Box<dyn Error>> {
    out.clear();
    for view in records(black_box(stream), 0) {
        encoder.encode(&view?, 0, Additions::default(), out);
    }
    black_box(out);
    Ok(())
}

fn by_serde(schema: &Schema, stream: &[u8], block: usize, out: &mut Vec<u8>) -> Result<(), Box<dyn Error>> {
    out.clear();
    let mut nid = Vec::new();
    let mut writer = Writer::builder().schema(schema).block_size(block).writer(out).build();
    for view in records(black_box(stream), 0) {
        writer.append_ser(borrowed(&view?, &mut nid)?)?;
    }
    black_box(writer.into_inner()?);
    Ok(())
}

fn by_value(schema: &Schema, stream: &[u8], out: &mut Vec<u8>) -> Result<(), Box<dyn Error>> {
    out.clear();
    let mut nid = Vec::new();
    for view in records(black_box(stream), 0) {
        Framing::SingleObject.write(VERSION, out);
        // Resolved, for numbers and the enum go into unions and logical types.
        let value = to_value(borrowed(&view?, &mut nid)?)?.resolve(schema)?;
        out.extend_from_slice(&to_avro_datum(schema, value)?);
    }
    black_box(out);
    Ok(())
}

/// All ways give the same bytes: the framed ones as they are, the container's block without the frames.
fn check(encoder: &Encoder, schema: &Schema, stream: &[u8]) -> Result<(), Box<dyn Error>> {
    let (mut ours, mut value, mut container) = (Vec::new(), Vec::new(), Vec::new());
    by_clbridge(encoder, stream, &mut ours)?;
    by_value(schema, stream, &mut value)?;
    assert!(ours == value, "apache-avro's values encode to other bytes");
    by_serde(schema, stream, 1 << 26, &mut container)?;
    let (mut bodies, mut framed) = (Vec::new(), Vec::new());
    for view in records(stream, 0) {
        framed.clear();
        encoder.encode(&view?, 0, Additions::default(), &mut framed);
        bodies.extend_from_slice(&framed[FRAME..]);
    }
    let block = &container[..container.len() - SYNC_MARKER];
    assert!(block.ends_with(&bodies), "apache-avro's serde writer has other bytes");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let runs: usize = std::env::args().nth(1).map_or(Ok(11), |n| n.parse())?;
    let stream = stream()?;
    let mdt: MdtName = MDT.parse()?;
    let schema = Schema::parse_str(schema_json(VERSION))?;
    let encoder = Encoder::new(&mdt, VERSION, Framing::SingleObject);
    check(&encoder, &schema, &stream)?;
    let (mut ours, mut serde, mut value) = (Vec::new(), Vec::new(), Vec::new());
    let mut out = Vec::new();
    for _ in 0..runs.max(1) {
        ours.push(timed(|| by_clbridge(&encoder, &stream, &mut out))?);
        serde.push(timed(|| by_serde(&schema, &stream, BLOCK, &mut out))?);
        value.push(timed(|| by_value(&schema, &stream, &mut out))?);
    }
    // The ratio within each run, so that a core that changes its speed between runs changes nothing.
    let over =
        ours.iter().zip(serde.iter().zip(&value)).map(|(ours, (serde, value))| ours / serde.max(*value)).collect();
    println!(
        "{}",
        json!({
            "codec.records_per_s": median(ours).round(),
            "codec.over_apache_avro": (median(over) * 100.0).round() / 100.0,
            "codec.apache_avro_serde_per_s": median(serde).round(),
            "codec.apache_avro_value_per_s": median(value).round(),
        })
    );
    Ok(())
}
