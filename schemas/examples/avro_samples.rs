//! Samples for other Avro implementations: `avro_samples OUT [CAPTURE]` encodes the records of a capture (default:
//! the one with all types and odd names), and a retraction, in every schema version with single-object framing.
//!
//! For version V it writes OUT/vV.bin (each payload behind its length, u32 little-endian), OUT/vV.jsonl (the expected
//! fields of each, one JSON object a line, bytes as arrays of numbers) and OUT/vV.avsc.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use clbridge_schemas::avro::{
    Additions, ChangelogRecord, Encoder, Entry, Framing, Retraction, Retracts, SchemaVersion, schema_json,
};
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::lustre::{Time, View, records};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let out = args.next().ok_or("usage: avro_samples OUT [CAPTURE]")?;
    let capture = args.next().unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/lustre/p2-main-all-mask.MDT0000.ioctl-0x1e.bin")
    });
    let bytes = fs::read(capture)?;
    let views = records(&bytes, 0).collect::<Result<Vec<_>, _>>()?;
    fs::create_dir_all(&out)?;
    for version in SchemaVersion::ALL {
        let name = format!("v{version}");
        fs::write(out.join(format!("{name}.avsc")), schema_json(version))?;
        let mut bin = fs::File::create(out.join(format!("{name}.bin")))?;
        let mut jsonl = fs::File::create(out.join(format!("{name}.jsonl")))?;
        for payload in payloads(&views, version)? {
            bin.write_all(&u32::try_from(payload.len())?.to_le_bytes())?;
            bin.write_all(&payload)?;
            serde_json::to_writer(&mut jsonl, &ChangelogRecord::decode(&payload)?)?;
            jsonl.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn payloads(views: &[View<'_>], version: SchemaVersion) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mdt: MdtName = "lustre-MDT0000".parse()?;
    let encoder = Encoder::new(&mdt, version, Framing::SingleObject);
    let entry = Entry { mode: 0o100_644, nlink: 1, size: 4096, blocks: 8, ..Entry::default() };
    let mut payloads = Vec::new();
    for (n, view) in views.iter().enumerate() {
        // Every third has what modules add.
        let additions =
            if n % 3 == 0 { Additions { path: Some("/home/é"), entry: Some(&entry) } } else { Additions::default() };
        let mut payload = Vec::new();
        encoder.encode(view, 1, additions, &mut payload);
        payloads.push(payload);
    }
    let mut payload = Vec::new();
    let retraction = Retraction {
        at: RecordId::new(2, NonZeroU64::MIN),
        time: Time::from_nanos(1_795_000_000_000_000_001),
        void: Retracts { incarnation: 1, from: 1, to: 9 },
    };
    encoder.encode_retraction(&retraction, &mut payload);
    payloads.push(payload);
    Ok(payloads)
}
