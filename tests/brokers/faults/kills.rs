//! The bridge killed -9 twenty times under load, at the four named points too.

use clbridge_tests::bridge::Options;
use clbridge_tests::kills::kill_repeatedly;
use clbridge_tests::run::Run;
use clbridge_tests::sink::Sink;
use clbridge_tests::times::times;

fn kill_twenty_times(name: &str, options: &Options, few: u32) {
    // given two MDTs under load that goes on, and batches large enough to have much in flight
    let mut run = Run::busy(name, 2, options);
    run.start();
    run.join("robinhood", &["--log-records"]);
    run.join("lake", &[]);
    run.sim.emit_in_bursts(options.sink.rate(5000));

    // when the bridge is killed again and again, or as often as a campaign wants
    let count = times(few);
    let kills = kill_repeatedly(&mut run, count);
    run.sim.emit_stop();

    // then what the judge finds is right, and the kills were worth something
    run.finish("bridge killed -9", count, kills.recovery_ms);
    kills.assert_worth();
}

/// On a sink without batches: each record is durable by itself, as soon as the broker has it.
pub fn the_bridge_killed_again_and_again(sink: Sink) {
    let options = Options { sink, groups: vec!["robinhood", "lake"], ..Options::default() };
    kill_twenty_times("kills", &options, 8);
}

#[test]
fn nothing_is_lost_twice_or_out_of_order_when_the_transactional_bridge_is_killed_twenty_times() {
    let options = Options { groups: vec!["robinhood", "lake"], batch_max_age: "10s", ..Options::default() };
    kill_twenty_times("kills", &options, 20);
}

#[test]
fn nothing_is_lost_when_the_idempotent_bridge_is_killed_twenty_times() {
    let options = Options {
        sink: Sink::KafkaIdempotent,
        groups: vec!["robinhood", "lake"],
        batch_max_age: "10s",
        linger_ms: 500,
        ..Options::default()
    };
    kill_twenty_times("kills-idempotent", &options, 20);
}
