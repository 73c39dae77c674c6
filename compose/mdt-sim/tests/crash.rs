//! Crashes, restarts and kills: LUSTRE.md's "Indexes are reused after an MDT crash", captures 4.8 and 4.9.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use common::*;
use mdt_sim::addr::Addr;
use mdt_sim::client::{Changelog, flags};
use mdt_sim::control::Command;
use mdt_sim::control::client::Control;
use mdt_sim::mdt::{Crash, Length};
use mdt_sim::oracle::Select;
use mdt_sim::workload::Plan;

fn surviving(control: &mut Control) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    control
        .oracle(Some(MDT), Select::Surviving, |line| {
            let v: serde_json::Value = serde_json::from_str(line).unwrap();
            out.push((v["index"].as_u64().unwrap(), v["time_ns"].as_u64().unwrap()));
            Ok(())
        })
        .unwrap();
    out
}

#[test]
fn a_surviving_reader_sees_nothing_of_a_crash_that_gives_its_indexes_to_other_records() {
    // given the capture p7: committed up to 4, nine records read that are not committed
    let sim = sim();
    sim.log("committed", 4);
    sim.mdt().commit().unwrap();
    sim.log("lost", 9);
    let mut follower = Changelog::open(sim.addr(), MDT, flags::READ | flags::FOLLOW).unwrap();
    let mut buf = vec![0; 1 << 20];
    let n = follower.read(&mut buf, PATIENCE).unwrap();
    let reported = parse(&buf[..n]);
    assert_eq!(indexes(&reported), (1..=13).collect::<Vec<_>>());
    // when the MDT crashes, a third of them is replayed and others follow
    let how = Crash { replay: 1.0 / 3.0, length: Length::Equal, ..Crash::default() };
    let report = sim.control().crash(MDT, how).unwrap();
    assert_eq!(
        (report.committed_index, report.lost, report.replayed, report.fresh, report.last_index),
        (4, 9, 3, 6, 13)
    );
    // then what stands there now: the committed ones, the replayed ones with the same name and a new time, others
    let now = to_end(&mut sim.open());
    assert_eq!(indexes(&now), (1..=13).collect::<Vec<_>>());
    assert_eq!(now[..4], reported[..4]);
    for n in 4..7 {
        assert_eq!(now[n].name, reported[n].name);
        assert!(now[n].time_ns > reported[12].time_ns);
    }
    for n in 7..13 {
        assert_ne!(now[n].name, reported[n].name);
    }
    // and the follower goes on behind what it had, without any sign
    sim.log("after", 1);
    let n = follower.read(&mut buf, PATIENCE).unwrap();
    assert_eq!(parse(&buf[..n])[0].index, 14);
    assert_eq!(parse(&buf[..n])[0].name, "after-0");
    // and the oracle's surviving records are exactly those that stand
    let all = to_end(&mut sim.open());
    assert_eq!(surviving(&mut sim.control()), all.iter().map(|s| (s.index, s.time_ns)).collect::<Vec<_>>());
}

#[test]
fn the_new_log_is_shorter_equal_or_longer_than_the_lost_one() {
    for (length, replay) in [
        (Length::Shorter, 1.0),
        (Length::Shorter, 0.0),
        (Length::Equal, 0.5),
        (Length::Longer, 1.0),
        (Length::Longer, 0.0),
    ] {
        let sim = sim();
        sim.log("committed", 10);
        sim.mdt().commit().unwrap();
        sim.log("lost", 20);
        let report = sim.control().crash(MDT, Crash { length, replay, ..Crash::default() }).unwrap();
        assert_eq!(report.lost, 20);
        match length {
            Length::Shorter => assert!(report.last_index < 30),
            Length::Equal => assert_eq!(report.last_index, 30),
            Length::Longer => assert!(report.last_index > 30),
        }
        let stands = to_end(&mut sim.open());
        assert_eq!(stands.last().unwrap().index, report.last_index);
    }
}

#[test]
fn a_crash_takes_back_clears_too_and_what_they_purged_can_be_read_again() {
    let sim = sim();
    sim.log("a", 20);
    let mut w = sim.writer();
    w.clear("clear:cl1:5").unwrap();
    sim.mdt().commit().unwrap();
    w.clear("clear:cl1:15").unwrap();
    assert_eq!(to_end(&mut sim.open())[0].index, 16);
    let report = sim.control().crash(MDT, Crash::default()).unwrap();
    assert_eq!(report.lost, 0);
    assert_eq!((report.clears[0].user, report.clears[0].from, report.clears[0].to), (1, 15, 5));
    assert_eq!(to_end(&mut sim.open())[0].index, 6);
    // so that the same clear is not backwards
    w.clear("clear:cl1:10").unwrap();
}

#[test]
fn a_clear_sent_while_the_mdt_is_down_runs_after_the_recovery_against_the_new_log() {
    let sim = sim();
    sim.log("committed", 4);
    sim.mdt().commit().unwrap();
    sim.log("lost", 6);
    let how = Crash { down_s: 0.3, replay: 0.0, length: Length::Shorter, ..Crash::default() };
    let mdt = sim.mdt().clone();
    let crash = std::thread::spawn(move || mdt.crash(&how, |_| Vec::new()).unwrap());
    while sim.mdt().is_up() {
        std::thread::yield_now();
    }
    // 8 was there when it was sent; when it is executed the newest index is 4
    assert_eq!(errno(sim.writer().clear("clear:cl1:8")), Some(libc::EINVAL));
    crash.join().unwrap();
    let mut received_before_executed = false;
    sim.control()
        .oracle(Some(MDT), Select::Clears, |line| {
            let v: serde_json::Value = serde_json::from_str(line).unwrap();
            if v["event"] == "clear" {
                assert_eq!(v["errno"], libc::EINVAL);
                received_before_executed = v["received_ns"].as_u64() < v["at_ns"].as_u64();
            }
            Ok(())
        })
        .unwrap();
    assert!(received_before_executed);
}

#[test]
fn reads_and_clears_block_while_the_mdt_is_away_then_go_on_without_an_error() {
    let sim = sim();
    sim.log("a", 10);
    let mut prefetched = sim.open();
    let mut buf = vec![0; 75];
    assert!(prefetched.read(&mut buf, PATIENCE).unwrap() > 0);
    let mdt = sim.mdt().clone();
    let down = std::thread::spawn(move || mdt.restart(Duration::from_millis(300), false).unwrap());
    while sim.mdt().is_up() {
        std::thread::yield_now();
    }
    // what is prefetched is delivered, the end too
    assert_eq!(to_end(&mut prefetched).len(), 9);
    // opening works, reading waits
    let mut fresh = sim.open();
    let waited = fresh.read(&mut vec![0; 4096], Duration::from_millis(1)).unwrap_err();
    assert_eq!(waited.kind(), std::io::ErrorKind::TimedOut);
    sim.writer().clear("clear:cl1:4").unwrap();
    assert!(sim.mdt().is_up(), "the clear returned while the MDT was away");
    assert!(!to_end(&mut fresh).is_empty());
    down.join().unwrap();
}

#[test]
fn an_evicted_client_gets_eio_on_what_it_had_open_and_a_new_open_works() {
    let sim = sim();
    sim.log("a", 3);
    let mut at_end = sim.open();
    assert_eq!(to_end(&mut at_end).len(), 3);
    let mut unread = sim.open();
    let mut w = sim.writer();
    sim.mdt().restart(Duration::ZERO, true).unwrap();
    for _ in 0..2 {
        assert_eq!(errno(unread.read(&mut [0; 1000], PATIENCE)), Some(libc::EIO));
    }
    assert_eq!(errno(w.clear("clear:cl1:1")), Some(libc::EIO));
    // a descriptor that was at its end stays there
    assert_eq!(to_end(&mut at_end), []);
    unread.reopen(1).unwrap();
    assert_eq!(to_end(&mut unread).len(), 3);
    sim.writer().clear("clear:cl1:1").unwrap();
}

#[test]
fn a_reset_log_starts_again_from_1_and_its_old_records_stay_part_of_the_history() {
    let sim = sim();
    sim.log("old", 7);
    sim.mdt().reset(true).unwrap();
    sim.log("new", 2);
    let now = to_end(&mut sim.open());
    assert_eq!(indexes(&now), [1, 2]);
    assert_eq!(now[0].name, "new-0");
    let history: Vec<u64> = surviving(&mut sim.control()).into_iter().map(|s| s.0).collect();
    assert_eq!(history, [1, 2, 3, 4, 5, 6, 7, 1, 2]);
    // without users nobody is left, as on a new file system
    sim.mdt().reset(false).unwrap();
    assert_eq!(errno(sim.writer().clear("clear:cl1:0")), Some(libc::ENOENT));
}

#[test]
fn a_gap_by_purge_takes_records_that_nobody_cleared() {
    let sim = sim();
    sim.log("a", 10);
    sim.control().call(&Command::Purge { mdt: Some(MDT.to_owned()), upto: 6 }).unwrap();
    assert_eq!(indexes(&to_end(&mut sim.open())), [7, 8, 9, 10]);
}

#[test]
fn a_clean_stop_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), |_| {});
    log(server.mdt(MDT).unwrap(), "a", 3000);
    server.stop().unwrap();
    let server = start(dir.path(), |_| {});
    let mut reader = Changelog::open(&server.data_addrs()[0], MDT, flags::READ).unwrap();
    assert_eq!(to_end(&mut reader).len(), 3000);
    assert_eq!(server.mdt(MDT).unwrap().stats().life, 1);
}

#[test]
fn a_torn_tail_of_the_journal_is_cut_and_damage_before_a_commit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), |_| {});
    log(server.mdt(MDT).unwrap(), "a", 3000);
    server.stop().unwrap();
    let path = dir.path().join(MDT).join("0000000000.journal");
    let whole = std::fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(b"R\xff\xff\0\0half a frame");
    std::fs::write(&path, &torn).unwrap();
    let server = start(dir.path(), |_| {});
    let mut reader = Changelog::open(&server.data_addrs()[0], MDT, flags::READ).unwrap();
    assert_eq!(to_end(&mut reader).len(), 3000);
    server.stop().unwrap();
    // a flipped bit in the records: everything from that commit on is behind the last commit that can be trusted
    let mut flipped = whole;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let server = start(dir.path(), |_| {});
    assert_eq!(server.mdt(MDT).unwrap().stats().last_index, 0);
}

struct Killed {
    child: Child,
    data: Addr,
    control: Addr,
}

fn spawn(dir: &std::path::Path) -> Killed {
    let mut child = Process::new(env!("CARGO_BIN_EXE_mdt-sim"))
        .args([
            "serve",
            "--mdt",
            MDT,
            "--listen",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
            "--register",
            "--commit-interval-ms",
            "0",
        ])
        .arg("--dir")
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let addr = |key: &str| ready[key][0].as_str().unwrap().parse().unwrap();
    Killed { child, data: addr("data"), control: addr("control") }
}

#[test]
fn after_kill_9_what_was_committed_is_there_and_indexes_of_what_was_not_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let all = |k: &Killed| to_end(&mut Changelog::open(&k.data, MDT, flags::READ).unwrap());
    // given committed records and a committed clear, then records and a clear that are not committed
    let mut first = spawn(dir.path());
    let mut control = Control::connect(&first.control).unwrap();
    control.emit(Plan::fill(30_000, 1), true).unwrap();
    let mut w = Changelog::open(&first.data, MDT, flags::WRITE).unwrap();
    w.clear("clear:cl1:1000").unwrap();
    control.call(&Command::Commit { mdt: None }).unwrap();
    let committed = control.stats(MDT).unwrap().committed_index;
    control.emit(Plan::fill(10_000, 2), true).unwrap();
    w.clear("clear:cl1:2000").unwrap();
    let before = all(&first);
    // when the server is killed and started again
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let mut second = spawn(dir.path());
    let mut control = Control::connect(&second.control).unwrap();
    // then the committed records and the committed clear are there, and nothing else
    let after = all(&second);
    assert_eq!(after.first().unwrap().index, 1001);
    assert_eq!(after.last().unwrap().index, committed);
    let common = before.iter().filter(|s| s.index <= committed).count();
    assert_eq!(before[..common], after[1000..]);
    // and the indexes of the others are used again, in a new life, as the oracle knows
    control.emit(Plan::fill(100, 3), true).unwrap();
    let again = all(&second);
    assert_eq!(again[after.len()].index, committed + 1);
    assert_ne!(again[after.len()], before[common]);
    let mut history = Vec::new();
    control
        .oracle(None, Select::Surviving, |line| {
            let v: serde_json::Value = serde_json::from_str(line).unwrap();
            history.push((v["index"].as_u64().unwrap(), v["time_ns"].as_u64().unwrap()));
            Ok(())
        })
        .unwrap();
    assert_eq!(history.first().unwrap().0, 1);
    let stands: Vec<_> = again.iter().map(|s| (s.index, s.time_ns)).collect();
    assert_eq!(history[1000..], stands);
    second.child.kill().unwrap();
    second.child.wait().unwrap();
}
