//! End to end on a real Kafka: every record that the simulated MDTs' oracle knows reaches every group, once and in
//! order, and nothing is cleared before. The judge says so, record by record.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use clbridge_tests::bridge::Options;
use clbridge_tests::run::Run;
use clbridge_tests::{binaries, tell};

#[test]
fn two_mdts_reach_three_groups_while_a_member_is_killed_and_another_joins() {
    // given two MDTs and three groups, one of them with two members
    let options = Options { groups: vec!["robinhood", "lake", "audit"], ..Options::default() };
    let mut run = Run::new("e2e", 2, &options);
    run.start();
    let killed = run.join("robinhood", &["--log-records"]);
    run.join("robinhood", &["--log-records"]);
    run.join("lake", &[]);
    run.join("audit", &["--assignor", "cooperative-sticky"]);

    // when under load one member is killed -9 and another joins
    run.sim.emit(0, 4000);
    run.cleared_beyond(8000);
    let began = Instant::now();
    run.members.remove(killed).kill9();
    let before = run.durable();
    run.join("robinhood", &["--log-records"]);
    let recovery_ms = run.recovered_ms(began, &before);
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 8000);
    run.sim.emit_stop();
    run.all_cleared();

    // then Java's own tool shows the positions and the lag that status shows, and the judge is content
    let status = run.scene.dir().join("status.json");
    std::fs::write(&status, run.bridge.says(&["status", "--json"])).unwrap();
    let said = binaries::up()
        .args(["python", "tests/interop/java_groups.py", "--bootstrap", run.broker.bootstrap(), "--status"])
        .arg(&status)
        .output()
        .unwrap();
    tell!("{}", String::from_utf8_lossy(&said.stdout).trim());
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    run.finish("member killed and another joined", 1, recovery_ms);
}
