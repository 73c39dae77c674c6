//! The broker killed -9, and stalled under an offered load far beyond the bridge's memory.

use std::time::{Duration, Instant};

use clbridge_schemas::lustre::{Fid, Record, RecordType, Time, clfe};
use clbridge_tests::bridge::Options;
use clbridge_tests::run::Run;
use clbridge_tests::sink::Sink;
use clbridge_tests::tell;

#[test]
fn nothing_is_lost_when_the_broker_is_killed_and_restarted() {
    the_broker_killed_and_restarted(Sink::Kafka);
}

pub fn the_broker_killed_and_restarted(sink: Sink) {
    // given a broker under load
    let mut run = Run::on_own_broker("broker-killed", &[], 2, &Options { sink, ..Options::default() });
    run.start();
    run.join("robinhood", &[]);
    run.sim.emit(0, sink.rate(3000));
    run.cleared_beyond(4000);

    // when it is killed -9 and comes back
    let before = run.durable();
    run.broker.kill9();
    std::thread::sleep(Duration::from_secs(1));
    let before = run.durable_by_now(before);
    run.broker.restart();
    let began = Instant::now();

    // then records flow again, and clears too
    let recovery_ms = run.recovered_ms(began, &before);
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 4000);
    run.sim.emit_stop();
    run.finish("broker killed -9 and restarted", 1, recovery_ms);
}

/// Bytes of `memory.limit` in the stall test.
const LIMIT: u64 = 32 << 20;

#[test]
fn memory_is_bounded_when_the_broker_stalls_under_ten_times_its_bound() {
    the_broker_stalled_under(Sink::Kafka, 10, "broker stalled under ten times the memory bound");
}

/// On a sink whose members, in Python, would need an hour for ten times the bound.
pub fn the_broker_stalled(sink: Sink) {
    the_broker_stalled_under(sink, 1, "broker stalled under the memory bound");
}

fn the_broker_stalled_under(sink: Sink, bounds: u64, fault: &str) {
    // given a bridge with 32 MiB, and a file of records near the longest that a file system makes
    let options = Options { sink, memory: "32MiB", sink_memory: 16 << 20, ..Options::default() };
    let mut run = Run::busy_on_own_broker("broker-stalled", 1, &options);
    let mut bytes = Vec::new();
    let (records, name) = (1000, "n".repeat(255));
    for n in 0..records {
        let fid = Fid { seq: 0x2_0000_0401, oid: n + 1, ver: 0 };
        let mut record =
            Record::new(u64::from(n) + 1, RecordType::XATTR, Time::from_nanos(1_700_000_000_000_000_000), fid);
        record.name = name.clone().into_bytes();
        record.jobid = Some(b"job.1000".to_vec());
        record.extra_flags = Some(clfe::UIDGID | clfe::XATTR);
        record.uid_gid = Some((1000, 1000));
        record.xattr = Some("user.".bytes().chain(std::iter::repeat_n(b'x', 245)).collect());
        record.write(&mut bytes).unwrap();
    }
    let file = run.scene.dir().join("long.bin");
    std::fs::write(&file, &bytes).unwrap();
    let loops = LIMIT * bounds / bytes.len() as u64 + 1;
    run.start();
    run.join("robinhood", &["--batch", "10000"]);
    run.sim.emit_all(4000, sink.rate(4000));
    run.all_cleared();
    let at_rest = run.bridge.process().memory_kib("VmHWM");

    // when the broker is stopped while so many times the bound is offered
    let before = run.durable();
    run.broker.stop();
    let mdt = run.sim.mdts()[0].clone();
    run.sim.replay(&mdt, &file, loops, 0);
    std::thread::sleep(Duration::from_secs(5));
    run.broker.cont();
    let recovery_ms = run.recovered_ms(Instant::now(), &before);
    run.all_cleared();

    // then the bridge took no more than its bound beside what it has at rest
    let peak = run.bridge.process().memory_kib("VmHWM");
    tell!(
        "offered {} MiB in {} records while the broker stood still; peak memory {} MiB, {} MiB before, bound {} MiB",
        (loops * bytes.len() as u64) >> 20,
        loops * u64::from(records),
        peak >> 10,
        at_rest >> 10,
        LIMIT >> 20
    );
    assert!(peak <= at_rest + (LIMIT >> 10), "peak {peak} KiB, at rest {at_rest} KiB");
    run.finish(fault, 1, recovery_ms);
}

#[test]
fn a_bridge_that_is_asked_to_end_does_so_although_the_broker_stands_still() {
    // given a bridge under load
    let mut run = Run::on_own_broker("ended-stalled", &[], 1, &Options::default());
    run.start();
    let member = run.join("robinhood", &[]);
    run.sim.emit(0, 2000);
    run.cleared_beyond(2000);

    // when it is asked to end while its broker does not answer
    run.broker.stop();
    std::thread::sleep(Duration::from_secs(1));
    let ended = run.bridge.terminate();

    // then it ends, and the next one goes on where it was
    assert!(ended.success(), "the bridge ended with {ended}");
    assert!(run.bridge.log().contains("left as by kill -9"));
    // (a client that was with the broker when it stood still may not find its coordinator again for minutes)
    run.members.remove(member).kill9();
    run.broker.cont();
    run.bridge.start(None);
    run.join("robinhood", &[]);
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 4000);
    run.sim.emit_stop();
    run.finish("bridge ended while the broker stands still", 1, 0);
}
