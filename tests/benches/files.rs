//! Files: against the plainest writer of Avro files that loses nothing: blocks of the same size, packed alike, the file
//! synced as often.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clbridge_schemas::avro::{SchemaVersion, framing_of, schema_json};
use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::child::{done, ready, say};
use crate::payloads::Payloads;
use crate::rate::Contest;
use crate::setup::{SEAL_BYTES, SEAL_MS};

/// Bytes of a block before it is packed: the bridge's default.
const BLOCK_BYTES: usize = 64 << 10;
/// Ends the header and each block.
const MARKER: [u8; 16] = *b"clbridge's bench";

/// A folder.
pub struct Files {
    /// Holds a folder for each run, on the disk that both sides write.
    pub dir: PathBuf,
}

impl Files {
    fn of(&self, name: &str) -> PathBuf {
        self.dir.join(format!("files-{name}"))
    }
}

impl Contest for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn records(&self, asked: u64) -> u64 {
        // A second's work.
        asked * 2
    }

    fn table(&self, name: &str) -> String {
        format!("[sink.files]\ndir = \"{}\"\n", self.of(name).display())
    }

    fn prepare(&self, _rival: &str, name: &str) -> Result<Vec<String>> {
        let dir = self.of(name);
        fs::create_dir_all(&dir)?;
        Ok(vec![dir.join("bare.avro").display().to_string()])
    }

    fn clean(&self, name: &str) -> Result<()> {
        fs::remove_dir_all(self.of(name)).with_context(|| format!("removing what {name} wrote"))
    }
}

fn long(value: usize, out: &mut Vec<u8>) {
    let mut rest = value << 1;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    long(value.len(), out);
    out.extend_from_slice(value);
}

fn header() -> Vec<u8> {
    let mut out = b"Obj\x01".to_vec();
    long(2, &mut out);
    for (key, value) in [("avro.codec", "deflate"), ("avro.schema", schema_json(SchemaVersion::V5))] {
        bytes(key.as_bytes(), &mut out);
        bytes(value.as_bytes(), &mut out);
    }
    long(0, &mut out);
    out.extend_from_slice(&MARKER);
    out
}

/// Writes a block of so many records and empties it.
fn put(file: &mut File, count: &mut usize, block: &mut Vec<u8>) -> Result<()> {
    if *count == 0 {
        return Ok(());
    }
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(block)?;
    let mut out = Vec::with_capacity(BLOCK_BYTES / 2);
    long(*count, &mut out);
    bytes(&packed.finish()?, &mut out);
    out.extend_from_slice(&MARKER);
    file.write_all(&out)?;
    block.clear();
    *count = 0;
    Ok(())
}

/// Writes `records` payloads into the file at `path`, as often durable as the bridge seals.
pub fn rate(sim: &str, records: usize, path: &str) -> Result<()> {
    let payloads = Payloads::read(sim, records)?;
    let mut file = File::create_new(path)?;
    file.write_all(&header())?;
    file.sync_all()?;
    File::open(Path::new(path).parent().context("a file has a folder")?)?.sync_all()?;
    ready()?;
    let (mut block, mut count) = (Vec::with_capacity(BLOCK_BYTES + 1024), 0);
    let mut open: Option<(usize, Instant)> = None;
    for (n, m) in (1..).zip(payloads.iter()) {
        let (_, version, body) = framing_of(m.payload)?;
        ensure!(version == Some(SchemaVersion::V5), "a payload of another schema");
        let (sealed, since) = open.get_or_insert_with(|| (0, Instant::now()));
        *sealed += m.key.len() + m.payload.len();
        let seal = *sealed >= SEAL_BYTES || (n % 256 == 0 && since.elapsed() >= Duration::from_millis(SEAL_MS));
        block.extend_from_slice(&m.payload[body..]);
        count += 1;
        if block.len() >= BLOCK_BYTES {
            put(&mut file, &mut count, &mut block)?;
        }
        if seal || n == records {
            put(&mut file, &mut count, &mut block)?;
            file.sync_data()?;
            open = None;
        }
        if n % 8192 == 0 {
            say(&format!("at {n}"))?;
        }
    }
    done()
}
