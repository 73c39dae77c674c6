//! Groups whose positions vanish or never were: each holds back, says why, and has a command that ends it.

use std::time::Duration;

use clbridge::status::Holding;
use clbridge_tests::bridge::{Options, PARTITIONS};
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::{tell, wait};

/// Why the group with this short name holds on the only MDT, if it does.
pub fn holding(run: &Run, group: &str) -> Option<Holding> {
    let name = run.group(group);
    run.running().remove(0).groups.into_iter().find(|g| g.name == name).expect("status shows the group").holding
}

/// Waits until the group holds for this reason; returns what `status` says of it.
pub fn held(run: &Run, group: &str, reason: &str) -> Holding {
    let why = wait::until("the group holds", PATIENCE, || holding(run, group));
    assert_eq!(why.reason, reason, "{}", why.text);
    tell!("{group} holds: {} ({}); ended by: {}", why.reason, why.text, why.command);
    why
}

/// Nothing is cleared while the load goes on. A clear that was on its way when the group began to hold may still end.
pub fn nothing_is_cleared(run: &Run) {
    std::thread::sleep(Duration::from_millis(500));
    let cleared = run.sim.cleared();
    let logged = run.sim.backlog();
    wait::throughout("nothing is cleared while the group holds", Duration::from_secs(3), || {
        run.sim.cleared() == cleared
    });
    assert!(run.sim.backlog() > logged, "nothing was logged meanwhile");
}

/// Clears go on; the run is judged.
pub fn end(run: Run, fault: &str) {
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 2000);
    run.sim.emit_stop();
    run.finish(fault, 1, 0);
}

/// Of which one is behind.
pub fn two_groups() -> Options {
    Options { groups: vec!["robinhood", "lake"], ..Options::default() }
}

#[test]
fn a_deleted_group_holds_until_its_positions_are_accepted_anew() {
    // given two groups, one of which has no members for a while
    let mut run = Run::new("group-deleted", 1, &two_groups());
    run.start();
    run.join("robinhood", &[]);
    let lake = run.join("lake", &[]);
    run.sim.emit(0, 2000);
    run.cleared_beyond(4000);
    run.members.remove(lake).stop();

    // when it is deleted
    let group = run.group("lake");
    run.broker.tool("kafka-consumer-groups", &["--delete", "--group", &group]);

    // then it holds, nothing is cleared, and the command in status ends it
    let why = held(&run, "lake", "positions_vanished");
    nothing_is_cleared(&run);
    run.obey(&why.command);
    wait::until_true("the group no longer holds", PATIENCE, || holding(&run, "lake").is_none());
    run.join("lake", &[]);
    end(run, "group deleted");
}

#[test]
fn a_group_whose_offsets_expired_holds_until_its_positions_are_accepted_anew() {
    // given a broker that forgets the positions of a group without members after a minute, its shortest time
    let settings = ["offsets.retention.minutes=1", "offsets.retention.check.interval.ms=1000"];
    let mut run = Run::on_own_broker("group-expired", &settings, 1, &two_groups());
    run.start();
    run.join("robinhood", &[]);
    let lake = run.join("lake", &[]);
    run.sim.emit(0, 500);
    run.cleared_beyond(1000);

    // when one group has no members for so long
    run.members.remove(lake).stop();

    // then it holds, nothing is cleared, and the command in status ends it
    let why = held(&run, "lake", "positions_vanished");
    nothing_is_cleared(&run);
    run.obey(&why.command);
    wait::until_true("the group no longer holds", PATIENCE, || holding(&run, "lake").is_none());
    run.join("lake", &[]);
    end(run, "offsets expired");
}

#[test]
fn a_group_that_never_committed_holds_everything_back_until_it_does() {
    // given a group whose member reads and never commits
    let mut run = Run::new("group-never", 1, &two_groups());
    run.start();
    run.join("robinhood", &[]);
    let lake = run.join("lake", &["--never-commit"]);
    run.sim.emit(0, 2000);

    // when the other group is far ahead
    wait::until_true("the other group has acknowledged", PATIENCE, || {
        let name = run.group("robinhood");
        run.bridge.running(1).is_some_and(|m| m[0].groups.iter().any(|g| g.name == name && g.floor > 4000))
    });

    // then nothing is cleared, status shows who is behind, and a member that commits ends it
    assert_eq!(run.sim.cleared(), 0, "cleared what a group never acknowledged");
    nothing_is_cleared(&run);
    let name = run.group("lake");
    let status = run.running().remove(0);
    let behind = status.groups.iter().find(|g| g.name == name).unwrap();
    tell!("lake never committed: floor {}, lag {} records, {}", behind.floor, behind.lag_records, behind.state);
    assert_eq!(behind.floor, 0);
    assert!(behind.lag_records > 4000);
    run.members.remove(lake).stop();
    run.join("lake", &[]);
    end(run, "group never committed");
}

#[test]
fn records_deleted_behind_our_back_hold_until_the_group_has_read_them_from_its_repair_topic() {
    // given two groups, one of which has no members for a while and is behind the other
    let mut run = Run::new("records-deleted", 1, &two_groups());
    run.start();
    run.join("robinhood", &["--log-records"]);
    let lake = run.join("lake", &[]);
    run.sim.emit(0, 2000);
    run.cleared_beyond(4000);
    run.members.remove(lake).stop();
    std::thread::sleep(Duration::from_secs(1));
    run.sim.emit_stop();
    let (mdt, robinhood) = (run.sim.mdts()[0].clone(), run.group("robinhood"));
    let newest = run.sim.stats(&mdt).last_index;
    wait::until_true("the other group has acknowledged everything", PATIENCE, || {
        run.bridge.running(1).is_some_and(|m| m[0].groups.iter().any(|g| g.name == robinhood && g.floor >= newest))
    });

    // when somebody deletes all records of the topic
    let topic = run.topic(&mdt);
    let file = run.scene.dir().join("delete.json");
    let partitions: Vec<_> =
        (0..PARTITIONS).map(|p| serde_json::json!({"topic": topic, "partition": p, "offset": -1})).collect();
    std::fs::write(&file, serde_json::json!({"partitions": partitions, "version": 1}).to_string()).unwrap();
    run.broker.tool("kafka-delete-records", &["--offset-json-file", file.to_str().unwrap()]);

    // then the group behind holds, nothing is cleared, and the command in status publishes again what it missed
    let why = held(&run, "lake", "evicted");
    run.sim.emit(0, 500);
    nothing_is_cleared(&run);
    run.obey(&why.command);
    let topics = format!("{topic},{topic}.repair.{}", run.group("lake"));
    wait::until_true("the records stand in the repair topic", PATIENCE, || {
        holding(&run, "lake").is_some_and(|why| why.reason == "repair_unread")
    });
    nothing_is_cleared(&run);
    run.join_topics("lake", &topics, &[]);
    wait::until_true("the group no longer holds", PATIENCE, || holding(&run, "lake").is_none());
    assert!(holding(&run, "robinhood").is_none(), "the group that had read everything missed nothing");
    end(run, "records deleted and repaired");
}
