//! How fast records become durable in a sink, and at what cost: the bridge against loops that have the payloads already.
//! The same for every sink; what differs is a [`Contest`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mdt_sim::workload::Plan;

use crate::process::{Process, line};
use crate::report::Report;
use crate::setup::{Bench, MDT, Sim};

/// A sink, and what the bridge is compared with on it. Every name that is used there begins with the one given.
pub trait Contest {
    /// What the keys of its figures begin with.
    fn name(&self) -> &'static str;

    /// Records of a run, by those that were asked for.
    fn records(&self, asked: u64) -> u64 {
        asked
    }

    /// Runs for each one that was asked for: short ones are disturbed most by other work on the machine.
    fn repeated(&self) -> usize {
        3
    }

    /// The loops that the bridge is compared with: how they are called in keys.
    fn rivals(&self) -> &'static [&'static str] {
        &["bare"]
    }

    /// The sink's table of the bridge's configuration.
    fn table(&self, name: &str) -> String;

    /// Prepares what a rival writes into; the words that its role gets behind the address of the simulated MDT and the
    /// number of records.
    fn prepare(&self, rival: &str, name: &str) -> Result<Vec<String>>;

    /// Takes away what the bridge and the rivals have left under this name, so that the next one finds what they found.
    fn clean(&self, name: &str) -> Result<()>;
}

/// What one way of publishing took.
struct Took {
    seconds: f64,
    cpu: f64,
    peak_mb: f64,
}

/// How often the bridge is asked how far it is. Each answer costs it a tenth of a millisecond.
const ASK: Duration = Duration::from_millis(10);
/// A start looks at the MDT before the first record is read to be published; it never reads so many.
const LOOKED_AT: u64 = 1000;
/// Longest time for one way.
const PATIENCE: Duration = Duration::from_secs(300);

/// All runs. The order within a run changes from run to run; a first, shorter one warms the broker up and is dropped.
pub fn run(bench: &Bench, contest: &dyn Contest, report: &mut Report) -> Result<()> {
    let (key, rivals) = (contest.name(), contest.rivals());
    let sim = bench.mdt_sim(key)?;
    sim.control()?.emit(Plan::fill(contest.records(bench.records), 1), true)?;
    let records = sim.last_index()?;
    eprintln!("bench: {key}: {records} records, durable");
    let way = |rival: &str, name: &str, records| {
        let took = if rival == "bridge" {
            bridged(bench, contest, &sim, name, records)
        } else {
            looped(contest, &sim, rival, name, records)
        };
        contest.clean(name)?;
        took
    };
    let name = |rival: &str, n: usize| bench.named(&format!("{}-{rival}{n}", key.replace('.', "-")));
    way(rivals[0], &name("warm", 0), records / 4)?;
    let ways: Vec<&str> = ["bridge"].into_iter().chain(rivals.iter().copied()).collect();
    for n in 0..bench.runs * contest.repeated() {
        let mut took: Vec<Option<Took>> = ways.iter().map(|_| None).collect();
        for turn in 0..ways.len() {
            let at = (turn + n) % ways.len();
            took[at] = Some(way(ways[at], &name(ways[at], n), records)?);
        }
        let took: Vec<Took> = took.into_iter().collect::<Option<_>>().context("no turn")?;
        let millions = records as f64 / 1e6;
        let bridge = &took[0];
        let mut figures = vec![
            (format!("{key}.records_per_s"), records as f64 / bridge.seconds),
            (format!("{key}.cpu_s_per_million"), bridge.cpu / millions),
            (format!("{key}.rss_mb"), bridge.peak_mb),
        ];
        for (rival, other) in rivals.iter().zip(&took[1..]) {
            figures.extend([
                (format!("{key}.{rival}_records_per_s"), records as f64 / other.seconds),
                (format!("{key}.{rival}_cpu_s_per_million"), other.cpu / millions),
                (format!("{key}.rate_over_{rival}"), other.seconds / bridge.seconds),
                (format!("{key}.cpu_over_{rival}"), bridge.cpu / other.cpu),
            ]);
        }
        report.run(&figures);
    }
    Ok(())
}

/// The bridge, from its first read to the frontier behind the last record.
fn bridged(bench: &Bench, contest: &dyn Contest, sim: &Sim, name: &str, records: u64) -> Result<Took> {
    let mut control = sim.control()?;
    let before = control.stats(MDT)?.records_read;
    let mut bridge = bench.bridge(sim, name, &contest.table(name))?;
    let began = Instant::now();
    // The last moment at which nothing had been read.
    let mut start = (Instant::now(), bridge.process.cpu()?);
    let mut reading = false;
    while began.elapsed() < PATIENCE {
        if !reading {
            let at = (Instant::now(), bridge.process.cpu()?);
            reading = control.stats(MDT)?.records_read > before + LOOKED_AT;
            if !reading {
                start = at;
            }
        }
        if let Some(status) = bridge.status()?
            && status["durable"].as_u64().unwrap_or(0) >= records
        {
            let took = Took {
                seconds: start.0.elapsed().as_secs_f64(),
                cpu: bridge.process.cpu()? - start.1,
                peak_mb: bridge.process.peak_mb()?,
            };
            bridge.process.stop()?;
            return Ok(took);
        }
        std::thread::sleep(if reading { ASK } else { Duration::from_millis(1) });
    }
    bail!("the bridge has not published {records} records in {PATIENCE:?}")
}

/// A rival, while the simulated MDT serves the same records at the same rate to one who drops them.
fn looped(contest: &dyn Contest, sim: &Sim, rival: &str, name: &str, records: u64) -> Result<Took> {
    let mut words = vec![format!("{}.{rival}", contest.name()), sim.data.to_string(), records.to_string()];
    words.extend(contest.prepare(rival, name)?);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut process = Process::child(&words)?;
    let mut reader = Process::child(&["discard", words[1]])?;
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
