//! Two bridges on the same MDTs: one works, one waits, and takes over by itself when the other dies, stalls or leaves.

use std::time::Instant;

use clbridge::status::{MdtStatus, Phase};
use clbridge_tests::bridge::{Bridge, Options};
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::sink::Sink;
use clbridge_tests::times::times;
use clbridge_tests::{tell, wait};

/// MDTs of these tests.
const MDTS: usize = 2;

fn options(sink: Sink) -> Options {
    Options { sink, groups: vec!["robinhood", "lake"], takeover_after: "4s", ..Options::default() }
}

/// Waits until this bridge says of every MDT that another one has it.
fn waits(bridge: &Bridge) {
    wait::until_true("the other bridge waits", PATIENCE, || {
        let fenced = |phase: &Phase| matches!(phase, Phase::Fenced { .. });
        bridge.status().is_some_and(|s| s.mdts.len() == MDTS && s.mdts.iter().all(|m| fenced(&m.phase)))
    });
}

/// Waits until this bridge works on all MDTs, and has records of its own durable, behind those that it found. Returns
/// the milliseconds.
fn takes_over(bridge: &Bridge, since: Instant) -> u64 {
    let durable = || bridge.running(MDTS).map(|mdts| mdts.iter().map(|m| m.durable).collect::<Vec<_>>());
    let found = wait::until("the other bridge takes over", PATIENCE, durable);
    wait::until_true("the other bridge has records durable", PATIENCE, || {
        durable().is_some_and(|now| now.iter().zip(&found).all(|(now, found)| now > found))
    });
    u64::try_from(since.elapsed().as_millis()).unwrap()
}

/// A bridge that works under load, and one that waits.
fn one_works_and_one_waits(name: &str, sink: Sink) -> (Run, Bridge) {
    let mut run = Run::new(name, MDTS, &options(sink));
    let mut other = run.another("other", &options(sink));
    run.start();
    run.join("robinhood", &["--log-records"]);
    run.join("lake", &[]);
    run.sim.emit(0, run.sink().rate(2000));
    run.cleared_beyond(4000);
    other.start(None);
    waits(&other);
    (run, other)
}

/// Both end, the one that waits first, and the run is judged.
fn end(mut run: Run, mut other: Bridge, fault: &str, runs: u32, recovery_ms: u64) {
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 2000);
    run.sim.emit_stop();
    let ended = other.terminate();
    assert!(ended.success(), "the bridge that waited ended with {ended}");
    run.ended("by itself: the other bridge took over");
    run.finish(fault, runs, recovery_ms);
}

#[test]
fn the_waiting_bridge_takes_over_when_the_working_one_is_killed_or_stopped() {
    the_worker_killed_or_stopped(Sink::Kafka);
}

pub fn the_worker_killed_or_stopped(sink: Sink) {
    // given two bridges
    let (mut run, mut other) = one_works_and_one_waits("takeover", sink);
    let (rounds, mut recovery_ms) = (times(4), 0);
    for round in 1..=rounds {
        // when the one that works is killed, or stands still for longer than the other waits
        let began = Instant::now();
        let killed = round % 2 == 1;
        if killed {
            run.bridge.kill9();
        } else {
            run.bridge.process().stop();
        }

        // then the other one takes over
        let ms = takes_over(&other, began);
        tell!("round {round}: {}, taken over after {ms} ms", if killed { "killed -9" } else { "stopped" });
        recovery_ms = recovery_ms.max(ms);

        // and the first one waits, once it is back; what it had on its way is refused
        if killed {
            run.bridge.start(None);
        } else {
            run.bridge.process().go_on();
        }
        waits(&run.bridge);
        std::mem::swap(&mut run.bridge, &mut other);
        let cleared = run.sim.cleared();
        run.cleared_beyond(cleared + 2000);
    }
    end(run, other, "worker of two bridges killed -9 or stopped in turn", rounds, recovery_ms);
}

#[test]
fn the_waiting_bridge_takes_over_at_once_when_the_working_one_ends_in_good_order() {
    the_worker_ended(Sink::Kafka);
}

pub fn the_worker_ended(sink: Sink) {
    // given two bridges
    let (mut run, mut other) = one_works_and_one_waits("handover", sink);

    // when the one that works is asked to end
    let began = Instant::now();
    let ended = run.bridge.terminate();
    assert!(ended.success(), "it ended with {ended}");

    // then the other one need not wait until it is silent
    let ms = takes_over(&other, began);
    tell!("taken over {ms} ms after the signal");
    assert!(other.log().contains("the other bridge has left: taking over"));
    run.bridge.start(None);
    waits(&run.bridge);
    std::mem::swap(&mut run.bridge, &mut other);
    end(run, other, "worker of two bridges ended in good order", 1, ms);
}

#[test]
fn of_two_bridges_of_the_same_name_one_has_each_mdt_and_the_other_waits() {
    a_second_bridge_of_the_same_name(Sink::Kafka);
}

pub fn a_second_bridge_of_the_same_name(sink: Sink) {
    // given a bridge that works
    let mut run = Run::new("same-name", MDTS, &options(sink));
    run.start();
    run.join("robinhood", &[]);
    run.join("lake", &[]);
    run.sim.emit(0, run.sink().rate(2000));
    run.cleared_beyond(4000);

    // when somebody starts another one with its name by mistake
    let before = run.durable();
    let mut twin = run.twin(&options(sink));
    let began = Instant::now();
    twin.start(None);

    // then each MDT comes to be with one of the two, and goes on there, while the other one waits for it: the second one at
    // once, as after a restart, unless it is slower than the first one is patient
    wait::until_true("one of the two has each MDT and the other waits for it", PATIENCE, || {
        let (Some(first), Some(second)) = (run.bridge.status(), twin.status()) else { return false };
        let waits = |m: &MdtStatus| matches!(m.phase, Phase::Fenced { .. });
        let has = |m: &MdtStatus, before: u64| m.phase == Phase::Running && m.durable > before;
        let settled = |mdt: usize| {
            let (Some(a), Some(b)) = (first.mdts.get(mdt), second.mdts.get(mdt)) else { return false };
            (has(a, before[mdt]) && waits(b)) || (waits(a) && has(b, before[mdt]))
        };
        (0..MDTS).all(settled)
    });
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap();

    // and they do not take the MDTs from each other in turn: without the second one, the first one has them all
    end(run, twin, "second bridge of the same name", 1, ms);
}

#[test]
fn mdts_spread_over_two_bridges_and_each_stands_in_for_the_other() {
    // given two bridges, each on standby for the other's MDT
    let first = Options { standby: vec!["lustre-MDT0001"], ..options(Sink::Kafka) };
    let second = Options { standby: vec!["lustre-MDT0000"], ..options(Sink::Kafka) };
    let mut run = Run::new("spread", MDTS, &first);
    let mut other = run.another("other", &second);
    run.bridge.start(None);
    other.start(None);
    let has = |bridge: &Bridge, mdt: usize| {
        bridge.status().is_some_and(|s| s.mdts.len() == MDTS && s.mdts[mdt].phase == Phase::Running)
    };
    wait::until_true("each has its own MDT", PATIENCE, || has(&run.bridge, 0) && has(&other, 1));
    assert!(!has(&run.bridge, 1) && !has(&other, 0), "an MDT was taken that the other one should have");
    run.join("robinhood", &[]);
    run.join("lake", &[]);
    run.sim.emit(0, run.sink().rate(2000));
    run.cleared_beyond(4000);

    // when one is killed
    let began = Instant::now();
    other.kill9();

    // then the other one has both
    wait::until_true("the one that is left has both MDTs", PATIENCE, || has(&run.bridge, 0) && has(&run.bridge, 1));
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap();
    tell!("both MDTs with one bridge after {ms} ms");
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 4000);

    // and when it is back, it waits for its own to become free
    other.start(None);
    waits(&other);
    end(run, other, "MDTs spread over two bridges, one killed", 1, ms);
}
