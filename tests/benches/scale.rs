//! One bridge at scale: 40 simulated MDTs and 5 groups; a start with a backlog of 10 million records for each group;
//! the time in which a group's progress is seen.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clbridge_schemas::lustre::{Fid, Record, RecordType, Time};
use clbridge_tests::bridge::{Bridge, Options};
use clbridge_tests::broker::Broker;
use clbridge_tests::scene::Scene;
use clbridge_tests::sim::Sim;
use clbridge_tests::sink::Sink;
use clbridge_tests::wait;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::report::Report;

/// MDTs of the wide run.
const MDTS: usize = 40;
/// Groups of every run.
const GROUPS: [&str; 5] = ["g1", "g2", "g3", "g4", "g5"];
/// Records a second and MDT in the wide run.
const RATE: u64 = 25;
/// What CPU is read over.
const WATCHED: Duration = Duration::from_secs(20);
/// MDTs of the deep run.
const DEEP_MDTS: usize = 4;
/// Records of the backlog over all MDTs of the deep run; each group has all of them before it.
const BACKLOG: u64 = 10_000_000;
/// Commits of which it is measured when they are seen.
const COMMITS: u64 = 40;
/// Bounds only a run that has gone wrong.
const PATIENCE: Duration = Duration::from_secs(600);

/// All parts.
pub fn run(report: &mut Report) -> Result<()> {
    wide(report)?;
    deep(report)
}

struct Stage {
    bridge: Bridge,
    sim: Sim,
    broker: Broker,
    scene: Scene,
}

impl Stage {
    fn new(name: &str, mdts: usize) -> Self {
        let scene = Scene::new(name, 1);
        let broker = Broker::shared(&scene, Sink::Kafka);
        let sim = Sim::start(&scene, mdts);
        let options = Options { groups: GROUPS.to_vec(), memory: "512MiB", ..Options::default() };
        let bridge = Bridge::new(&scene, &sim, &broker, &options);
        Self { bridge, sim, broker, scene }
    }

    /// Starts the bridge; the time until every MDT runs and every group is shown with all its positions.
    fn start(&mut self) -> f64 {
        let began = Instant::now();
        self.bridge.start(None);
        let mdts = self.sim.mdts().len();
        wait::until_true("every MDT runs and every group is shown", PATIENCE, || {
            self.bridge.running(mdts).is_some_and(|all| {
                all.iter().all(|m| {
                    m.groups.len() == GROUPS.len() && m.groups.iter().all(|g| g.committed.iter().all(Option::is_some))
                })
            })
        });
        began.elapsed().as_secs_f64()
    }

    /// Percent of one core that the bridge takes now.
    fn cpu_percent(&mut self) -> f64 {
        let (before, began) = (self.bridge.process().cpu_s(), Instant::now());
        std::thread::sleep(WATCHED);
        (self.bridge.process().cpu_s() - before) / began.elapsed().as_secs_f64() * 100.0
    }
}

/// 40 MDTs and 5 groups: what the process takes, idle and under a load.
fn wide(report: &mut Report) -> Result<()> {
    eprintln!("bench: {MDTS} MDTs, {} groups, idle, then {} records a second in all", GROUPS.len(), RATE * MDTS as u64);
    let mut stage = Stage::new("wide", MDTS);
    let start_s = stage.start();
    std::thread::sleep(Duration::from_secs(5));
    let idle = stage.cpu_percent();
    stage.sim.emit(0, RATE * MDTS as u64);
    std::thread::sleep(Duration::from_secs(5));
    let loaded = stage.cpu_percent();
    stage.sim.emit_stop();
    let process = stage.bridge.process();
    report.run(&[
        ("scale.mdts", MDTS as f64),
        ("scale.groups", GROUPS.len() as f64),
        ("scale.first_start_s", start_s),
        ("scale.idle_cpu_percent", idle),
        ("scale.loaded_records_per_s", (RATE * MDTS as u64) as f64),
        ("scale.loaded_cpu_percent", loaded),
        ("scale.rss_mb", process.memory_kib("VmRSS") as f64 / 1024.0),
        ("scale.peak_rss_mb", process.memory_kib("VmHWM") as f64 / 1024.0),
        ("scale.threads", process.figure("Threads") as f64),
        ("scale.descriptors", process.descriptors() as f64),
    ]);
    let ended = stage.bridge.terminate();
    ensure!(ended.success(), "the bridge ended with {ended}");
    stage.sim.stop();
    Ok(())
}

/// A start with a backlog of 10 million records for each of 5 groups, and how soon a commit is seen.
fn deep(report: &mut Report) -> Result<()> {
    eprintln!("bench: a backlog of {BACKLOG} records for each of {} groups", GROUPS.len());
    let mut stage = Stage::new("deep", DEEP_MDTS);
    stage.start();
    let (each, records) = (BACKLOG / DEEP_MDTS as u64, 1000);
    let file = stage.scene.dir().join("records.bin");
    std::fs::write(&file, captured(records))?;
    for mdt in stage.sim.mdts() {
        stage.sim.replay(mdt, &file, each / u64::from(records), 0);
    }
    wait::until_true("the backlog is published", PATIENCE, || {
        stage.bridge.running(DEEP_MDTS).is_some_and(|all| all.iter().all(|m| m.durable >= each))
    });
    let before = stage.bridge.process().memory_kib("VmHWM");
    stage.bridge.kill9();
    let start_s = stage.start();
    let lags = stage.bridge.running(DEEP_MDTS).context("it ran a moment ago")?;
    ensure!(
        lags.iter().all(|m| m.groups.iter().all(|g| g.lag_records >= each)),
        "a group lost some of its backlog over the restart"
    );
    let seen = progress_seen(&stage)?;
    let after = stage.bridge.process().memory_kib("VmHWM");
    report.run(&[
        ("scale.backlog_records_per_group", BACKLOG as f64),
        ("scale.backlog_start_s", start_s),
        ("scale.backlog_peak_rss_mb", before as f64 / 1024.0),
        ("scale.backlog_restarted_peak_rss_mb", after as f64 / 1024.0),
        ("scale.progress_seen_p50_ms", seen[seen.len() / 2]),
        ("scale.progress_seen_max_ms", seen[seen.len() - 1]),
    ]);
    let ended = stage.bridge.terminate();
    ensure!(ended.success(), "the bridge ended with {ended}");
    stage.sim.stop();
    Ok(())
}

/// Milliseconds from a commit to the moment when `status` shows it, lowest first; positions are polled every 100 ms.
fn progress_seen(stage: &Stage) -> Result<Vec<f64>> {
    let group = format!("{}-{}", stage.scene.name(), GROUPS[0]);
    let topic = format!("{}.{}", stage.scene.name(), stage.sim.mdts()[0]);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", stage.broker.at())
        .set("group.id", &group)
        .set("enable.auto.commit", "false")
        .create()?;
    let mut times = Vec::new();
    for commit in 1..=COMMITS {
        // Not in step with the polls.
        std::thread::sleep(Duration::from_millis(37 * commit % 200));
        let to = commit * 1000;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(to.cast_signed()))?;
        consumer.commit(&list, CommitMode::Sync)?;
        let began = Instant::now();
        wait::until_true("the commit is seen", PATIENCE, || {
            stage.bridge.status().is_some_and(|s| {
                s.mdts[0].groups.iter().any(|g| g.name == group && g.committed.first() == Some(&Some(to)))
            })
        });
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Records as a workload makes them, in the kernel's layout; a replay gives them new indexes and times.
fn captured(count: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 1..=count {
        let fid = Fid { seq: 0x2_0000_0401, oid: n, ver: 0 };
        let mut record = Record::new(u64::from(n), RecordType::CREAT, Time::from_nanos(1_700_000_000_000_000_000), fid);
        record.name = format!("file-{n}").into_bytes();
        record.jobid = Some(b"job.1000".to_vec());
        // A record of these few fields is never too long.
        let written = record.write(&mut bytes);
        debug_assert!(written.is_ok());
    }
    bytes
}
