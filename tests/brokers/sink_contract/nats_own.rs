//! NATS servers of a test's own, below the folder that `tests/up run` takes down.

use std::collections::BTreeMap;
use std::process::Command;

use clbridge_sinks::nats::{NatsConfig, NatsSink};

use crate::ground::variable;

/// Starts servers of this name and returns their variables.
pub fn start(name: &str, words: &[&str]) -> BTreeMap<String, String> {
    let dir = format!("{}/{name}", variable("CLB_RUN_DIR"));
    let started = Command::new(variable("CLB_UP")).args(["nats", "start", &dir]).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&started.stdout).into_owned();
    assert!(started.status.success(), "{said}{}", String::from_utf8_lossy(&started.stderr));
    said.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// A sink for them.
pub fn sink(env: &BTreeMap<String, String>, change: impl FnOnce(&mut NatsConfig)) -> NatsSink {
    let mut config = NatsConfig {
        servers: env["NATS_URL"].clone(),
        ack_wait_ms: 2_000,
        request_timeout_ms: 20_000,
        memory_bytes: 32 << 20,
        ..NatsConfig::default()
    };
    change(&mut config);
    NatsSink::new(config).unwrap()
}
