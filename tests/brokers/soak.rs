//! Everything at once, for as long as wished: three MDTs, three brokers, three groups, and faults drawn from a seed, one
//! upon another. In the first half the bridge itself is killed and stopped too; in the second half it lives through all
//! the rest, so that its memory and descriptors can be watched. `CLB_MINUTES`: how long (1 in `make test`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clbridge_tests::bridge::Options;
use clbridge_tests::proxy::Traffic;
use clbridge_tests::report;
use clbridge_tests::run::Run;
use clbridge_tests::sim::COMMIT_MS;
use clbridge_tests::tell;
use clbridge_tests::times::{minutes, rng, seed};
use mdt_sim::mdt::{Crash, Length};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::json;

/// Records a second over all MDTs.
const RATE: u64 = 900;
/// Between two looks at the bridge's process.
const LOOK: Duration = Duration::from_secs(10);
/// Growth in the second half that counts as none: the ledger's points, what fills up while a broker stands still.
const SLACK_KIB: u64 = 24 << 10;
/// A shorter run has no quarter in which every fault occurred, so its quarters say nothing of growth.
const MINUTES_TO_SEE_GROWTH: u64 = 8;
/// What docs/sizing.md promises for three MDTs of four partitions: `memory.limit`, the process, the MDTs.
const PROMISED_KIB: u64 = (256 + 20 + 3 * 3) << 10;
const SLACK_DESCRIPTORS: u64 = 40;

/// What can happen. What begins here may still last when the next thing happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    BridgeKilled,
    BridgeEnded,
    BridgeStopped,
    MemberKilled,
    MemberStopped,
    BrokerKilled,
    BrokerStalled,
    NetworkHeld,
    NetworkCut,
    MdtCrash,
    MdtCrashTwice,
}

use Fault::*;

/// Those that end the bridge's process, or stop it.
const OF_THE_BRIDGE: [Fault; 3] = [BridgeKilled, BridgeEnded, BridgeStopped];
const OF_THE_REST: [Fault; 8] =
    [MemberKilled, MemberStopped, BrokerKilled, BrokerStalled, NetworkHeld, NetworkCut, MdtCrash, MdtCrashTwice];

/// A look at the bridge's process.
struct Look {
    at_s: u64,
    second_half: bool,
    rss_kib: u64,
    descriptors: u64,
    threads: u64,
}

/// The run, its draws, and what was seen.
struct Soak {
    run: Run,
    rng: StdRng,
    began: Instant,
    half: Duration,
    looked: Option<Instant>,
    looks: Vec<Look>,
    faults: BTreeMap<String, u32>,
}

impl Soak {
    /// Lets time pass, and looks at the bridge now and then.
    fn pass(&mut self, seconds: f64) {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            let due = self.looked.is_none_or(|at| at.elapsed() >= LOOK);
            // One that has just been started shows nothing yet.
            if due && !self.run.bridge.has_ended() && self.run.bridge.process().figure("Threads") > 10 {
                self.looked = Some(Instant::now());
                let process = self.run.bridge.process();
                let look = Look {
                    at_s: self.began.elapsed().as_secs(),
                    second_half: self.began.elapsed() >= self.half,
                    rss_kib: process.memory_kib("VmRSS"),
                    descriptors: process.descriptors(),
                    threads: process.figure("Threads"),
                };
                if self.looks.len().is_multiple_of(6) {
                    tell!(
                        "{} s: resident {} MiB, {} descriptors, {} threads; {} records cleared, {} behind",
                        look.at_s,
                        look.rss_kib >> 10,
                        look.descriptors,
                        look.threads,
                        self.run.sim.cleared(),
                        self.run.sim.backlog()
                    );
                }
                self.looks.push(look);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn drawn(&mut self, from: f64, to: f64) -> f64 {
        self.rng.random_range(from..to)
    }

    /// One fault, or two at once.
    fn step(&mut self) {
        let bridge_too = self.began.elapsed() < self.half;
        let first = self.draw(bridge_too);
        // A process that stands still cannot be asked to end: of the bridge's own faults there is one at a time.
        let too = bridge_too && !OF_THE_BRIDGE.contains(&first);
        let second = self.rng.random_bool(0.3).then(|| self.draw(too)).filter(|f| *f != first);
        for fault in [Some(first), second].into_iter().flatten() {
            *self.faults.entry(format!("{fault:?}")).or_default() += 1;
            self.begin(fault);
        }
        let lasts = self.drawn(1.0, 9.0);
        self.pass(lasts);
        for fault in [second, Some(first)].into_iter().flatten() {
            self.end(fault);
        }
        let calm = self.drawn(2.0, 10.0);
        self.pass(calm);
    }

    fn draw(&mut self, bridge_too: bool) -> Fault {
        if bridge_too && self.rng.random_bool(0.35) {
            return OF_THE_BRIDGE[self.rng.random_range(0..OF_THE_BRIDGE.len())];
        }
        OF_THE_REST[self.rng.random_range(0..OF_THE_REST.len())]
    }

    fn begin(&mut self, fault: Fault) {
        match fault {
            BridgeKilled if !self.run.bridge.has_ended() => self.run.bridge.kill9(),
            BridgeEnded if !self.run.bridge.has_ended() => {
                self.run.bridge.terminate();
            }
            BridgeStopped if !self.run.bridge.has_ended() => self.run.bridge.process().stop(),
            BridgeKilled | BridgeEnded | BridgeStopped => {}
            MemberKilled => {
                let at = self.rng.random_range(0..self.run.members.len());
                let member = self.run.members.remove(at);
                let group = member.name().rsplit_once('-').unwrap().0.to_owned();
                member.kill9();
                self.run.join(&group, &[]);
            }
            MemberStopped => self.run.members[0].pause(),
            BrokerKilled => self.run.broker.one(1, "kill"),
            BrokerStalled => self.run.broker.one(2, "stall"),
            NetworkHeld => self.run.broker.traffic(Traffic::Held),
            NetworkCut => self.run.broker.traffic(Traffic::Cut),
            MdtCrash => self.crash(),
            MdtCrashTwice => {
                self.crash();
                self.crash();
            }
        }
    }

    fn end(&mut self, fault: Fault) {
        match fault {
            BridgeKilled | BridgeEnded | BridgeStopped => {
                if self.run.bridge.has_ended() {
                    self.run.bridge.start(None);
                } else {
                    self.run.bridge.process().go_on();
                }
            }
            MemberStopped => self.run.members.iter().for_each(|m| m.go_on()),
            BrokerKilled => self.run.broker.one(1, "restart"),
            BrokerStalled => self.run.broker.one(2, "continue"),
            NetworkHeld | NetworkCut => self.run.broker.traffic(Traffic::Passes),
            MemberKilled | MdtCrash | MdtCrashTwice => {}
        }
    }

    /// The MDT does not commit for a moment, less than the bridge's `clear.min_age`, and crashes.
    fn crash(&mut self) {
        let mdts = self.run.sim.mdts().to_vec();
        let mdt = &mdts[self.rng.random_range(0..mdts.len())];
        let length = [Length::Shorter, Length::Equal, Length::Longer][self.rng.random_range(0..3)];
        let how =
            Crash { down_s: self.drawn(2.2, 6.0), evict: self.rng.random(), replay: self.drawn(0.0, 1.0), length };
        self.run.sim.commit_interval(mdt, 0);
        self.run.sim.commit(mdt);
        std::thread::sleep(Duration::from_millis(COMMIT_MS));
        self.run.sim.crash(mdt, how);
        self.run.sim.commit_interval(mdt, COMMIT_MS);
    }

    /// The looks at the process that lived through the second half: those of the third quarter, and those of the last one.
    fn later(&self) -> (&[Look], &[Look]) {
        let later = &self.looks[self.looks.partition_point(|l| !l.second_half)..];
        later.split_at(later.len() / 2)
    }
}

/// The highest figure of these looks.
fn highest(looks: &[Look], figure: impl Fn(&Look) -> u64) -> u64 {
    looks.iter().map(figure).max().unwrap_or(0)
}

#[test]
fn nothing_is_lost_and_nothing_grows_while_everything_fails_at_once() {
    // given three MDTs, three brokers, three groups
    let options = Options {
        groups: vec!["robinhood", "lake", "audit"],
        more: "replication_factor = 3\nmin_insync = 2",
        by_proxy: true,
        ..Options::default()
    };
    let mut run = Run::on_cluster("soak", 3, &options);
    run.start();
    for group in ["robinhood", "robinhood", "lake", "audit"] {
        run.join(group, &[]);
    }
    run.sim.emit(0, RATE);
    run.cleared_beyond(3000);

    // when faults are drawn for as long as wished
    let whole = Duration::from_secs(minutes(1) * 60);
    let began = Instant::now();
    let mut soak =
        Soak { run, rng: rng(99), began, half: whole / 2, looked: None, looks: Vec::new(), faults: BTreeMap::new() };
    // (a busy machine may take most of a short run for one fault: it goes on until there is something to compare)
    while soak.began.elapsed() < whole || soak.later().0.len() < 2 {
        soak.step();
    }

    // then memory and descriptors did not grow in the half in which the process lived on
    let (third, fourth) = soak.later();
    let (rss, later_rss) = (highest(third, |l| l.rss_kib), highest(fourth, |l| l.rss_kib));
    let (open, later_open) = (highest(third, |l| l.descriptors), highest(fourth, |l| l.descriptors));
    let faults = soak.faults.values().sum();
    tell!("{faults} faults: {:?}", soak.faults);
    tell!(
        "third quarter: at most {} MiB, {open} descriptors; last quarter: {} MiB, {later_open}",
        rss >> 10,
        later_rss >> 10
    );
    let looks: Vec<_> = soak.looks.iter().map(|l| json!([l.at_s, l.rss_kib, l.descriptors, l.threads])).collect();
    report::write(
        "soak.json",
        &json!({
            "minutes": whole.as_secs() / 60, "seed": seed(), "rate": RATE, "faults": soak.faults,
            "third_quarter": {"rss_kib": rss, "descriptors": open},
            "last_quarter": {"rss_kib": later_rss, "descriptors": later_open},
            "columns": ["seconds", "rss_kib", "descriptors", "threads"], "looks": looks,
        }),
    );
    let most = highest(&soak.looks, |l| l.rss_kib);
    assert!(most <= PROMISED_KIB, "resident memory of {most} KiB is more than docs/sizing.md promises");
    let long_enough = whole >= Duration::from_secs(MINUTES_TO_SEE_GROWTH * 60);
    assert!(!long_enough || later_rss <= rss + SLACK_KIB, "resident memory grew from {rss} to {later_rss} KiB");
    assert!(later_open <= open + SLACK_DESCRIPTORS, "descriptors grew from {open} to {later_open}");

    // and nothing was lost, doubled, disordered or cleared early
    let run = soak.run;
    run.sim.emit_stop();
    run.finish("everything at once", faults, 0);
}
