//! How fast the NATS publisher takes records and makes them durable, over the bare client publishing the same payloads in
//! the best way known: expected sequences, an answer to every hundredth message, a window of 4000.
//!
//! `nats_publish_rate RECORDS [RUNS] [PAYLOAD_BYTES]` runs both in turn against NATS_URL and prints the medians as one
//! JSON object: records per second, CPU seconds of this process per million, and the ratio of the rates.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::stream::Config;
use async_nats::{HeaderMap, Subject, header};
use bytes::Bytes;
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::lustre::RecordType;
use clbridge_sinks::nats::{NatsConfig, NatsSink};
use clbridge_sinks::{Durable, Message, Refused, Sink, TopicIx, TopicSpec};
use futures_util::StreamExt;

/// Messages that the bare client has on their way, and how often it asks for an answer.
const WINDOW: u64 = 4000;
const ANSWER: u64 = 100;

/// Records per second, and CPU seconds of this process per million.
type Figures = (f64, f64);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let records: u64 = args.next().context("give a number of records")?.parse()?;
    let runs: usize = args.next().map_or(Ok(3), |a| a.parse())?;
    let size: usize = args.next().map_or(Ok(150), |a| a.parse())?;
    let url = std::env::var("NATS_URL").context("NATS_URL is not set: run it through tests/up run --with nats")?;
    // Payloads that compress about as changelog records do.
    let payloads: Vec<Bytes> = (0..1024u64)
        .map(|i| {
            let words = (0u64..).map(|j| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(j as u32 * 7) & 0xffff_ffff);
            words.flat_map(u64::to_le_bytes).take(size).collect()
        })
        .collect();
    let runtime = tokio::runtime::Runtime::new()?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let name = format!("rate{}x{run}", std::process::id());
        bare.push(measured(records, || runtime.block_on(publish_bare(&url, &name, records, &payloads)))?);
        ours.push(measured(records, || publish(&runtime, &url, &name, records, &payloads))?);
    }
    let ratios = ours.iter().zip(&bare).map(|(o, b)| o.0 / b.0).collect();
    let figures = serde_json::json!({
        "nats.records_per_second": median(ours.iter().map(|f| f.0).collect()),
        "nats.cpu_seconds_per_million": median(ours.iter().map(|f| f.1).collect()),
        "nats.bare_records_per_second": median(bare.iter().map(|f| f.0).collect()),
        "nats.bare_cpu_seconds_per_million": median(bare.iter().map(|f| f.1).collect()),
        "nats.rate_over_bare": median(ratios),
    });
    println!("{figures}");
    Ok(())
}

fn measured(records: u64, run: impl FnOnce() -> Result<()>) -> Result<Figures> {
    let (cpu, began) = (cpu_seconds()?, Instant::now());
    run()?;
    let rate = records as f64 / began.elapsed().as_secs_f64();
    Ok((rate, (cpu_seconds()? - cpu) * 1e6 / records as f64))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// The sink's publisher, sealed every 50 ms.
fn publish(runtime: &tokio::runtime::Runtime, url: &str, name: &str, records: u64, payloads: &[Bytes]) -> Result<()> {
    let sink = NatsSink::new(NatsConfig { servers: url.to_owned(), prefix: name.to_owned(), ..NatsConfig::default() })?;
    let mdt: MdtName = format!("{name}-MDT0000").parse().map_err(|e| anyhow::anyhow!("{e}"))?;
    let spec = TopicSpec { mdt: mdt.clone(), feed: None, partitions: 4, max_message_bytes: 64 * 1024 };
    let topics = runtime.block_on(sink.prepare(&[spec], None))?;
    let mut publisher = runtime.block_on(sink.recover(&mdt, &topics))?.publisher;
    let (mut index, mut durable_to, mut last, mut sealed) = (0, 0, None, Instant::now());
    while durable_to < records {
        let mut full = false;
        if index < records {
            let id = RecordId { incarnation: 1, index: NonZeroU64::MIN.saturating_add(index) };
            let m = Message {
                topic: TopicIx(0),
                id,
                partition: (index % 4) as u32,
                kind: RecordType(1),
                time_ns: 0,
                key: None,
                payload: &payloads[(index % 1024) as usize],
                retracts: None,
            };
            match publisher.publish(&m) {
                Ok(()) => (index, last) = (index + 1, Some(id)),
                Err(Refused::Full) => full = true,
                Err(Refused::Dead(e)) => return Err(e.into()),
            }
        }
        if !(full || index.is_multiple_of(1000) || index == records) {
            continue;
        }
        if last.is_some() && (sealed.elapsed() >= Duration::from_millis(50) || index == records) {
            match publisher.seal(last.take(), None) {
                Ok(()) => sealed = Instant::now(),
                Err(e) => return Err(e.into()),
            }
        }
        let wait = if full || index == records { Duration::from_millis(5) } else { Duration::ZERO };
        publisher.poll(wait, &mut |d| {
            if let Durable::Frontier(id) = d {
                durable_to = id.index.get();
            }
        })?;
    }
    ensure!(publisher.in_flight() == (0, 0), "something is still in flight");
    Ok(())
}

/// The bare client.
async fn publish_bare(url: &str, name: &str, records: u64, payloads: &[Bytes]) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let js = async_nats::jetstream::new(client.clone());
    let subjects = vec![format!("bare.{name}.*.*")];
    js.create_stream(Config { name: format!("bare_{name}"), subjects, ..Config::default() }).await?;
    let subject: Vec<Subject> = (0..4).map(|p| format!("bare.{name}.{p}.CREAT").into()).collect();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    let mut stored = 0;
    for index in 0..records {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, index.to_string());
        let (subject, payload) = (subject[(index % 4) as usize].clone(), payloads[(index % 1024) as usize].clone());
        if (index + 1).is_multiple_of(ANSWER) || index + 1 == records {
            client.publish_with_reply_and_headers(subject, inbox.clone(), headers, payload).await?;
        } else {
            client.publish_with_headers(subject, headers, payload).await?;
        }
        while index + 1 - stored >= WINDOW || (index + 1 == records && stored < records) {
            let answer = answers.next().await.context("the connection was closed")?;
            let ack: serde_json::Value = serde_json::from_slice(&answer.payload)?;
            stored = ack.get("seq").and_then(serde_json::Value::as_u64).with_context(|| ack.to_string())?;
        }
    }
    js.delete_stream(format!("bare_{name}")).await?;
    Ok(())
}

/// User and system time of this process so far, of /proc/self/stat (fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("no fields")?.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("too few fields")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) as f64 / 100.0)
}
