//! How fast records become durable in Kafka, and at what cost: the bridge against loops that have the payloads already.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mdt_sim::workload::Plan;

use crate::process::{Process, line};
use crate::report::Report;
use crate::setup::{Bench, Bridge, Sim};

/// What one way of publishing took.
struct Took {
    seconds: f64,
    cpu: f64,
    peak_mb: f64,
}

/// How often the bridge is asked how far it is. Each answer costs it a tenth of a millisecond.
const ASK: Duration = Duration::from_millis(10);
/// These runs are short, and other work on the machine disturbs them most: so many for each run that was asked for.
const REPEATED: usize = 3;
/// Longest time for one way.
const PATIENCE: Duration = Duration::from_secs(300);

/// All runs. The order within a run changes from run to run; a first, shorter one warms the broker up and is dropped.
pub fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let sim = bench.mdt_sim("rate")?;
    sim.control()?.emit(Plan::fill(bench.records, 1), true)?;
    let records = sim.last_index()?;
    eprintln!("bench: {records} records to Kafka, durable");
    looped(bench, &sim, &bench.named("warm"), "bare", records / 4, true)?;
    for n in 0..bench.runs * REPEATED {
        let (mut bridge, mut bare, mut base) = (None, None, None);
        for turn in 0..3 {
            match (turn + n) % 3 {
                0 => bare = Some(looped(bench, &sim, &bench.named(&format!("bare{n}")), "bare", records, true)?),
                1 => bridge = Some(bridged(bench, &sim, &bench.named(&format!("bridge{n}")), records)?),
                _ => base = Some(looped(bench, &sim, &bench.named(&format!("base{n}")), "base", records, true)?),
            }
        }
        let (bridge, bare, base) = (bridge.context("no turn")?, bare.context("no turn")?, base.context("no turn")?);
        let millions = records as f64 / 1e6;
        report.run(&[
            ("kafka.records_per_s", records as f64 / bridge.seconds),
            ("kafka.bare_records_per_s", records as f64 / bare.seconds),
            ("kafka.baseproducer_records_per_s", records as f64 / base.seconds),
            ("kafka.rate_over_bare", bare.seconds / bridge.seconds),
            ("kafka.rate_over_baseproducer", base.seconds / bridge.seconds),
            ("kafka.cpu_s_per_million", bridge.cpu / millions),
            ("kafka.bare_cpu_s_per_million", bare.cpu / millions),
            ("kafka.baseproducer_cpu_s_per_million", base.cpu / millions),
            ("kafka.cpu_over_bare", bridge.cpu / bare.cpu),
            ("kafka.rss_mb", bridge.peak_mb),
        ]);
    }
    Ok(())
}

/// The bridge, from its first read to the frontier behind the last record.
fn bridged(bench: &Bench, sim: &Sim, prefix: &str, records: u64) -> Result<Took> {
    let mut bridge: Bridge = bench.bridge(sim, prefix, "transactional")?;
    let began = Instant::now();
    // The last moment at which nothing had been read.
    let mut start = (Instant::now(), bridge.process.cpu()?);
    let mut reading = false;
    while began.elapsed() < PATIENCE {
        let at = (Instant::now(), bridge.process.cpu()?);
        if let Some(status) = bridge.status()? {
            if status["durable"].as_u64().unwrap_or(0) >= records {
                let took = Took {
                    seconds: start.0.elapsed().as_secs_f64(),
                    cpu: bridge.process.cpu()? - start.1,
                    peak_mb: bridge.process.peak_mb()?,
                };
                bridge.process.stop()?;
                return Ok(took);
            }
            reading |= status["read"].as_u64().unwrap_or(0) > 0;
        }
        if !reading {
            start = at;
        }
        std::thread::sleep(if reading { ASK } else { Duration::from_millis(1) });
    }
    bail!("the bridge has not published {records} records in {PATIENCE:?}")
}

/// A loop of the given role, while the simulated MDT serves the same records at the same rate to one who drops them.
fn looped(bench: &Bench, sim: &Sim, topic: &str, role: &str, records: u64, transactional: bool) -> Result<Took> {
    bench.make_topic(topic)?;
    let (data, id) = (sim.data.to_string(), if transactional { topic } else { "-" });
    let mut process = Process::child(&[role, &data, &bench.brokers, topic, id, &records.to_string()])?;
    let mut reader = Process::child(&["discard", &data])?;
    for child in [&mut reader, &mut process] {
        while line(&mut child.output)? != "ready" {}
    }
    let cpu = process.cpu()?;
    process.tell("go")?;
    let start = Instant::now();
    loop {
        let said = line(&mut process.output)?;
        if said == "done" {
            break;
        }
        reader.tell(said.trim_start_matches("at "))?;
    }
    Ok(Took { seconds: start.elapsed().as_secs_f64(), cpu: process.cpu()? - cpu, peak_mb: process.peak_mb()? })
}
