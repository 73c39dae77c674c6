//! How fast the Kafka publisher takes and commits records that are encoded already.
//!
//! `kafka_publish_rate HOST:PORT [RECORDS] [transactional|idempotent] [COMMIT_MS] [PAYLOAD_BYTES]` prints records per
//! second, all of them durable, and this process's CPU seconds per million.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::lustre::RecordType;
use clbridge_sinks::kafka::{Delivery, KafkaConfig, KafkaSink};
use clbridge_sinks::{Durable, Message, Refused, Sink, State, TopicIx, TopicSpec};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let brokers = args.next().context("give a broker: HOST:PORT")?;
    let records: u64 = args.next().map_or(Ok(1_000_000), |a| a.parse())?;
    let delivery = match args.next().as_deref() {
        None | Some("transactional") => Delivery::Transactional,
        Some("idempotent") => Delivery::Idempotent,
        Some(other) => bail!("{other} is not a delivery mode"),
    };
    let commit = Duration::from_millis(args.next().map_or(Ok(100), |a| a.parse())?);
    let size: usize = args.next().map_or(Ok(150), |a| a.parse())?;

    let runtime = tokio::runtime::Runtime::new()?;
    let config = KafkaConfig {
        bootstrap_servers: brokers,
        topic_prefix: format!("rate{}", std::process::id()),
        delivery,
        ..KafkaConfig::default()
    };
    let sink = KafkaSink::new(config)?;
    let mdt: MdtName = format!("r{:07x}-MDT0000", std::process::id()).parse().map_err(|e| anyhow::anyhow!("{e}"))?;
    let spec = TopicSpec { mdt: mdt.clone(), feed: None, partitions: 4, max_message_bytes: 64 * 1024 };
    let topics = runtime.block_on(sink.prepare(&[spec], None))?;
    let mut publisher = runtime.block_on(sink.recover(&mdt, &topics))?.publisher;
    let mut state = State::first(mdt, "rate".to_owned());
    let atomic = sink.capabilities().atomic_state;

    // Payloads that compress about as changelog records do.
    let payloads: Vec<Vec<u8>> = (0..1024u64)
        .map(|i| {
            let words = (0u64..).map(|j| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(j as u32 * 7) & 0xffff_ffff);
            words.flat_map(u64::to_le_bytes).take(size).collect()
        })
        .collect();

    let (cpu, began) = (cpu_seconds()?, Instant::now());
    let mut sealed = began;
    let mut durable_to = 0;
    let mut commits = 0u64;
    let mut last = None;
    let mut index = 0;
    let mut open = false;
    while durable_to < records {
        let mut full = false;
        if index < records {
            let id = RecordId { incarnation: 1, index: NonZeroU64::MIN.saturating_add(index) };
            let payload = &payloads[(index % 1024) as usize];
            let key = (index / 3).to_le_bytes();
            let m = Message {
                topic: TopicIx(0),
                id,
                partition: (index % 4) as u32,
                kind: RecordType(1),
                time_ns: 0,
                key: Some(&key),
                payload,
                retracts: None,
            };
            match publisher.publish(&m) {
                Ok(()) => {
                    (index, last, open) = (index + 1, Some(id), true);
                }
                Err(Refused::Full) => full = true,
                Err(Refused::Dead(e)) => return Err(e.into()),
            }
        }
        if !(full || index.is_multiple_of(1000) || index == records) {
            continue;
        }
        if open && (sealed.elapsed() >= commit || full || index == records) {
            state.number += 1;
            match publisher.seal(last, atomic.then_some(&state)) {
                Ok(()) => (sealed, open, commits) = (Instant::now(), false, commits + 1),
                Err(Refused::Full) => {}
                Err(Refused::Dead(e)) => return Err(e.into()),
            }
        }
        let wait = if full || index == records { Duration::from_millis(5) } else { Duration::ZERO };
        publisher.poll(wait, &mut |d| {
            if let Durable::Frontier(id) = d {
                durable_to = id.index.get();
            }
        })?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds()? - cpu;
    ensure!(publisher.in_flight() == (0, 0), "something is still in flight");
    let per_million = 1e6 / records as f64;
    println!(
        "{delivery:?}: {:.0} records/s, {:.2} CPU s per million, {commits} batches, peak RSS {} MB",
        records as f64 / seconds,
        cpu * per_million,
        peak_rss_mb()?
    );
    Ok(())
}

/// User and system time of this process so far, of /proc/self/stat (fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("no fields")?.split_whitespace().collect();
    let ticks: u64 =
        fields.get(11).context("no utime")?.parse::<u64>()? + fields.get(12).context("no stime")?.parse::<u64>()?;
    Ok(ticks as f64 / 100.0)
}

fn peak_rss_mb() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? / 1024)
}
