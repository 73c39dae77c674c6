//! The simulated MDT's records as the bridge publishes them: the same bytes, keys, partitions and types, made beforehand.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Result, ensure};
use clbridge_schemas::avro::{Additions, Encoder, Framing, SchemaVersion};
use clbridge_schemas::key::{self, KeyKind};
use clbridge_schemas::lustre::{RecordType, records};
use mdt_sim::addr::Addr;
use mdt_sim::client::{Changelog, flags};

use crate::setup::{MDT, PARTITIONS};

/// Messages in order, their keys and payloads one behind the other.
pub struct Payloads {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    at: usize,
    key: u32,
    payload: u32,
    partition: u32,
    kind: RecordType,
    index: u64,
    time_ns: i64,
}

/// One message.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// The record's type.
    pub kind: RecordType,
    /// The record's index.
    pub index: u64,
    /// The record's time, nanoseconds since 1970.
    pub time_ns: i64,
    /// Its partition.
    pub partition: u32,
    /// Its key.
    pub key: &'a [u8],
    /// Its payload.
    pub payload: &'a [u8],
}

impl Payloads {
    /// The first `count` records of the MDT at `sim`.
    pub fn read(sim: &str, count: usize) -> Result<Self> {
        let addr: Addr = sim.parse()?;
        let mut log = Changelog::open(&addr, MDT, flags::READ | flags::NID_BE)?;
        let encoder = Encoder::new(&MDT.parse()?, SchemaVersion::V5, Framing::SingleObject);
        let mdt = MDT.parse()?;
        let partitions = NonZeroU32::new(PARTITIONS).unwrap_or(NonZeroU32::MIN);
        let mut made = Self { bytes: Vec::new(), entries: Vec::with_capacity(count) };
        let mut buf = vec![0; 64 << 10];
        while made.entries.len() < count {
            let got = log.read(&mut buf, Duration::from_secs(10))?;
            ensure!(got > 0, "mdt-sim has {} records, {count} are needed", made.entries.len());
            for view in records(&buf[..got], 0) {
                let view = view?;
                let at = made.bytes.len();
                key::key(KeyKind::Object, &view, &mdt, &mut made.bytes);
                let payload = made.bytes.len();
                let partition = key::partition(&made.bytes[at..], partitions);
                encoder.encode(&view, 1, Additions::default(), &mut made.bytes);
                made.entries.push(Entry {
                    at,
                    key: (payload - at) as u32,
                    payload: (made.bytes.len() - payload) as u32,
                    partition,
                    kind: view.rtype(),
                    index: view.index(),
                    time_ns: view.time().nanos(),
                });
            }
        }
        made.entries.truncate(count);
        Ok(made)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> + Clone {
        self.entries.iter().map(|e| {
            let (key, rest) = self.bytes[e.at..].split_at(e.key as usize);
            Message {
                kind: e.kind,
                index: e.index,
                time_ns: e.time_ns,
                partition: e.partition,
                key,
                payload: &rest[..e.payload as usize],
            }
        })
    }
}
