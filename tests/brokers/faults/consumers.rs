//! Members that are `clbridge consume` killed -9 under load, one by one and together.

use std::time::{Duration, Instant};

use clbridge_tests::bridge::Options;
use clbridge_tests::printed::Printers;
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::sink::Sink;
use clbridge_tests::times::times;
use clbridge_tests::{tell, wait};

/// On a sink where one member at a time has an MDT's records, and has them in order.
pub fn members_killed_again_and_again(sink: Sink) {
    // given two MDTs under load, a group of another client, and one of two `clbridge consume`
    let options = Options { sink, groups: vec!["robinhood", "printed"], ..Options::default() };
    let mut run = Run::new("consume-killed", 2, &options);
    run.judged_by_test = vec!["printed"];
    run.start();
    run.join("robinhood", &[]);
    let mut printers = Printers::new("printed");
    printers.fill(&run, 2);
    run.sim.emit(0, sink.rate(2000));
    run.cleared_beyond(2000);

    // when its members are killed, by turns one and both
    let kills = times(6);
    let mut recovery_ms = 0;
    for kill in 1..=kills {
        printers.kill_down_to((kill % 2) as usize);
        if kill % 2 == 0 {
            // then nothing was cleared that the group had not had
            nothing_is_cleared_early(&run, &printers);
        }
        let (began, cleared) = (Instant::now(), run.sim.cleared());
        printers.fill(&run, 2);
        run.cleared_beyond(cleared + 2000);
        recovery_ms = recovery_ms.max(u64::try_from(began.elapsed().as_millis()).unwrap());
    }
    run.sim.emit_stop();
    run.all_cleared();

    // and in the end it has had everything
    printers.kill_down_to(0);
    nothing_is_cleared_early(&run, &printers);
    for (mdt, had) in printers.had() {
        let logged = run.sim.stats(&mdt).last_index;
        assert!(had.into_iter().eq(1..=logged), "{mdt}: not everything up to {logged}");
    }
    run.finish("clbridge consume killed -9, one by one and together", kills, recovery_ms);
}

/// No member lives.
fn nothing_is_cleared_early(run: &Run, printers: &Printers) {
    // (a clear of what they acknowledged may still be on its way)
    let all = || run.sim.mdts().iter().map(|mdt| run.sim.stats(mdt).cleared.unwrap_or(0)).collect::<Vec<_>>();
    let mut before = Vec::new();
    wait::until_true("clears end", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(500));
        std::mem::replace(&mut before, all()) == before
    });
    let had = printers.had();
    for (mdt, cleared) in run.sim.mdts().iter().zip(before) {
        let had = &had[mdt];
        tell!("{mdt}: {cleared} cleared, {} printed", had.len());
        assert!(had.range(..=cleared).copied().eq(1..=cleared), "{mdt}: cleared to {cleared}, and not all was printed");
    }
}
