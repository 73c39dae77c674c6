//! Ground truth: what a real Lustre handed out, against what its own tool printed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use clbridge_schemas::lustre::{Record, RecordType, View, clfe, records};
use clbridge_schemas::text;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/lustre")
}

fn load(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if path.extension().is_some_and(|e| e == "gz") {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
        return plain;
    }
    bytes
}

/// All files of the folder whose name has `part`, as (name, content).
fn captures(part: &str) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().contains(part))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, load(&path))
        })
        .collect();
    found.sort();
    found
}

fn views(buf: &[u8]) -> Vec<View<'_>> {
    let mut walk = records(buf, 0);
    let views: Vec<_> = walk.by_ref().map(|v| v.unwrap()).collect();
    assert!(walk.rest().is_empty(), "a capture ends with a whole record");
    walk.finish().unwrap();
    views
}

fn lines(buf: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for view in views(buf) {
        text::lfs_line(&view, &mut out);
    }
    out
}

#[test]
fn every_record_reads_as_the_tool_printed_it_byte_for_byte() {
    let truths = captures(".lfs-changelog.txt");
    assert_eq!(truths.len(), 11, "captures with the tool's own text");
    for (name, truth) in truths {
        // Given what the tool itself read ...
        let bin = name.replace(".lfs-changelog.txt", ".ioctl-0x1e.bin");
        let bytes = load(&folder().join(&bin));
        // ... then it prints the tool's own text.
        assert!(lines(&bytes) == truth, "{bin} differs from {name}");
    }
}

#[test]
fn a_plain_read_differs_in_the_extra_flags_and_large_nids_only() {
    let mut large = 0;
    for (name, bytes) in captures(".plain-read.bin") {
        let twin = name.replace(".plain-read.bin", ".ioctl-0x1e.bin");
        if !folder().join(&twin).exists() {
            continue;
        }
        let twin = load(&folder().join(twin));
        for (plain, full) in views(&bytes).into_iter().zip(views(&twin)) {
            // Given the plain record with what the plain read cannot carry
            let mut record = Record::from_view(plain);
            if let (Some(extra), Some(nid)) = (plain.extra_flags(), full.nid()) {
                record.extra_flags = Some(extra | clfe::NID_BE);
                if nid.is_large() {
                    assert!(plain.nid().unwrap().is_zero());
                    record.nid = Some(nid);
                    large += 1;
                }
            }
            // then it is the other one.
            assert_eq!(record, Record::from_view(full), "{name}");
        }
    }
    assert!(large > 0, "no capture had a large NID");
}

#[test]
fn every_capture_decodes_and_survives_the_writer() {
    let mut seen = [0u32; 25];
    for (name, bytes) in captures(".bin") {
        let mut rebuilt = Vec::new();
        let originals = views(&bytes);
        assert!(!originals.is_empty(), "{name}");
        for view in &originals {
            seen[view.rtype().0 as usize] += 1;
            Record::from_view(*view).write(&mut rebuilt).unwrap();
        }
        for (view, again) in originals.iter().zip(views(&rebuilt)) {
            assert_eq!(*view, again, "{name}");
            assert_eq!(view.digest(), again.digest());
        }
    }
    // All types but RNMTO, which servers of today no longer write.
    for t in RecordType::known() {
        assert_eq!(seen[t.0 as usize] == 0, t == RecordType::RNMTO, "{t}");
    }
}

#[test]
fn a_crash_shows_in_the_digest_of_the_first_replayed_record() {
    let before = load(&folder().join("p7-crash.MDT0000.follow-reader.bin"));
    let after = load(&folder().join("p7-crash.MDT0000.after-recovery.bin"));
    let after = views(&after);
    let differs: Vec<u64> = views(&before)
        .into_iter()
        .filter(|b| after.iter().any(|a| a.index() == b.index() && a.digest() != b.digest()))
        .map(|b| b.index())
        .collect();
    assert_eq!(differs.first(), Some(&222_874));
}
