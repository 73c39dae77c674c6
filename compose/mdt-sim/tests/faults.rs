//! Misbehaviour on command, over the control socket as scripts use it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead, BufReader, Write};

use common::*;
use mdt_sim::addr::Addr;
use mdt_sim::control::Command;
use mdt_sim::mdt::{FaultOn, Malformed};
use mdt_sim::oracle::Select;

fn mdt() -> Option<String> {
    Some(MDT.to_owned())
}

#[test]
fn reads_fail_as_often_as_was_asked_and_all_but_eagain_is_sticky() {
    let sim = sim();
    sim.log("a", 3);
    let mut control = sim.control();
    for (errno_wanted, sticky) in [(libc::EIO, true), (libc::ENODEV, true), (libc::EAGAIN, false)] {
        control.call(&Command::Fault { mdt: mdt(), on: FaultOn::Read, errno: errno_wanted, times: Some(1) }).unwrap();
        let mut reader = sim.open();
        let mut buf = vec![0; 4096];
        assert_eq!(errno(reader.read(&mut buf, PATIENCE)), Some(errno_wanted));
        assert_eq!(errno(reader.read(&mut buf, PATIENCE)), sticky.then_some(errno_wanted));
        // a fresh descriptor is not concerned
        assert_eq!(to_end(&mut sim.open()).len(), 3);
    }
    // until it is reset
    control.call(&Command::Fault { mdt: mdt(), on: FaultOn::Open, errno: libc::ENODEV, times: None }).unwrap();
    for _ in 0..3 {
        let open = mdt_sim::client::Changelog::open(sim.addr(), MDT, mdt_sim::client::flags::READ);
        assert_eq!(open.unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
    control.call(&Command::ResetFaults { mdt: None }).unwrap();
    assert_eq!(to_end(&mut sim.open()).len(), 3);
    control.call(&Command::Fault { mdt: mdt(), on: FaultOn::Clear, errno: libc::EINPROGRESS, times: Some(1) }).unwrap();
    let mut w = sim.writer();
    assert_eq!(errno(w.clear("clear:cl1:2")), Some(libc::EINPROGRESS));
    w.clear("clear:cl1:2").unwrap();
}

#[test]
fn a_cut_connection_is_an_error_and_a_reopen_connects_again() {
    let sim = sim();
    sim.log("a", 3);
    let mut reader = sim.open();
    let cut = sim.control().call(&Command::Disconnect { mdt: mdt() }).unwrap();
    assert_eq!(cut, 1);
    assert!(reader.read(&mut [0; 4096], PATIENCE).is_err());
    reader.reopen(2).unwrap();
    assert_eq!(indexes(&to_end(&mut reader)), [2, 3]);
}

#[test]
fn slow_reads_bring_a_few_records_at_a_time() {
    let sim = sim();
    sim.log("a", 10);
    let mut control = sim.control();
    control.call(&Command::Slow { mdt: mdt(), delay_ms: 1, records: 3 }).unwrap();
    let before = sim.mdt().stats().reads;
    assert_eq!(to_end(&mut sim.open()).len(), 10);
    assert!(sim.mdt().stats().reads - before >= 4);
}

#[test]
fn a_malformed_record_is_served_as_such_until_reset() {
    let sim = sim();
    sim.log("a", 3);
    let mut control = sim.control();
    for how in [Malformed::Length, Malformed::Nul, Malformed::Cut] {
        control.call(&Command::Malform { mdt: mdt(), index: 2, how }).unwrap();
        let bytes = bytes_to_end(&mut sim.open());
        let first = mdt_sim::layout::record_len(&bytes).unwrap();
        let second = &bytes[first..];
        match how {
            Malformed::Length => assert_eq!(mdt_sim::layout::record_len(second), None),
            Malformed::Nul => assert!(parse(second)[0].name.contains('\0')),
            Malformed::Cut => assert_eq!(bytes.len(), 2 * first + first / 2),
        }
    }
    control.call(&Command::ResetFaults { mdt: mdt() }).unwrap();
    assert_eq!(to_end(&mut sim.open()).len(), 3);
}

#[test]
fn only_loopback_addresses_are_served() {
    let open: Addr = "0.0.0.0:0".parse().unwrap();
    assert!(open.listen().unwrap_err().to_string().contains("loopback"));
    assert!("no-port".parse::<Addr>().is_err());
}

#[test]
fn the_same_is_served_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let addr: Addr = format!("unix:{}", dir.path().join("sock").display()).parse().unwrap();
    let server = mdt_sim::server::Server::start(&mdt_sim::server::Config {
        mdts: vec![mdt_sim::mdt::MdtConfig::new(MDT, dir.path())],
        listen: vec![addr.clone()],
        control: vec![],
        register: vec![mdt_sim::server::UserSpec { name: None, mask: None }],
    })
    .unwrap();
    log(server.mdt(MDT).unwrap(), "a", 2000);
    let mut reader = mdt_sim::client::Changelog::open(&addr, MDT, mdt_sim::client::flags::READ).unwrap();
    assert_eq!(to_end(&mut reader).len(), 2000);
    server.stop().unwrap();
    assert!(!dir.path().join("sock").exists());
}

#[test]
fn the_control_socket_speaks_json_lines_and_says_what_is_wrong() {
    let sim = sim();
    sim.log("a", 3);
    let Addr::Tcp(addr) = sim.server.control_addrs()[0] else { panic!("TCP was asked for") };
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut ask = |line: &str| {
        writeln!(stream, "{line}").unwrap();
        serde_json::from_str::<serde_json::Value>(&answers.next().unwrap().unwrap()).unwrap()
    };
    assert_eq!(ask(r#"{"op":"mdts"}"#)["result"][0], MDT);
    assert_eq!(ask(r#"{"op":"stats"}"#)["result"][MDT]["last_index"], 3);
    assert_eq!(ask(r#"{"op":"crash","mdt":"lustre-MDT0000","length":"shorter"}"#)["result"][MDT]["lost"], 3);
    for bad in ["nonsense", r#"{"op":"no"}"#, r#"{"op":"stats","mdt":"lustre-MDT0042"}"#] {
        let answer = ask(bad);
        assert_eq!(answer["ok"], false);
        assert!(answer["error"].as_str().unwrap().len() > 10);
    }
}

#[test]
fn the_oracle_knows_every_record_commit_clear_and_purge_with_its_time() {
    let sim = sim();
    sim.log("a", 3);
    sim.mdt().commit().unwrap();
    let mut w = sim.writer();
    w.clear("clear:cl1:2").unwrap();
    w.clear("clear:cl1:1").unwrap_err();
    let mut lines = Vec::new();
    sim.control()
        .oracle(Some(MDT), Select::All, |line| {
            lines.push(serde_json::from_str::<serde_json::Value>(line).unwrap());
            Ok(())
        })
        .unwrap();
    let of = |event: &str| lines.iter().filter(|l| l["event"] == event).collect::<Vec<_>>();
    let read = {
        let mut seen = to_end(&mut sim.open());
        seen.retain(|s| s.index == 3);
        seen[0].clone()
    };
    let records = of("record");
    assert_eq!(records.len(), 3);
    assert_eq!(records[2]["index"], 3);
    assert_eq!(records[2]["time_ns"], read.time_ns);
    assert_eq!(records[2]["type"], "CREAT");
    assert_eq!(records[2]["tfid"], "[0x200000402:0x2:0x0]");
    assert_eq!(of("committed")[0]["upto"], 3);
    let clears = of("clear");
    assert_eq!(
        (clears[0]["errno"].as_i64(), clears[0]["after"].as_u64(), clears[0]["before"].as_u64()),
        (Some(0), Some(2), Some(0))
    );
    assert_eq!(clears[1]["errno"], libc::ENOENT);
    assert_eq!(of("clear_received").len(), 2);
    let purged = of("purged");
    assert_eq!((purged[0]["from"].as_u64(), purged[0]["to"].as_u64()), (Some(1), Some(2)));
    assert!(lines.iter().all(|l| l["mdt"] == MDT));
}
