//! Others change topics and positions behind our back: nothing is lost by it, nothing cleared, and `status` says what to
//! do where something has to be done.

use std::time::Duration;

use clbridge::status::Phase;
use clbridge_tests::bridge::{Options, PARTITIONS};
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::{tell, wait};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::groups::{end, held, holding, nothing_is_cleared, two_groups};

/// One MDT with a load, two groups: `robinhood` keeps up, `lake` has left after some records and is behind.
fn one_behind(name: &str) -> Run {
    let mut run = Run::new(name, 1, &two_groups());
    run.start();
    run.join("robinhood", &["--log-records"]);
    let lake = run.join("lake", &["--log-records"]);
    run.sim.emit(0, 1000);
    run.cleared_beyond(3000);
    run.members.remove(lake).stop();
    std::thread::sleep(Duration::from_secs(1));
    run
}

fn topic(run: &Run) -> String {
    run.topic(&run.sim.mdts()[0])
}

fn configure(run: &Run, words: &[&str]) {
    let topic = topic(run);
    let all = [&["--alter", "--entity-type", "topics", "--entity-name", topic.as_str()], words].concat();
    run.broker.tool("kafka-configs", &all);
}

/// Waits until the only MDT is stopped; returns what `status` says: the error and the command.
fn stopped(run: &Run) -> (String, String) {
    let said = wait::until("the MDT is stopped", PATIENCE, || match run.bridge.status()?.mdts.pop()?.phase {
        Phase::Stopped { error, command } => Some((error, command)),
        _ => None,
    });
    tell!("stopped: {} · {}", said.0, said.1);
    said
}

fn goes_on(run: &Run) {
    wait::until_true("the MDT runs again", PATIENCE, || run.bridge.running(1).is_some());
}

/// Commits a position for a group without members, as a careless script would.
fn commit(run: &Run, group: &str, partition: u32, to: i64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", run.broker.at())
        .set("group.id", run.group(group))
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic(run), partition as i32, Offset::Offset(to)).unwrap();
    consumer.commit(&list, CommitMode::Sync).unwrap();
    tell!("{group} was set to {to} in partition {partition}");
}

fn committed(run: &Run, group: &str, partition: u32) -> i64 {
    let name = run.group(group);
    let groups = run.running().remove(0).groups;
    let at = groups.iter().find(|g| g.name == name).unwrap().committed[partition as usize];
    i64::try_from(at.unwrap()).unwrap()
}

#[test]
fn a_topic_deleted_and_made_again_stops_the_mdt_until_an_operator_resets_it() {
    // given a group that has not read everything
    let mut run = one_behind("topic-recreated");
    for member in std::mem::take(&mut run.members) {
        member.stop();
    }
    let topic = topic(&run);

    // when the topic is deleted, and made again with the same name, under a load that goes on
    run.broker.tool("kafka-topics", &["--delete", "--topic", &topic]);
    wait::until_true("the topic is gone", PATIENCE, || {
        !run.broker.tool("kafka-topics", &["--list"]).lines().any(|l| l == topic)
    });
    let settings = ["retention.ms=-1", "retention.bytes=-1", "max.message.bytes=2000000"];
    let mut words = vec!["--create", "--topic", &topic, "--partitions", "4"];
    for setting in settings {
        words.extend(["--config", setting]);
    }
    run.broker.tool("kafka-topics", &words);
    run.topics_are_new();

    // then the MDT is stopped, nothing is cleared, and a reset publishes what the MDT still has
    let (error, command) = stopped(&run);
    assert!(error.contains(&topic), "{error}");
    assert!(error.contains("clbridge reset") || command.contains("clbridge reset"), "{error} · {command}");
    let reset = format!("clbridge reset {} --yes", run.sim.mdts()[0]);
    let cleared = run.sim.cleared();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(run.sim.cleared(), cleared, "cleared while it was stopped");
    run.obey(&reset);
    goes_on(&run);

    // and the groups, whose positions went with the old topic, have new ones at its start
    run.join("robinhood", &["--log-records"]);
    run.join("lake", &["--log-records"]);
    end(run, "topic deleted and made again");
}

#[test]
fn records_that_a_retention_set_by_others_deleted_are_read_from_the_repair_topic() {
    // given a group that is behind
    let mut run = one_behind("retention");
    run.sim.emit_stop();
    let (newest, robinhood) = (run.sim.stats(&run.sim.mdts()[0].clone()).last_index, run.group("robinhood"));
    wait::until_true("the other group has acknowledged everything", PATIENCE, || {
        run.bridge.running(1).is_some_and(|m| m[0].groups.iter().any(|g| g.name == robinhood && g.floor >= newest))
    });

    // when somebody sets a retention of a second, and the broker deletes what the group has not read
    configure(&run, &["--add-config", "retention.ms=1000,segment.ms=1000"]);
    let why = held(&run, "lake", "evicted");
    configure(&run, &["--delete-config", "segment.ms"]);
    configure(&run, &["--add-config", "retention.ms=-1"]);
    run.ended("kafka-configs --add-config retention.ms=-1");

    // then nothing is cleared, and the command in status publishes again what was missed
    run.sim.emit(0, 500);
    nothing_is_cleared(&run);
    run.obey(&why.command);
    let topic = topic(&run);
    let topics = format!("{topic},{topic}.repair.{}", run.group("lake"));
    wait::until_true("the records stand in the repair topic", PATIENCE, || {
        holding(&run, "lake").is_some_and(|why| why.reason == "repair_unread")
    });
    run.join_topics("lake", &topics, &["--log-records"]);
    wait::until_true("the group no longer holds", PATIENCE, || holding(&run, "lake").is_none());
    end(run, "retention set by others");
}

#[test]
fn partitions_added_by_others_stay_empty_and_order_holds() {
    // given two groups that keep up
    let mut run = Run::new("partitions-added", 1, &two_groups());
    run.start();
    // As docs/brokers/kafka.md advises: a group has no position in a partition that others added.
    run.join("robinhood", &["--reset", "earliest"]);
    run.join("lake", &["--reset", "earliest"]);
    run.sim.emit(0, 2000);
    run.cleared_beyond(3000);

    // when somebody doubles the partitions, and the bridge is killed and started again
    run.pinned = PARTITIONS;
    run.broker.tool("kafka-topics", &["--alter", "--topic", &topic(&run), "--partitions", "8"]);
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 4000);
    run.bridge.kill9();
    run.bridge.start(None);

    // then all goes on in the partitions by which keys were spread at first
    wait::until_true("the bridge says that it leaves them alone", PATIENCE, || {
        run.bridge.log().contains("has 8 partitions now; clbridge goes on with the first 4")
    });
    run.ended("nothing had to be");
    end(run, "partitions added by others");
}

#[test]
fn a_group_set_back_holds_until_it_has_read_up_to_where_it_was() {
    // given two groups that keep up, one of which leaves
    let mut run = one_behind("position-back");

    // when that one is set back
    let at = committed(&run, "lake", 1);
    commit(&run, "lake", 1, at / 2);

    // then it holds, nothing is cleared, and its own reading ends that
    held(&run, "lake", "went_back");
    nothing_is_cleared(&run);
    run.join("lake", &["--log-records"]);
    run.ended("the group's own commits");
    wait::until_true("the group no longer holds", PATIENCE, || holding(&run, "lake").is_none());
    end(run, "group offsets set back");
}

#[test]
fn a_group_set_beyond_the_end_holds_until_its_position_is_put_right() {
    // given a group that is behind, and a topic that nothing is written to
    let mut run = one_behind("position-beyond");
    run.sim.emit_stop();
    let at = committed(&run, "lake", 1);

    // when it is set far beyond the end
    commit(&run, "lake", 1, at + 10_000_000);

    // then it holds, nothing is cleared, and its position put right and accepted ends that
    let why = held(&run, "lake", "beyond_end");
    run.sim.emit(0, 1000);
    nothing_is_cleared(&run);
    commit(&run, "lake", 1, at);
    run.ended("its position put right");
    run.obey(&why.command);
    wait::until_true("the group no longer holds", PATIENCE, || holding(&run, "lake").is_none());
    run.join("lake", &["--log-records"]);
    end(run, "group offsets set beyond the end");
}

#[test]
fn batches_larger_than_the_topic_allows_stop_the_mdt_until_the_limit_is_raised() {
    // given two groups that keep up
    let mut run = Run::new("oversized", 1, &two_groups());
    run.start();
    run.join("robinhood", &[]);
    run.join("lake", &[]);
    run.sim.emit(0, 2000);
    run.cleared_beyond(3000);

    // when the topic's limit falls below any batch
    configure(&run, &["--add-config", "max.message.bytes=300"]);

    // then the MDT is stopped, nothing is lost meanwhile, and the limit that status names ends it
    let (error, _) = stopped(&run);
    assert!(error.contains("max.message.bytes"), "{error}");
    configure(&run, &["--add-config", "max.message.bytes=2000000"]);
    run.ended("kafka-configs --add-config max.message.bytes=2000000");
    goes_on(&run);
    end(run, "messages larger than the topic allows");
}

#[test]
fn a_released_group_reads_its_records_later_although_the_mdt_was_cleared() {
    // given a replicated cluster, and a group that may hold back no more than 1,000 records
    let options = Options {
        groups: vec!["robinhood", "lake"],
        released: vec![("lake", 1000)],
        more: super::replicated::REPLICATED,
        ..Options::default()
    };
    let mut run = Run::on_cluster("released", 1, &options);
    run.start();
    run.join("robinhood", &[]);

    // when it has no members while the other one works
    run.sim.emit(0, 2000);
    run.cleared_beyond(6000);

    // then the MDT is cleared, status says that it was let go, and it reads everything when it comes
    let name = run.group("lake");
    let lake = run.running().remove(0).groups.into_iter().find(|g| g.name == name).unwrap();
    tell!("lake: {}, floor {}, released up to {}", lake.state, lake.floor, lake.released);
    assert_eq!((lake.state.as_str(), lake.floor), ("released", 0));
    assert!(lake.released > 4000, "released only up to {}", lake.released);
    run.join("lake", &[]);
    run.ended("the group's return");
    wait::until_true("the group has caught up", PATIENCE, || {
        run.bridge.running(1).is_some_and(|m| m[0].groups.iter().any(|g| g.name == name && g.state == "active"))
    });
    end(run, "group released, and back");
}
