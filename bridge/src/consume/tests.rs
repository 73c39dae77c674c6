#![allow(clippy::unwrap_used)]
use super::*;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use clbridge_schemas::avro::{Additions, Encoder, Framing, Retraction, Retracts};
use clbridge_schemas::ids::RecordId;
use clbridge_schemas::lustre::Time;
use clbridge_sinks::Position;
use tokio::sync::Notify;

/// Hands out batches of one and notes what was acknowledged.
struct Fake {
    batches: VecDeque<Batch>,
    done: Vec<u64>,
    /// So often the broker cannot answer first.
    away: u32,
    /// Told when everything was handed out.
    over: Arc<Notify>,
}

#[async_trait]
impl Consumer for Fake {
    async fn next(&mut self, max: usize, _: Duration) -> Result<Batch, SinkError> {
        if self.away > 0 {
            self.away -= 1;
            return Err(SinkError::Unavailable { what: "group".into(), why: "away".into() });
        }
        let Some(mut batch) = self.batches.pop_front() else {
            self.over.notify_one();
            std::future::pending().await
        };
        batch.records.truncate(max);
        Ok(batch)
    }

    async fn done(&mut self, batch: &Batch) -> Result<(), SinkError> {
        self.done.extend(batch.records.iter().map(|r| r.at.offset));
        Ok(())
    }
}

/// Takes so many bytes, then behaves as a pipe whose reader is gone.
#[derive(Clone)]
struct Pipe {
    taken: Arc<Mutex<Vec<u8>>>,
    room: usize,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = self.taken.lock().unwrap();
        if taken.len() + bytes.len() > self.room {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        taken.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn record(index: u64, rtype: RecordType) -> Record {
    Record {
        index,
        rtype,
        time: Time::from_nanos(1_795_367_193_495_754_041),
        tfid: Fid { seq: 0x2_0000_0402, oid: 7, ver: 0 },
        pfid: Fid { seq: 0x2_0000_0007, oid: 1, ver: 0 },
        name: b"caf\xe9".to_vec(),
        jobid: Some(b"cp.0".to_vec()),
        uid_gid: Some((500, 501)),
        nid: Some(Nid::default()),
        ..Record::default()
    }
}

fn payload(record: &Record) -> (Vec<u8>, String) {
    let (mut kernel, mut line, mut out) = (Vec::new(), Vec::new(), Vec::new());
    record.write(&mut kernel).unwrap();
    let view = View::new(&kernel, 0).unwrap();
    text::lfs_line(&view, &mut line);
    let mdt = "fs-MDT0000".parse().unwrap();
    Encoder::new(&mdt, SchemaVersion::V5, Framing::SingleObject).encode(&view, 1, Additions::default(), &mut out);
    (out, String::from_utf8_lossy(&line).into_owned())
}

fn fake(types: &[RecordType]) -> (Fake, Vec<String>) {
    let (payloads, lines): (Vec<_>, Vec<_>) = (1u64..).zip(types).map(|(index, t)| payload(&record(index, *t))).unzip();
    let batch = |(offset, payload)| Batch {
        records: vec![Consumed {
            topic: "lustre.fs-MDT0000".into(),
            at: Position { partition: 0, offset },
            key: None,
            payload,
            retracts: None,
        }],
    };
    (
        Fake { batches: (0u64..).zip(payloads).map(batch).collect(), done: Vec::new(), away: 0, over: Arc::default() },
        lines,
    )
}

async fn run(fake: &mut Fake, format: Format, room: usize, select: Selection) -> (anyhow::Result<u64>, Vec<u8>) {
    let pipe = Pipe { taken: Arc::default(), room };
    let output = Output::new(format, Box::new(pipe.clone())).unwrap();
    let over = fake.over.clone();
    let result = consume(fake, output, select, async move { over.notified().await }).await;
    let taken = pipe.taken.lock().unwrap().clone();
    (result, taken)
}

fn all() -> Selection {
    Selection { types: TypeSet::ALL, mdts: Vec::new(), max: None }
}

const TWO: [RecordType; 2] = [RecordType::CREAT, RecordType::UNLNK];

#[tokio::test]
async fn the_lfs_form_is_what_lfs_changelog_would_have_printed() {
    let (mut consumer, lines) = fake(&TWO);
    let (result, out) = run(&mut consumer, Format::Lfs, usize::MAX, all()).await;
    assert_eq!(result.unwrap(), 2);
    assert_eq!(String::from_utf8_lossy(&out), lines.concat());
    assert_eq!(consumer.done, [0, 1]);
}

#[tokio::test]
async fn the_json_form_is_one_object_a_line_with_mdt_and_incarnation() {
    let (mut consumer, _) = fake(&TWO);
    let (_, out) = run(&mut consumer, Format::Json, usize::MAX, all()).await;
    let out = String::from_utf8(out).unwrap();
    let first: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!((&first["mdt"], &first["incarnation"], &first["index"]), (&"fs-MDT0000".into(), &1.into(), &1.into()));
    assert_eq!((&first["type"], &first["name_raw"]), (&"CREAT".into(), &"636166e9".into()));
    assert_eq!(out.lines().count(), 2);
}

#[tokio::test]
async fn a_retraction_below_schema_version_5_shows_what_the_message_says_beside_its_payload() {
    let (mut consumer, _) = fake(&TWO[..1]);
    let void = Retracts { incarnation: 1, from: 8, to: 12 };
    let at = RecordId { incarnation: 2, index: std::num::NonZeroU64::new(8).unwrap() };
    let retraction = Retraction { at, time: Time::from_nanos(0), void };
    let mdt = "fs-MDT0000".parse().unwrap();
    let message = &mut consumer.batches[0].records[0];
    message.payload.clear();
    Encoder::new(&mdt, SchemaVersion::V4, Framing::SingleObject).encode_retraction(&retraction, &mut message.payload);
    message.retracts = Some(void);
    let (_, out) = run(&mut consumer, Format::Json, usize::MAX, all()).await;
    let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((&line["type"], &line["incarnation"]), (&"MARK".into(), &2.into()));
    assert_eq!(line["retracts"], serde_json::json!({ "incarnation": 1, "from": 8, "to": 12 }));
}

#[tokio::test]
async fn the_avro_form_is_a_container_file_that_reads_back() {
    let (mut consumer, _) = fake(&TWO);
    let (result, out) = run(&mut consumer, Format::Avro, usize::MAX, all()).await;
    assert_eq!(result.unwrap(), 2);
    let read: Vec<ChangelogRecord> = apache_avro::Reader::new(out.as_slice())
        .unwrap()
        .map(|value| apache_avro::from_value(&value.unwrap()).unwrap())
        .collect();
    assert_eq!(read.iter().map(|r| r.index).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(read[0].name_raw.as_deref(), Some(b"caf\xe9".as_slice()));
}

#[tokio::test]
async fn what_a_closed_pipe_did_not_take_is_not_acknowledged_and_that_is_no_error() {
    for format in [Format::Lfs, Format::Json, Format::Avro] {
        let (mut consumer, _) = fake(&TWO);
        let (result, _) = run(&mut consumer, format, 10, all()).await;
        assert_eq!(result.unwrap(), 0, "{format:?}");
        assert!(consumer.done.is_empty(), "{format:?}");
    }
}

#[tokio::test]
async fn records_of_other_types_are_acknowledged_without_being_written_but_marks_are_written() {
    let (mut consumer, lines) = fake(&[RecordType::CREAT, RecordType::MARK, RecordType::UNLNK]);
    let select = Selection { types: TypeSet::of_names(&["UNLNK"]).unwrap(), ..all() };
    let (result, out) = run(&mut consumer, Format::Lfs, usize::MAX, select).await;
    assert_eq!(result.unwrap(), 2);
    assert!(String::from_utf8_lossy(&out).ends_with(&lines[2]));
    assert_eq!(consumer.done, [0, 1, 2]);
}

#[tokio::test]
async fn max_ends_it_after_that_many_and_acknowledges_no_more() {
    let (mut consumer, _) = fake(&[RecordType::CREAT; 5]);
    let (result, _) = run(&mut consumer, Format::Lfs, usize::MAX, Selection { max: Some(3), ..all() }).await;
    assert_eq!(result.unwrap(), 3);
    assert_eq!(consumer.done, [0, 1, 2]);
}

#[tokio::test]
async fn a_foreign_message_is_an_error_that_names_where_and_is_not_acknowledged() {
    let (mut consumer, _) = fake(&TWO);
    consumer.batches[0].records[0].payload = b"hello".to_vec();
    let (result, _) = run(&mut consumer, Format::Lfs, usize::MAX, all()).await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains("lustre.fs-MDT0000 partition 0 position 0"), "{error}");
    assert!(consumer.done.is_empty());
}

#[tokio::test]
async fn a_broker_that_is_away_for_a_while_is_asked_again() {
    let (mut consumer, _) = fake(&TWO);
    consumer.away = 1;
    let (result, _) = run(&mut consumer, Format::Lfs, usize::MAX, all()).await;
    assert_eq!(result.unwrap(), 2);
}
