//! The command line as a user meets it.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn clbridge(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clbridge"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CLBRIDGE_")) {
        command.env_remove(name);
    }
    command.args(args).envs(env.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn schemas_lists_five_versions_and_prints_each_by_its_fingerprint() {
    let list = String::from_utf8(clbridge(&["schemas"], &[]).stdout).unwrap();
    let rows: Vec<Vec<&str>> = list.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 5, "{list}");
    for row in rows {
        let (by_version, by_fingerprint) = (clbridge(&["schemas", row[0]], &[]), clbridge(&["schemas", row[1]], &[]));
        assert_eq!(by_version.stdout, by_fingerprint.stdout);
        let schema: serde_json::Value = serde_json::from_slice(&by_version.stdout).unwrap();
        assert_eq!(schema["name"], "ChangelogRecord");
    }
    let unknown = clbridge(&["schemas", "6"], &[]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("clbridge schemas"));
}

#[test]
fn a_wrong_configuration_ends_a_command_with_the_key_in_the_message() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("clbridge.toml");
    std::fs::write(&file, "[clear]\nmin_ago = \"3s\"\n").unwrap();
    let output = clbridge(&["--config", file.to_str().unwrap(), "status"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("clear.min_ago"), "{}", stderr(&output));
    let output = clbridge(&["status"], &[("CLBRIDGE_CLEAR__BATCH", "0")]);
    assert!(stderr(&output).contains("clear.batch"), "{}", stderr(&output));
}

#[test]
fn status_without_a_bridge_says_where_it_asked() {
    // A port that was free a moment ago: nothing answers there.
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    drop(held);
    let output = clbridge(&["status", "--url", &format!("http://127.0.0.1:{port}")], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("127.0.0.1:{port}/status")), "{}", stderr(&output));
}

#[test]
fn a_wrong_command_line_is_status_two() {
    assert_eq!(clbridge(&["frobnicate"], &[]).status.code(), Some(2));
    assert_eq!(clbridge(&["decode"], &[]).status.code(), Some(2));
}
