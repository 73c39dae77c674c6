//! Captures of a real Lustre, replayed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clbridge::source::{Clearer, Probe, Replay, ReplayFactory, Source, SourceError, SourceFactory};
use clbridge_schemas::ids::MdtName;
use clbridge_schemas::lustre::records;

fn nz(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

fn mdt() -> MdtName {
    "lustre-MDT0000".parse().unwrap()
}

fn capture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/lustre").join(name)
}

fn open(files: &[&str], looped: bool) -> (Box<dyn Source>, Box<dyn Clearer>) {
    let files: Vec<_> = files.iter().map(|name| capture(name)).collect();
    let replay = Replay::load(&mdt(), &files, looped).unwrap();
    ReplayFactory::new([(mdt(), replay)]).open(&mdt(), "cl1").unwrap()
}

fn take(source: &mut dyn Source, limit: usize) -> Vec<u64> {
    let mut buf = Vec::new();
    let read = source.read(&mut buf, limit, Duration::ZERO).unwrap();
    assert!(read.bytes == buf.len() && !read.in_doubt());
    records(&buf, 0).map(|view| view.unwrap().index()).collect()
}

#[test]
fn a_packed_capture_comes_whole_in_pieces_of_any_size_with_its_own_indexes() {
    for limit in [0, 5000, 1 << 20, 1 << 30] {
        let (mut source, _) = open(&["p5-storm.MDT0000.plain-read.bin.gz"], false);
        let mut indexes = Vec::new();
        loop {
            let some = take(&mut *source, limit);
            if some.is_empty() {
                break;
            }
            indexes.extend(some);
        }
        assert!(indexes.into_iter().eq(750..=50_349), "in pieces of {limit} bytes");
    }
}

#[test]
fn a_looped_capture_goes_on_with_rising_indexes_and_a_probe_finds_what_was_read() {
    let (mut source, mut clearer) = open(&["p2-main-all-mask.MDT0000.plain-read.bin"], true);
    let (mut seen, mut buf) = (Vec::new(), Vec::new());
    while seen.len() < 2000 {
        buf.clear();
        source.read(&mut buf, 10_000, Duration::ZERO).unwrap();
        seen.extend(records(&buf, 0).map(|view| view.map(|v| (v.index(), v.digest())).unwrap()));
    }
    assert!(seen.is_sorted_by(|a, b| a.0 < b.0));
    for &(index, digest) in seen.iter().step_by(97) {
        assert_eq!(clearer.probe(nz(index)).unwrap(), Probe::Found(digest));
        source.seek(nz(index)).unwrap();
        assert_eq!(take(&mut *source, 952)[0], index);
    }
}

#[test]
fn seeking_a_gap_begins_behind_it_and_seeking_behind_the_end_brings_nothing() {
    let (mut source, mut clearer) = open(&["p0-default-mask.MDT0000.plain-read.bin"], false);
    let all = take(&mut *source, 1 << 20);
    let last = *all.last().unwrap();
    source.seek(nz(last + 1)).unwrap();
    assert!(take(&mut *source, 1 << 20).is_empty());
    assert_eq!(clearer.probe(nz(last + 1)).unwrap(), Probe::Nothing);
    source.seek(nz(1)).unwrap();
    assert_eq!(take(&mut *source, 1 << 20), all);
    assert_eq!(clearer.oldest().unwrap(), all.first().copied());
}

#[test]
fn captures_that_do_not_follow_each_other_or_end_within_a_record_are_refused() {
    let twice = [capture("p0-default-mask.MDT0000.plain-read.bin"), capture("p0-default-mask.MDT0000.plain-read.bin")];
    assert!(matches!(Replay::load(&mdt(), &twice, false), Err(SourceError::OutOfOrder { .. })));
    let mut bytes = std::fs::read(&twice[0]).unwrap();
    bytes.pop();
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut.bin");
    std::fs::write(&cut, bytes).unwrap();
    assert!(matches!(Replay::load(&mdt(), &[cut], false), Err(SourceError::Malformed { .. })));
    let error = Replay::load(&mdt(), &[dir.path().join("absent.bin")], false).unwrap_err();
    assert!(error.to_string().contains("absent.bin") && error.is_vanished(), "{error}");
}
