//! An MDT crash that takes back records that were published already, and gives their indexes to others. What varies is
//! drawn from the seed: how much is replayed, how long the new log is, how long the MDT is away, whether readers are
//! thrown out.

use std::time::{Duration, Instant};

use clbridge_tests::bridge::Options;
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::sim::COMMIT_MS;
use clbridge_tests::sink::Sink;
use clbridge_tests::times::{rng, times};
use clbridge_tests::{tell, wait};
use mdt_sim::mdt::{Crash, Length};
use rand::Rng;
use rand::rngs::StdRng;

/// The MDT that crashes.
fn victim(run: &Run) -> String {
    run.sim.mdts()[0].clone()
}

/// How often a crash is tried on a busy machine.
const TRIES: u32 = 20;

/// Every length of the new log.
const LENGTHS: [Length; 3] = [Length::Shorter, Length::Equal, Length::Longer];

/// What is drawn in a run, and how often each length was.
struct Draws {
    rng: StdRng,
    lengths: [u32; 3],
}

impl Draws {
    /// A crash of at least two seconds, the quickest that a real MDT's recovery is.
    fn crash(&mut self) -> Crash {
        let length = LENGTHS[self.rng.random_range(0..3)];
        self.crash_with(length)
    }

    /// As [`Draws::crash`], with a new log of this length.
    fn crash_with(&mut self, length: Length) -> Crash {
        self.lengths[LENGTHS.iter().position(|one| *one == length).unwrap()] += 1;
        let rng = &mut self.rng;
        Crash { down_s: rng.random_range(2.2..4.0), evict: rng.random(), replay: rng.random_range(0.0..1.0), length }
    }

    fn told(&self) -> String {
        let [shorter, equal, longer] = self.lengths;
        format!("new log shorter {shorter}, equal {equal}, longer {longer} times")
    }
}

/// Ends the commits of the MDT. From here to the crash less than the bridge's `clear.min_age` may pass.
fn hold_commits(run: &Run) -> u64 {
    let mdt = victim(run);
    run.sim.commit_interval(&mdt, 0);
    run.sim.commit(&mdt);
    run.sim.stats(&mdt).committed_index
}

fn crash(run: &Run, how: Crash) {
    let mdt = victim(run);
    let report = run.sim.crash(&mdt, how);
    run.sim.commit_interval(&mdt, COMMIT_MS);
    tell!(
        "{mdt} crashed for {:.1} s: {} records behind {} taken back, {} replayed, {} others followed ({:?}), clears taken back: {:?}",
        how.down_s,
        report.lost,
        report.committed_index,
        report.replayed,
        report.fresh,
        how.length,
        report.clears
    );
    assert!(report.lost > 0, "the crash took nothing back");
}

/// Ends the commits of the MDT, as [`hold_commits`]; returns the last index committed when something behind it is
/// published.
fn publish_uncommitted(run: &Run) -> u64 {
    let committed = hold_commits(run);
    let mdts = run.sim.mdts().len();
    wait::until_true("records behind the commit point are published", PATIENCE, || {
        run.bridge.running(mdts).is_some_and(|mdts| mdts[0].durable > committed + 50)
    });
    committed
}

/// Crashes the MDT when it has published what is not committed; `amid` happens between the last commit and the crash.
/// Where that takes the machine so long that something behind the commit point is stable or cleared, which an MDT that
/// commits once in `clear.min_age` does not see, it is undone and tried again.
fn crash_uncommitted(run: &mut Run, how: Crash, amid: impl FnMut(&mut Run), undo: impl FnMut(&mut Run)) {
    reach_uncommitted(run, amid, undo);
    crash(run, how);
}

/// All of [`crash_uncommitted`] but the crash.
fn reach_uncommitted(run: &mut Run, mut amid: impl FnMut(&mut Run), mut undo: impl FnMut(&mut Run)) {
    let mdt = victim(run);
    for _ in 0..TRIES {
        let committed = publish_uncommitted(run);
        // A dead bridge says nothing, and makes nothing stable.
        let stable = |run: &Run| run.bridge.status().and_then(|s| s.mdts.first().map(|m| m.stable)).unwrap_or(0);
        let before = stable(run);
        amid(run);
        let safe = before.max(stable(run)).max(run.sim.stats(&mdt).cleared.unwrap_or(0));
        if safe <= committed {
            return;
        }
        tell!("too slow: {safe} is stable or cleared, and only {committed} committed; once more");
        run.sim.commit_interval(&mdt, COMMIT_MS);
        undo(run);
    }
    panic!("in {TRIES} tries the machine was too slow to crash an MDT within clear.min_age");
}

/// Nothing happens, or has to be undone.
fn nothing(_: &mut Run) {}

/// The incarnation of the MDT that crashes.
fn incarnation(run: &Run) -> u32 {
    run.running()[0].incarnation
}

/// Waits until the MDT has begun a later incarnation, and it is shown, and something of it is durable, and clears go on.
/// Returns the milliseconds until the first.
fn noticed(run: &Run, before: u32, since: Instant) -> u64 {
    let mdts = run.sim.mdts().len();
    wait::until_true("the crash was noticed", PATIENCE, || {
        run.bridge.running(mdts).is_some_and(|mdts| mdts[0].incarnation > before)
    });
    let ms = u64::try_from(since.elapsed().as_millis()).unwrap();
    // Behind its retraction: a bridge that dies before that one is durable begins the incarnation again.
    let newest = run.sim.stats(&victim(run)).last_index;
    wait::until_true("records of the new incarnation are durable", PATIENCE, || {
        run.bridge.running(mdts).is_some_and(|mdts| mdts[0].durable > newest)
    });
    let cleared = run.sim.stats(&victim(run)).cleared.unwrap_or(0);
    wait::until_true("clears go on behind the crash", PATIENCE, || {
        run.sim.stats(&victim(run)).cleared.unwrap_or(0) > cleared + 1000
    });
    ms
}

/// A crash repeated, each with what is drawn for it, and judged at the end.
fn repeat(mut run: Run, fault: &str, few: u32, stream: u64, mut round: impl FnMut(&mut Run, &mut Draws)) {
    let (rounds, mut recovery_ms) = (times(few), 0);
    let mut draws = Draws { rng: rng(stream), lengths: [0; 3] };
    for _ in 0..rounds {
        let (before, began) = (incarnation(&run), Instant::now());
        round(&mut run, &mut draws);
        recovery_ms = recovery_ms.max(noticed(&run, before, began));
    }
    run.retractions = rounds;
    run.drawn = draws.told();
    run.sim.emit_stop();
    run.ended("by itself");
    run.finish(fault, rounds, recovery_ms);
}

/// One group that keeps up, under a load that goes on.
fn one_group(name: &str, mdts: usize, sink: Sink) -> Run {
    let mut run = Run::new(name, mdts, &Options { sink, ..Options::default() });
    run.start();
    run.join("robinhood", &[]);
    run.sim.emit(0, sink.rate(2000));
    run.cleared_beyond(4000);
    run
}

#[test]
fn reused_indexes_are_told_apart_when_an_mdt_crashes_while_it_is_read() {
    a_crash_while_it_is_read(Sink::Kafka);
}

pub fn a_crash_while_it_is_read(sink: Sink) {
    // given two MDTs that are read, when one crashes, and its new log is shorter, equal or longer, then it is noticed
    let mut lengths = LENGTHS.into_iter().cycle();
    repeat(one_group("crash-reading", 2, sink), "MDT crash while reading", 3, 1, |run, draws| {
        crash_uncommitted(run, draws.crash_with(lengths.next().unwrap()), nothing, nothing);
    });
}

#[test]
fn reused_indexes_are_told_apart_when_every_record_is_replayed_with_a_new_time() {
    a_crash_with_everything_replayed(Sink::Kafka);
}

pub fn a_crash_with_everything_replayed(sink: Sink) {
    // given an MDT that is read, when clients replay all that it lost, then the times tell them apart
    repeat(one_group("crash-replay", 1, sink), "MDT crash, all replayed with new times", 1, 2, |run, draws| {
        crash_uncommitted(run, Crash { replay: 1.0, ..draws.crash_with(Length::Equal) }, nothing, nothing);
    });
}

#[test]
fn reused_indexes_are_told_apart_when_an_mdt_crashes_while_the_bridge_is_down() {
    a_crash_while_the_bridge_is_down(Sink::Kafka);
}

pub fn a_crash_while_the_bridge_is_down(sink: Sink) {
    // given an MDT whose newest records are published and not committed, when it crashes after the bridge was killed
    repeat(one_group("crash-down", 1, sink), "MDT crash while the bridge is down", 1, 3, |run, draws| {
        crash_uncommitted(run, draws.crash(), |run| run.bridge.kill9(), |run| run.bridge.start(None));
        // then the next start finds it
        run.bridge.start(None);
    });
}

#[test]
fn reused_indexes_are_told_apart_when_the_bridge_is_killed_between_noticing_and_publishing() {
    a_crash_and_the_bridge_killed_when_it_has_noticed(Sink::Kafka);
}

pub fn a_crash_and_the_bridge_killed_when_it_has_noticed(sink: Sink) {
    // given a bridge that will die when it has just noticed a crash
    repeat(
        one_group("crash-killed", 1, sink),
        "MDT crash, bridge killed between detection and first publish",
        1,
        4,
        |run, draws| {
            run.bridge.kill9();
            // (where nothing can be read back, the start after the kill retracts too)
            run.bridge.start(Some(if sink == Sink::Amqp { "before_retraction:2" } else { "before_retraction:1" }));
            let durable = run.sim.stats(&victim(run)).committed_index;
            wait::until_true("it publishes again", PATIENCE, || {
                run.bridge.running(1).is_some_and(|mdts| mdts[0].durable > durable)
            });
            // when that comes
            crash_uncommitted(run, draws.crash(), nothing, nothing);
            wait::until_true("the bridge has died at the named point", PATIENCE, || run.bridge.has_ended());
            assert!(run.bridge.log().contains("failpoint before_retraction reached"));
            // then the next start notices it again
            run.bridge.start(None);
        },
    );
}

#[test]
fn reused_indexes_are_told_apart_when_an_mdt_crashes_twice_in_a_row() {
    two_crashes_in_a_row(Sink::Kafka);
}

pub fn two_crashes_in_a_row(sink: Sink) {
    // given an MDT that is read, when it crashes again as soon as it is back, then both are told apart
    repeat(one_group("crash-twice", 1, sink), "MDT crash twice in a row", 1, 5, |run, draws| {
        crash_uncommitted(run, draws.crash(), nothing, nothing);
        let committed = hold_commits(run);
        let mdt = victim(run);
        wait::until_true("there is something to lose again", PATIENCE, || {
            run.sim.stats(&mdt).last_index > committed + 50
        });
        crash(run, draws.crash());
    });
}

#[test]
fn no_acknowledgement_of_what_was_taken_back_clears_what_stands_there_now() {
    a_crash_that_takes_back_what_was_acknowledged(Sink::Kafka);
}

pub fn a_crash_that_takes_back_what_was_acknowledged(sink: Sink) {
    // given a group that has acknowledged records which are not committed yet
    repeat(
        one_group("crash-acked", 1, sink),
        "MDT crash after all groups acknowledged what it takes back",
        1,
        6,
        |run, draws| {
            let acknowledged = |run: &mut Run| {
                let committed = run.sim.stats(&victim(run)).committed_index;
                wait::until_true("the group has acknowledged them", PATIENCE, || {
                    run.bridge.running(1).is_some_and(|mdts| mdts[0].acknowledged > committed + 50)
                });
            };
            crash_uncommitted(run, draws.crash(), acknowledged, nothing);
            // then the judge finds no clear of what took their place before it was acknowledged
        },
    );
}

#[test]
fn reused_indexes_are_told_apart_when_the_prefetch_hides_the_crash_behind_a_stalled_broker() {
    a_crash_hidden_behind_a_stalled_broker(Sink::Kafka);
}

pub fn a_crash_hidden_behind_a_stalled_broker(sink: Sink) {
    // given a bridge with so little memory that a stalled broker stops its reading at once
    let options = Options { sink, sink_memory: 1 << 20, ..Options::default() };
    let mut run = Run::on_own_broker("crash-hidden", &[], 1, &options);
    run.start();
    run.join("robinhood", &[]);
    run.sim.emit(0, sink.rate(8000));
    run.cleared_beyond(8000);

    // when the MDT crashes while the kernel still has prefetched records for a reader that waits for the broker
    repeat(run, "MDT crash hidden behind the prefetch while the broker is stalled", 1, 7, |run, draws| {
        let stall = |run: &mut Run| {
            run.broker.stop();
            wait::until_true("the bridge no longer reads", PATIENCE, || {
                let read = || run.bridge.running(1).map(|mdts| mdts[0].read);
                let before = read();
                std::thread::sleep(Duration::from_millis(100));
                before.is_some() && read() == before
            });
        };
        crash_uncommitted(run, draws.crash_with(Length::Longer), stall, |run| run.broker.cont());
        // then it is noticed all the same
        run.broker.cont();
    });
}

#[test]
fn nothing_is_cleared_early_when_a_clear_is_in_flight_while_an_mdt_crashes() {
    a_crash_with_a_clear_in_flight(Sink::Kafka);
}

pub fn a_crash_with_a_clear_in_flight(sink: Sink) {
    // given an MDT with records that are stable, and a group that is behind
    let run = one_group("crash-clear", 1, sink);
    repeat(run, "MDT crash with a clear in flight", 1, 8, |run, draws| {
        // when the group catches up while the MDT is away, so that a clear is sent to it then
        for _ in 0..TRIES {
            let before = incarnation(run);
            if a_clear_met_the_crash(run, draws) {
                // then the reused indexes are noticed, and the judge finds no early clear
                return;
            }
            tell!("too slow: the clear was sent when the MDT was back; once more");
            noticed(run, before, Instant::now());
        }
        panic!("in {TRIES} tries the group was never quick enough to send a clear to an MDT that is away");
    });
}

/// Crashes the MDT, and lets a group that stood still go on then. True if the clear that follows was sent while the MDT
/// was away.
fn a_clear_met_the_crash(run: &mut Run, draws: &mut Draws) -> bool {
    let sent = |run: &Run| run.bridge.log().matches("action=Clear").count();
    run.members[0].pause();
    std::thread::sleep(Duration::from_millis(COMMIT_MS * 10));
    reach_uncommitted(run, nothing, nothing);
    let before = sent(run);
    let how = Crash { down_s: draws.rng.random_range(6.0..8.0), ..draws.crash() };
    std::thread::scope(|scope| {
        let run = &*run;
        let crash = scope.spawn(|| crash(run, how));
        std::thread::sleep(Duration::from_millis(300));
        run.members[0].go_on();
        wait::until_true("a clear is sent", PATIENCE, || sent(run) > before);
        let away = !run.sim.stats(&victim(run)).up;
        crash.join().unwrap();
        away
    })
}
