//! How long a record takes from its emission to a consumer at 5,000 a second, in both delivery modes, and what a bare
//! idempotent producer takes; what the bridge costs at that rate, and when nothing happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clbridge_schemas::avro::Head;
use mdt_sim::workload::Plan;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka;
use crate::process::{Process, line};
use crate::report::Report;
use crate::setup::{Bench, MDT, PARTITIONS, Sim};

/// Records a second.
const RATE: u64 = 5000;
/// What is emitted first counts for nothing: connections open, code is warmed up.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long an idle bridge is watched, and how long it is left alone before.
const IDLE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// All runs.
pub fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    eprintln!("bench: latency at {RATE} records a second");
    let brokers = bench.server("KAFKA_BOOTSTRAP")?;
    for n in 0..bench.runs {
        let bare = bare(bench, &brokers, &bench.named(&format!("paced{n}")))?;
        let idempotent = bridged(bench, &brokers, &bench.named(&format!("idempotent{n}")), "idempotent")?;
        let transactional = bridged(bench, &brokers, &bench.named(&format!("transactional{n}")), "transactional")?;
        report.run(&[
            ("latency.bare.p50_ms", bare.p50),
            ("latency.bare.p99_ms", bare.p99),
            ("latency.idempotent.p50_ms", idempotent.times.p50),
            ("latency.idempotent.p99_ms", idempotent.times.p99),
            ("latency.idempotent.p50_over_bare", idempotent.times.p50 / bare.p50),
            ("latency.idempotent.p99_over_bare", idempotent.times.p99 / bare.p99),
            ("latency.idempotent.cpu_percent", idempotent.cpu_percent),
            ("latency.transactional.p50_ms", transactional.times.p50),
            ("latency.transactional.p99_ms", transactional.times.p99),
            ("latency.transactional.cpu_percent", transactional.cpu_percent),
            // The mode that costs more.
            ("latency.cpu_percent", idempotent.cpu_percent.max(transactional.cpu_percent)),
            ("idle.cpu_percent", idempotent.idle_percent.max(transactional.idle_percent)),
        ]);
    }
    Ok(())
}

/// Milliseconds.
struct Times {
    p50: f64,
    p99: f64,
}

struct Bridged {
    times: Times,
    cpu_percent: f64,
    idle_percent: f64,
}

/// A bare idempotent producer at the same rate, with the same linger.
fn bare(bench: &Bench, brokers: &str, topic: &str) -> Result<Times> {
    let sim = bench.mdt_sim(topic)?;
    sim.control()?.emit(Plan::fill(10_000, 1), true)?;
    kafka::make_topic(brokers, topic)?;
    let seconds = bench.seconds + WARM_UP.as_secs();
    let mut process =
        Process::child(&["paced", &sim.data.to_string(), brokers, topic, &RATE.to_string(), &seconds.to_string()])?;
    while line(&mut process.output)? != "ready" {}
    let receiver =
        Receiver::start(brokers, topic, |payload| Some(i64::from_le_bytes(payload.first_chunk::<8>().copied()?)))?;
    process.tell("go")?;
    while line(&mut process.output)? != "done" {}
    receiver.finish(RATE * seconds)
}

/// The bridge over a simulated MDT that logs at that rate.
fn bridged(bench: &Bench, brokers: &str, prefix: &str, delivery: &str) -> Result<Bridged> {
    let sim = bench.mdt_sim(prefix)?;
    let mut bridge = bench.bridge(&sim, prefix, &kafka::table(brokers, prefix, delivery))?;
    let began = Instant::now();
    while bridge.status()?.is_none_or(|s| s["phase"]["phase"] != "running") {
        ensure!(began.elapsed() < PATIENCE, "the bridge does not run after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    let topic = format!("{prefix}.{MDT}");
    let receiver = Receiver::start(brokers, &topic, |payload| Some(Head::decode(payload).ok()?.time.nanos()))?;
    let emitting = emit(&sim, bench.seconds + WARM_UP.as_secs())?;
    std::thread::sleep(WARM_UP);
    let (cpu, start) = (bridge.process.cpu()?, Instant::now());
    std::thread::sleep(Duration::from_secs(bench.seconds).saturating_sub(Duration::from_millis(100)));
    let cpu_percent = (bridge.process.cpu()? - cpu) / start.elapsed().as_secs_f64() * 100.0;
    emitting.join().map_err(|_| anyhow::anyhow!("emitting"))??;
    let times = receiver.finish(sim.last_index()?)?;
    std::thread::sleep(IDLE.0);
    let (cpu, start) = (bridge.process.cpu()?, Instant::now());
    std::thread::sleep(IDLE.1);
    let idle_percent = (bridge.process.cpu()? - cpu) / start.elapsed().as_secs_f64() * 100.0;
    bridge.process.stop()?;
    Ok(Bridged { times, cpu_percent, idle_percent })
}

fn emit(sim: &Sim, seconds: u64) -> Result<JoinHandle<Result<()>>> {
    let mut control = sim.control()?;
    let plan = Plan { total: RATE * seconds, rate: RATE, ..Plan::default() };
    Ok(std::thread::spawn(move || control.emit(plan, true).map(drop).context("emitting")))
}

/// A consumer that notes when it gets what.
struct Receiver {
    thread: JoinHandle<Result<Vec<(i64, i64)>>>,
    got: Arc<std::sync::atomic::AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Receiver {
    /// Reads all of `topic` from now on; `emitted` finds the time of emission in a payload.
    fn start(brokers: &str, topic: &str, emitted: fn(&[u8]) -> Option<i64>) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", format!("{topic}.latency"))
            .set("enable.auto.commit", "false")
            .create()?;
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            all.add_partition_offset(topic, partition.cast_signed(), Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        let over = Arc::new(AtomicBool::new(false));
        let got = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (ended, count) = (Arc::clone(&over), Arc::clone(&got));
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
                let message = message?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as i64;
                let emitted = message.payload().and_then(emitted).context("a message without a time")?;
                seen.push((emitted, now - emitted));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(seen)
        });
        // The first fetch is under way before the first record is there.
        std::thread::sleep(Duration::from_millis(500));
        Ok(Self { thread, got, over })
    }

    /// Waits until `count` records are here; the percentiles of those behind the warm-up.
    fn finish(self, count: u64) -> Result<Times> {
        let began = Instant::now();
        while self.got.load(Ordering::Relaxed) < count && !self.thread.is_finished() {
            if began.elapsed() > PATIENCE {
                bail!("{} of {count} records have come", self.got.load(Ordering::Relaxed));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.over.store(true, Ordering::Relaxed);
        let seen = self.thread.join().map_err(|_| anyhow::anyhow!("the consumer"))??;
        let first = seen.iter().map(|(at, _)| *at).min().context("nothing came")? + WARM_UP.as_nanos() as i64;
        let mut times: Vec<i64> = seen.iter().filter(|(at, _)| *at >= first).map(|(_, took)| *took).collect();
        times.sort_unstable();
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).map(|t| *t as f64 / 1e6);
        Ok(Times { p50: at(0.5).context("nothing came")?, p99: at(0.99).context("nothing came")? })
    }
}
