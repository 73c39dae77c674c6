//! `make bench`: rates, ratios and latencies of the whole way of a record on this machine, as one table and as
//! `target/report/bench.json`.
//!
//! Every figure is the median of several runs, and every ratio is taken within one run: what is compared runs on the
//! same broker, minutes apart at most, with the same payloads and the same settings of the client. The bridge is the
//! release binary in a process of its own, and so is each loop that it is compared with, so that CPU is read alike,
//! from `/proc/PID/stat`. Nothing is asserted here: a figure that misses its bar is printed as missed.
//!
//! `bench [PART]...` takes parts alone: codec, sim, kafka, nats, amqp (one record a message, and packed), files,
//! latency (idle is measured with it), scale. `BENCH_RUNS` (3), `BENCH_RECORDS` (600000, for rates; a slower sink gets a
//! part of them) and `BENCH_SECONDS` (10, for latencies) set how long it takes; `KAFKA_BOOTSTRAP`, `NATS_URL` and
//! `AMQP_URL` name the brokers, as `tests/up run` sets them.

mod amqp;
mod bare;
mod base_producer;
mod child;
mod discard;
mod files;
mod kafka;
mod latency;
mod native;
mod nats;
mod payloads;
mod process;
mod rate;
mod report;
mod scale;
mod setup;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use amqp::Amqp;
use files::Files;
use kafka::Kafka;
use nats::Nats;
use report::Report;
use setup::Bench;

const PARTS: [&str; 8] = ["codec", "sim", "kafka", "nats", "amqp", "files", "latency", "scale"];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("child", rest)) = words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return child::run(rest);
    }
    for word in &words {
        ensure!(PARTS.contains(&word.as_str()), "{word} is no part: {}", PARTS.join(", "));
    }
    let wanted = |part: &str| words.is_empty() || words.iter().any(|w| w == part);
    let bench = Bench::from_environment()?;
    let mut report = Report::default();
    if wanted("codec") {
        example(&bench.examples.join("codec_bench"), &[bench.runs.max(3).to_string()], &mut report)?;
    }
    if wanted("sim") {
        example(&bench.examples.join("sim_bench"), &[bench.records.to_string()], &mut report)?;
    }
    if wanted("kafka") {
        rate::run(&bench, &Kafka { brokers: bench.server("KAFKA_BOOTSTRAP")? }, &mut report)?;
    }
    if wanted("nats") {
        rate::run(&bench, &Nats { url: bench.server("NATS_URL")? }, &mut report)?;
    }
    if wanted("amqp") {
        for per_message in [1, amqp::PACKED] {
            rate::run(&bench, &Amqp { uri: bench.server("AMQP_URL")?, per_message }, &mut report)?;
        }
    }
    if wanted("files") {
        rate::run(&bench, &Files { dir: bench.dir.path().to_owned() }, &mut report)?;
    }
    if wanted("latency") {
        latency::run(&bench, &mut report)?;
    }
    if wanted("scale") {
        scale::run(&mut report)?;
    }
    report.finish(&bench)
}

/// A benchmark of one crate, which prints its medians as one JSON object.
fn example(program: &Path, args: &[String], report: &mut Report) -> Result<()> {
    eprintln!("bench: {}", program.display());
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("{}: build the examples first, as `make bench` does", program.display()))?;
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&output.stdout)?;
    for (key, value) in figures {
        report.add(&key, value.as_f64().with_context(|| format!("{key} is no number"))?);
    }
    Ok(())
}
