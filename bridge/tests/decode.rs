//! `clbridge decode` against the captures of a real Lustre: the text is what `lfs changelog` printed there.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/lustre")
}

fn content(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|e| e == "gz") {
        let file = fs::File::open(path).unwrap();
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    } else {
        bytes = fs::read(path).unwrap();
    }
    bytes
}

/// Every capture's name without `.gz`, with its path.
fn all(ending: &str) -> Vec<(String, PathBuf)> {
    let paths: BTreeSet<PathBuf> = fs::read_dir(captures()).unwrap().map(|e| e.unwrap().path()).collect();
    let name = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().trim_end_matches(".gz").to_owned();
    paths.into_iter().map(|p| (name(&p), p)).filter(|(n, _)| n.ends_with(ending)).collect()
}

fn text_of(phase: &str) -> Option<Vec<u8>> {
    all(".lfs-changelog.txt").iter().find(|(n, _)| *n == format!("{phase}.lfs-changelog.txt")).map(|(_, p)| content(p))
}

/// The program reading `input` from standard input.
fn decode(input: &[u8], options: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_clbridge"))
        .args(["decode", "-"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that has stopped at an error no longer reads: then the pipe is broken, which is as it should be.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|b| *b == b'\n').collect()
}

#[test]
fn every_capture_of_the_tool_is_printed_byte_for_byte() {
    let mut compared = 0;
    for (name, path) in all(".ioctl-0x1e.bin") {
        let Some(expected) = text_of(name.trim_end_matches(".ioctl-0x1e.bin")) else {
            continue;
        };
        let output = decode(&content(&path), &[]);
        assert!(output.status.success(), "{name}");
        for (ours, theirs) in lines(&output.stdout).iter().zip(lines(&expected)) {
            assert_eq!(String::from_utf8_lossy(ours), String::from_utf8_lossy(theirs), "{name}");
        }
        assert!(output.stdout == expected, "{name}: lengths differ");
        compared += 1;
    }
    assert!(compared >= 10, "only {compared} captures have a text");
}

#[test]
fn every_other_capture_decodes_without_error() {
    let mut decoded = 0;
    for (name, path) in all(".bin") {
        let bytes = content(&path);
        let output = decode(&bytes, &[]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout.is_empty(), bytes.is_empty(), "{name}");
        decoded += 1;
    }
    assert!(decoded > 20, "only {decoded}");
}

#[test]
fn json_has_one_object_a_record_with_the_index_and_the_offset_if_asked() {
    let path = captures().join("p0-default-mask.MDT0000.ioctl-0x1e.bin");
    let text = text_of("p0-default-mask.MDT0000").unwrap();
    let output = decode(&content(&path), &["--json", "--at"]);
    let objects: Vec<serde_json::Value> =
        lines(&output.stdout).iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(objects.len(), lines(&text).len());
    assert_eq!(objects[0]["offset"], 0);
    for (object, line) in objects.iter().zip(lines(&text)) {
        let index = String::from_utf8_lossy(line).split(' ').next().unwrap().parse::<u64>().unwrap();
        assert_eq!(object["index"], index);
    }
}

#[test]
fn a_damaged_file_is_an_error_that_names_file_index_and_offset_after_what_was_right() {
    let path = captures().join("p0-default-mask.MDT0000.ioctl-0x1e.bin");
    let text = text_of("p0-default-mask.MDT0000").unwrap();
    let whole = content(&path);
    let offsets = String::from_utf8(decode(&whole, &["--at"]).stdout).unwrap();
    let third: usize = offsets.lines().nth(2).unwrap().split(':').next().unwrap().parse().unwrap();
    let mut damaged = whole.clone();
    damaged[third + 4..third + 8].copy_from_slice(&u32::MAX.to_le_bytes());

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("damaged.bin");
    fs::write(&file, &damaged).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_clbridge")).arg("decode").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, lines(&text)[..2].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    let index = String::from_utf8_lossy(lines(&text)[2]).split(' ').next().unwrap().to_owned();
    for word in ["damaged.bin", index.as_str(), &format!("byte {third}")] {
        assert!(error.contains(word), "{word} in {error}");
    }
}

#[test]
fn a_file_that_ends_inside_a_record_is_an_error_with_the_offset_of_that_record() {
    let whole = content(&captures().join("p0-default-mask.MDT0000.ioctl-0x1e.bin"));
    let output = decode(&whole[..whole.len() - 1], &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("standard input") && error.contains("at byte"), "{error}");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let (_, path) = all(".bin").into_iter().find(|(n, _)| n.starts_with("p9-storm") && n.contains("0x1e")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("storm.bin");
    fs::write(&file, content(&path)).unwrap();
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_clbridge")).arg("decode").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert!(child.wait().unwrap().success());
}
