//! End to end on real brokers: every record that the simulated MDTs' oracle knows reaches every group, once and in
//! order, and nothing is cleared before. The judge says so, record by record.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use clbridge_tests::bridge::Options;
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::sink::Sink;
use clbridge_tests::{binaries, tell, wait};

#[test]
fn two_mdts_reach_three_groups_while_a_member_is_killed_and_another_joins() {
    two_mdts_and_three_groups(Sink::Kafka, |run| {
        // Java's own tool shows the positions and the lag that status shows.
        let status = run.scene.dir().join("status.json");
        std::fs::write(&status, run.bridge.says(&["status", "--json"])).unwrap();
        let said = binaries::up()
            .args(["python", "tests/interop/java_groups.py", "--bootstrap", run.broker.at(), "--status"])
            .arg(&status)
            .output()
            .unwrap();
        tell!("{}", String::from_utf8_lossy(&said.stdout).trim());
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    });
}

fn two_mdts_and_three_groups(sink: Sink, then: impl FnOnce(&Run)) {
    // given two MDTs and three groups, one of them with two members
    let options = Options { sink, groups: vec!["robinhood", "lake", "audit"], ..Options::default() };
    let mut run = Run::new("e2e", 2, &options);
    run.start();
    let killed = run.join("robinhood", &["--log-records"]);
    run.join("robinhood", &["--log-records"]);
    run.join("lake", &[]);
    run.join("audit", if sink == Sink::Kafka { &["--assignor", "cooperative-sticky"] } else { &[] });

    // when under load one member is killed -9 and another joins
    let rate = sink.rate(4000);
    run.sim.emit(0, rate);
    run.cleared_beyond(2 * rate);
    let began = Instant::now();
    run.members.remove(killed).kill9();
    let before = run.durable();
    run.join("robinhood", &["--log-records"]);
    let recovery_ms = run.recovered_ms(began, &before);
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 2 * rate);
    run.sim.emit_stop();
    run.all_cleared();

    // then everything was cleared, and the judge is content
    then(&run);
    run.finish("member killed and another joined", 1, recovery_ms);
}

#[test]
fn a_feed_publishes_its_types_in_its_schema_version_to_the_groups_that_take_it() {
    a_feed_of_a_few_types(Sink::Kafka);
}

fn a_feed_of_a_few_types(sink: Sink) {
    // given the default feed and one of a few types in the second schema version, with a group each
    let options = Options {
        sink,
        groups: vec!["lake", "names@names"],
        feeds: vec![("names", &["CREAT", "UNLNK", "RENME"], 2)],
        ..Options::default()
    };
    let mut run = Run::new("feeds", 1, &options);
    run.start();
    let names = run.topic_of(&run.sim.mdts()[0], "names");
    run.join("lake", &["--log-records"]);
    let behind = run.join_topics("names", &names, &["--log-records"]);

    // when the group of the few types is away for a while
    run.sim.emit(0, sink.rate(3000));
    run.cleared_beyond(3000);
    run.members.remove(behind).stop();
    let lake = run.group("lake");
    wait::until_true("the other group is ahead", PATIENCE, || {
        let cleared = run.sim.cleared();
        run.running()[0].groups.iter().any(|g| g.name == lake && g.floor > cleared + 3000)
    });

    // then what it has not acknowledged is not cleared, and once it is back everything is
    run.join_topics("names", &names, &["--log-records"]);
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 3000);
    run.sim.emit_stop();
    run.finish("group of a feed away for a while", 1, 0);
}

#[test]
fn a_new_mdt_reaches_the_groups_that_run_already_by_name_and_by_pattern() {
    // given a group by name, and one that a pattern makes persistent when it commits
    let options = Options { more: "[[patterns]]\npattern = \".*-audit\"", ..Options::default() };
    let mut run = Run::new("new-mdt", 1, &options);
    run.start();
    let every = format!("^{}\\.lustre-MDT[0-9a-f]{{4}}$", run.scene.name());
    run.joined_by_pattern = vec!["audit"];
    run.join_topics("audit", &every, &["--reset", "earliest", "--log-records"]);
    run.sim.emit_all(1000, 1000);
    let audit = run.group("audit");
    wait::until_true("the pattern's group is registered", PATIENCE, || {
        run.running()[0].groups.iter().any(|g| g.name == audit)
    });
    assert_eq!(run.sim.cleared(), 0, "the named group has acknowledged nothing yet");
    // A member may see a new topic before the positions in it are written, while it is still empty.
    run.join_topics("robinhood", &every, &["--reset", "earliest", "--log-records"]);
    run.cleared_beyond(500);

    // when another MDT appears while their members run
    run.sim.restart_with(&run.scene, 2);
    wait::until_true("the new MDT's pipeline runs with both groups", PATIENCE, || {
        run.bridge.running(2).is_some_and(|mdts| mdts.iter().all(|m| m.groups.len() == 2))
    });
    run.sim.emit_all(10_000, 3000);

    // then its records reach both from the first one on, and are cleared
    run.all_cleared();
    assert!(run.sim.stats(&run.sim.mdts()[1]).cleared.unwrap_or(0) > 0, "nothing of the new MDT was cleared");
    run.finish("new MDT under running groups", 1, 0);
}

/// The same on the sinks that are not Kafka.
macro_rules! on {
    ($($module:ident: $sink:expr;)*) => {
        $(
            mod $module {
                use clbridge_tests::sink::Sink;

                #[test]
                fn two_mdts_reach_three_groups_while_a_member_is_killed_and_another_joins() {
                    super::two_mdts_and_three_groups($sink, |_| ());
                }

                #[test]
                fn a_feed_publishes_its_types_in_its_schema_version_to_the_groups_that_take_it() {
                    super::a_feed_of_a_few_types($sink);
                }
            }
        )*
    };
}

on! { nats: Sink::Nats; amqp: Sink::Amqp; files: Sink::Files; }
