//! An MDT crash that takes back records that were published already, and gives their indexes to others.

use std::time::{Duration, Instant};

use clbridge_tests::bridge::Options;
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::sim::COMMIT_MS;
use clbridge_tests::{tell, wait};
use mdt_sim::mdt::{Crash, Length};

/// Crashes the first MDT when it has published what is not committed; `amid` happens between the last commit and the
/// crash. The window without a commit stays below the bridge's `clear.min_age`.
fn crash_uncommitted(run: &mut Run, how: Crash, amid: impl FnOnce(&mut Run)) {
    let mdt = run.sim.mdts()[0].clone();
    run.sim.commit_interval(&mdt, 0);
    run.sim.commit(&mdt);
    let committed = run.sim.stats(&mdt).committed_index;
    wait::until_true("records behind the commit point are published", PATIENCE, || {
        run.bridge.running(run.sim.mdts().len()).is_some_and(|mdts| mdts[0].durable > committed + 50)
    });
    amid(run);
    let report = run.sim.crash(&mdt, how);
    run.sim.commit_interval(&mdt, COMMIT_MS);
    tell!(
        "{mdt} crashed: {} records behind {} taken back, {} replayed, {} others followed, clears taken back: {:?}",
        report.lost,
        report.committed_index,
        report.replayed,
        report.fresh,
        report.clears
    );
    assert!(report.lost > 0, "the crash took nothing back");
}

/// Waits until the first MDT has begun this incarnation, and it was shown.
fn incarnation(run: &Run, wanted: u32) {
    wait::until_true("the crash was noticed", PATIENCE, || {
        run.bridge.running(run.sim.mdts().len()).is_some_and(|mdts| mdts[0].incarnation == wanted)
    });
}

fn end(run: Run, fault: &str, runs: u32, recovery_ms: u64) {
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 2000);
    run.sim.emit_stop();
    run.finish(fault, runs, recovery_ms);
}

#[test]
fn reused_indexes_are_told_apart_when_an_mdt_crashes_while_it_is_read() {
    // given two MDTs that are read
    let mut run = Run::new("crash-reading", 2, &Options::default());
    run.start();
    run.join("robinhood", &[]);
    run.sim.emit(0, 3000);
    run.cleared_beyond(4000);

    // when one crashes three times, and its new log is shorter, equal and longer
    let mut recovery_ms = 0;
    for (n, length) in (2..).zip([Length::Shorter, Length::Equal, Length::Longer]) {
        let began = Instant::now();
        crash_uncommitted(&mut run, Crash { down_s: 2.5, length, ..Crash::default() }, |_| ());
        // then the bridge begins another incarnation
        incarnation(&run, n);
        recovery_ms = recovery_ms.max(u64::try_from(began.elapsed().as_millis()).unwrap());
    }
    end(run, "MDT crash while reading", 3, recovery_ms);
}

#[test]
fn reused_indexes_are_told_apart_when_an_mdt_crashes_while_the_bridge_is_down() {
    // given an MDT whose newest records are published and not committed
    let mut run = Run::new("crash-down", 1, &Options::default());
    run.start();
    run.join("robinhood", &[]);
    run.sim.emit(0, 2000);
    run.cleared_beyond(4000);

    // when it crashes after the bridge was killed
    crash_uncommitted(&mut run, Crash { length: Length::Longer, ..Crash::default() }, |run| run.bridge.kill9());
    let began = Instant::now();
    run.bridge.start(None);

    // then the next start finds it
    incarnation(&run, 2);
    let recovery_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
    end(run, "MDT crash while the bridge is down", 1, recovery_ms);
}

#[test]
fn reused_indexes_are_told_apart_when_the_prefetch_hides_the_crash_behind_a_stalled_broker() {
    // given a bridge with so little memory that a stalled broker stops its reading at once
    let options = Options { sink_memory: 1 << 20, ..Options::default() };
    let mut run = Run::on_own_broker("crash-hidden", &[], 1, &options);
    run.start();
    run.join("robinhood", &[]);
    run.sim.emit(0, 8000);
    run.cleared_beyond(8000);

    // when the MDT crashes while the kernel still has prefetched records for a reader that waits for the broker
    // and is away for as long as a very quick one
    crash_uncommitted(&mut run, Crash { down_s: 2.5, length: Length::Longer, ..Crash::default() }, |run| {
        run.broker.stop();
        wait::until_true("the bridge no longer reads", PATIENCE, || {
            let read = || run.bridge.running(1).map(|mdts| mdts[0].read);
            let before = read();
            std::thread::sleep(Duration::from_millis(100));
            before.is_some() && read() == before
        });
    });
    let began = Instant::now();
    run.broker.cont();

    // then it is noticed all the same
    incarnation(&run, 2);
    let recovery_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
    end(run, "MDT crash hidden behind the prefetch while the broker is stalled", 1, recovery_ms);
}

#[test]
fn nothing_is_cleared_early_when_a_clear_is_in_flight_while_an_mdt_crashes() {
    // given an MDT with records that are stable, and a group that is behind
    let mut run = Run::new("crash-clear", 1, &Options::default());
    run.start();
    let member = run.join("robinhood", &[]);
    run.sim.emit(0, 2000);
    run.cleared_beyond(4000);
    run.members[member].pause();
    std::thread::sleep(Duration::from_millis(COMMIT_MS * 10));

    // when the group catches up while the MDT is away, so that a clear is sent to it then
    let mdt = run.sim.mdts()[0].clone();
    let sent = |run: &Run| run.bridge.log().matches("action=Clear").count();
    run.sim.commit_interval(&mdt, 0);
    run.sim.commit(&mdt);
    std::thread::sleep(Duration::from_millis(COMMIT_MS));
    let before = sent(&run);
    let began = Instant::now();
    let report = std::thread::scope(|scope| {
        let sim = &run.sim;
        let crash = scope.spawn(|| sim.crash(&mdt, Crash { down_s: 4.0, ..Crash::default() }));
        std::thread::sleep(Duration::from_millis(300));
        run.members[member].go_on();
        wait::until_true("a clear is sent", PATIENCE, || sent(&run) > before);
        assert!(!run.sim.stats(&mdt).up, "the clear was sent only after the MDT was back");
        crash.join().unwrap()
    });
    run.sim.commit_interval(&mdt, COMMIT_MS);
    tell!("{mdt} crashed with a clear in flight: {} records taken back", report.lost);
    assert!(report.lost > 0, "the crash took nothing back");

    // then the reused indexes are noticed, and the judge finds no early clear
    incarnation(&run, 2);
    let recovery_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
    end(run, "MDT crash with a clear in flight", 1, recovery_ms);
}
