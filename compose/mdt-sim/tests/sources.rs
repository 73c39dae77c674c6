//! Where records come from: captures, the workload, a directory; and what old servers make of them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use common::*;
use mdt_sim::client::{Changelog, flags};
use mdt_sim::control::Command;
use mdt_sim::generation::Generation;
use mdt_sim::layout;
use mdt_sim::mask;
use mdt_sim::mdt::Stamp;
use mdt_sim::replay;
use mdt_sim::workload::Plan;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/lustre")
}

/// Pairs of the same records read with the big-endian NIDs and without.
fn pairs() -> Vec<(PathBuf, PathBuf)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(captures()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.contains("ioctl-0x1e.bin") {
            let plain = path.with_file_name(name.replace("ioctl-0x1e", "plain-read"));
            if plain.is_file() {
                out.push((path, plain));
            }
        }
    }
    out
}

#[test]
fn a_capture_replayed_as_it_was_gives_the_same_bytes_in_both_forms_of_the_nid() {
    let pairs = pairs();
    assert!(pairs.len() >= 5, "captures in {}", captures().display());
    for (be, plain) in pairs {
        let sim = sim();
        sim.control()
            .call(&Command::Replay { mdt: Some(MDT.to_owned()), file: be.clone(), keep: true, loops: None, rate: None })
            .unwrap();
        let mut reader = sim.open();
        assert_eq!(bytes_to_end(&mut reader), replay::load(&be).unwrap(), "{}", be.display());
        let mut reader = Changelog::open(sim.addr(), MDT, flags::READ).unwrap();
        // The kernel leaves stale bytes behind the NID and in MARK records: compared without what is unspecified.
        let (read, kept) = (bytes_to_end(&mut reader), replay::load(&plain).unwrap());
        assert_eq!(parse(&read), parse(&kept), "{}", plain.display());
        let differing = read.iter().zip(&kept).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 0, "{}: bytes that differ", plain.display());
    }
}

#[test]
fn a_looped_capture_gets_new_indexes_and_times() {
    let sim = sim();
    sim.mdt().set_mask(mask::ALL, false);
    let (file, _) = pairs().into_iter().find(|p| p.0.to_string_lossy().contains("p0-")).unwrap();
    let once = parse(&replay::load(&file).unwrap());
    sim.control()
        .call(&Command::Replay { mdt: Some(MDT.to_owned()), file, keep: false, loops: Some(3), rate: None })
        .unwrap();
    let seen = to_end(&mut sim.open());
    assert_eq!(indexes(&seen), (1..=3 * once.len() as u64).collect::<Vec<_>>());
    assert!(seen.windows(2).all(|w| w[0].time_ns < w[1].time_ns));
    assert!(seen.iter().zip(once.iter().cycle()).all(|(s, o)| (s.kind, &s.name) == (o.kind, &o.name)));
}

#[test]
fn a_truncated_capture_is_refused_with_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.bin");
    let mut bytes = record(1, "whole", 1);
    bytes.extend_from_slice(&record(1, "cut", 2)[..40]);
    std::fs::write(&path, bytes).unwrap();
    assert!(replay::load(&path).unwrap_err().to_string().contains("byte 69"));
}

#[test]
fn the_workload_plays_a_plausible_file_system_and_the_same_seed_plays_the_same() {
    let names = |seed: u64| {
        let sim = sim();
        for mdt in sim.server.mdts() {
            mdt.set_mask(mask::ALL, false);
        }
        sim.control().emit(Plan::fill(20_000, seed), true).unwrap();
        let second = to_end(&mut Changelog::open(sim.addr(), SECOND, flags::READ).unwrap());
        (to_end(&mut sim.open()), second)
    };
    let (first, second) = names(7);
    assert!(first.len() > 5000 && second.len() > 5000);
    let kinds: HashSet<u32> = first.iter().chain(&second).map(|s| s.kind).collect();
    for kind in [1, 2, 3, 4, 6, 7, 8, 10, 11, 13, 14, 15] {
        assert!(kinds.contains(&kind), "no {}", mask::NAMES[kind as usize]);
    }
    let again = names(7);
    let plain = |seen: &[Seen]| seen.iter().map(|s| (s.index, s.kind, s.name.clone())).collect::<Vec<_>>();
    assert_eq!((plain(&first), plain(&second)), (plain(&again.0), plain(&again.1)));
    assert_ne!(plain(&first), plain(&names(8).0));
}

#[test]
fn the_workload_unlinks_only_what_exists_and_says_when_it_was_the_last_link() {
    let sim = sim();
    sim.control().emit(Plan { max_files: 300, ..Plan::fill(30_000, 5) }, true).unwrap();
    // The order over both MDTs is that of time.
    let mut records: Vec<(u64, Vec<u8>)> = Vec::new();
    for name in [MDT, SECOND] {
        let bytes = bytes_to_end(&mut Changelog::open(sim.addr(), name, flags::READ).unwrap());
        let mut rest = bytes.as_slice();
        while let Some(len) = layout::record_len(rest) {
            records.push((layout::head(rest).unwrap().time_ns, rest[..len].to_vec()));
            rest = &rest[len..];
        }
    }
    records.sort();
    let mut links: HashMap<(u64, u32, u32), i64> = HashMap::new();
    let mut last = BTreeMap::new();
    for (_, bytes) in &records {
        let head = layout::head(bytes).unwrap();
        let count = links.entry(head.tfid).or_default();
        match head.kind {
            1 | 3 | 4 => *count += 1,
            6 => {
                *count -= 1;
                let flagged = bytes[2] & 1 == 1;
                *last.entry(flagged).or_insert(0) += 1;
            }
            _ => {}
        }
    }
    // Batches of the two MDTs are logged one after the other, so only the end can be compared exactly.
    assert!(links.values().all(|n| *n >= 0));
    assert!(last[&true] > 100 && last[&false] > 10, "{last:?}");
}

#[test]
fn a_rate_and_bursts_are_kept_to() {
    let sim = sim();
    let plan = Plan { total: 400, rate: 1000, burst_rate: 4000, burst_every_ms: 100, burst_ms: 20, ..Plan::default() };
    let report = sim.control().emit(plan, true).unwrap();
    assert!(report["count"].as_u64().unwrap() >= 400);
    // At most 4000 a second: never faster than that, whatever the machine.
    assert!(report["seconds"].as_f64().unwrap() > 0.09);
}

#[test]
fn a_watched_directory_becomes_records() {
    let sim = sim();
    sim.mdt().set_mask(mask::ALL, false);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("old"), "was here before").unwrap();
    let baseline = sim.mdt().stats().last_index;
    sim.control().call(&Command::Watch { mdt: Some(MDT.to_owned()), dir: dir.path().to_owned() }).unwrap();
    // The watch is up when it sees something: probe until it does.
    let mut probe = 0;
    while sim.mdt().stats().last_index == baseline {
        probe += 1;
        std::fs::write(dir.path().join(format!("probe{probe}")), "").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let at = |name: &str| dir.path().join(name);
    // One step at a time: what is gone again before anybody looked leaves no record.
    let wait_for = |kind: u32, name: &str| {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let seen = to_end(&mut sim.open());
            if seen.iter().any(|s| s.kind == kind && s.name == name) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "no {kind} {name:?} in {seen:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    std::fs::create_dir(at("d")).unwrap();
    wait_for(2, "d");
    std::fs::write(at("file"), "text").unwrap();
    wait_for(1, "file");
    wait_for(11, "");
    std::fs::rename(at("file"), at("renamed")).unwrap();
    wait_for(8, "renamed\0file");
    std::os::unix::fs::symlink("renamed", at("link")).unwrap();
    wait_for(4, "link");
    std::fs::remove_file(at("old")).unwrap();
    wait_for(6, "old");
    std::fs::remove_dir(at("d")).unwrap();
    wait_for(7, "d");
}

#[test]
fn an_old_server_emits_the_records_of_its_generation() {
    for (generation, bits) in [
        (Generation::L2_0, 0x1000),
        (Generation::L2_4, 0x3000),
        (Generation::L2_7, 0x7000),
        (Generation::L2_11, 0xf000),
        (Generation::L2_16, 0xf000),
    ] {
        let sim = sim_with(|c| c.generation = generation);
        sim.control().emit(Plan::fill(5000, 3), true).unwrap();
        let bytes = bytes_to_end(&mut Changelog::open(sim.addr(), MDT, flags::READ).unwrap());
        let mut flags_seen = 0;
        let mut rest = bytes.as_slice();
        while let Some(len) = layout::record_len(rest) {
            flags_seen |= u16::from_le_bytes([rest[2], rest[3]]) & 0xf000;
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
        assert_eq!(flags_seen, bits, "{generation:?}");
        let seen = parse(&bytes);
        let renames = seen.iter().filter(|s| s.kind == 8).count();
        assert!(renames > 50);
        for (n, s) in seen.iter().enumerate().filter(|(_, s)| s.kind == 8) {
            if generation == Generation::L2_0 {
                // two records, the old name and the new one
                assert!(!s.name.contains('\0'));
                assert_eq!((seen[n + 1].kind, seen[n + 1].index), (9, s.index + 1));
            } else {
                assert!(s.name.contains('\0'));
            }
        }
    }
}

#[test]
fn what_is_no_record_is_refused_and_kept_indexes_must_rise() {
    let sim = sim();
    assert!(sim.mdt().emit(&record(1, "name", 1)[..50], Stamp::Now).is_err());
    let mut kept = record(1, "name", 1);
    layout::stamp(&mut kept, 5, 1_000_000_000);
    sim.mdt().emit(&kept, Stamp::Keep).unwrap();
    assert!(sim.mdt().emit(&kept, Stamp::Keep).is_err());
    assert_eq!(indexes(&to_end(&mut sim.open())), [5]);
}

#[test]
fn what_is_emitted_is_what_the_codec_of_clbridge_reads_and_writes() {
    use clbridge_schemas::lustre::{Record, records};
    for generation in [Generation::L2_0, Generation::L2_4, Generation::L2_7, Generation::L2_11, Generation::L2_16] {
        let sim = sim_with(|c| c.generation = generation);
        sim.mdt().set_mask(mask::ALL, false);
        sim.control().emit(Plan::fill(5000, 11), true).unwrap();
        let be = if generation == Generation::L2_16 { flags::NID_BE } else { 0 };
        let bytes = bytes_to_end(&mut Changelog::open(sim.addr(), MDT, flags::READ | be).unwrap());
        let mut written = Vec::new();
        for view in records(&bytes, 0) {
            Record::from_view(view.unwrap()).write(&mut written).unwrap();
        }
        // The parent of a record without a name is not to be trusted: the codec drops it, so lengths are compared for
        // all records, and bytes for those with a name.
        assert_eq!(parse(&written), parse(&bytes), "{generation:?}");
        assert_eq!(written.len(), bytes.len());
        let mut at = 0;
        while let Some(len) = layout::record_len(&bytes[at..]) {
            if bytes[at] != 0 {
                assert_eq!(written[at..at + len], bytes[at..at + len], "{generation:?}");
            }
            at += len;
        }
    }
}
