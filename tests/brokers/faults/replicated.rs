//! A cluster of three brokers, two copies at least: brokers killed and stalled, the network cut, a quota.

use std::time::{Duration, Instant};

use clbridge_tests::bridge::Options;
use clbridge_tests::proxy::Traffic;
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::times::times;
use clbridge_tests::{tell, wait};

/// What a bridge on a replicated cluster is told.
pub const REPLICATED: &str = "replication_factor = 3\nmin_insync = 2";

/// Two MDTs under load that goes on, two groups that keep up.
fn under_load(name: &str, options: Options) -> Run {
    let options = Options { groups: vec!["robinhood", "lake"], more: REPLICATED, ..options };
    let mut run = Run::on_cluster(name, 2, &options);
    run.start();
    run.join("robinhood", &[]);
    run.join("lake", &[]);
    run.sim.emit(0, 2000);
    run.cleared_beyond(4000);
    run
}

/// Everything flows again: records become durable and clears go on. Returns the milliseconds until the former.
fn flows_again(run: &Run, before: &[u64]) -> u64 {
    let ms = run.recovered_ms(Instant::now(), before);
    let cleared = run.sim.cleared();
    run.cleared_beyond(cleared + 2000);
    ms
}

fn end(run: Run, fault: &str, runs: u32, recovery_ms: u64) {
    run.sim.emit_stop();
    run.finish(fault, runs, recovery_ms);
}

#[test]
fn nothing_is_lost_when_brokers_are_killed_one_by_one_and_all_together() {
    // given a cluster under load
    let mut run = under_load("replicated-kills", Options::default());
    let (rounds, mut recovery_ms) = (times(1), 0);
    for _ in 0..rounds {
        // when each broker in turn is killed -9, records go on flowing without it
        for node in 1..=3 {
            let before = run.durable();
            run.broker.one(node, "kill");
            let ms = flows_again(&run, &before);
            tell!("broker {node} killed: durable again after {ms} ms");
            recovery_ms = recovery_ms.max(ms);
            run.broker.one(node, "restart");
            run.broker.in_sync();
        }
        // and when all are killed together, they flow once the brokers are back
        let before = run.durable();
        run.broker.kill9();
        std::thread::sleep(Duration::from_secs(1));
        run.broker.restart();
        let ms = flows_again(&run, &before);
        tell!("all brokers killed and restarted: durable again after {ms} ms");
        recovery_ms = recovery_ms.max(ms);
        run.broker.in_sync();
    }
    run.ended_by = "by itself: another leader, or the brokers' return".into();
    end(run, "brokers killed -9 one by one, then all together (3 replicas)", rounds * 4, recovery_ms);
}

#[test]
fn nothing_is_lost_when_brokers_stall_one_by_one_and_all_together() {
    // given a cluster under load
    let mut run = under_load("replicated-stalls", Options::default());
    let (rounds, mut recovery_ms) = (times(1), 0);
    for _ in 0..rounds {
        // when each broker in turn stands still for longer than its session, and comes back as what it was before
        for node in 1..=3 {
            let before = run.durable();
            run.broker.one(node, "stall");
            std::thread::sleep(Duration::from_secs(8));
            let ms = flows_again(&run, &before);
            run.broker.one(node, "continue");
            tell!("broker {node} stalled for more than 8 s: durable again {ms} ms after those");
            recovery_ms = recovery_ms.max(ms);
            run.broker.in_sync();
        }
        // and when all stand still
        let before = run.durable();
        run.broker.stop();
        std::thread::sleep(Duration::from_secs(5));
        let before = run.durable_by_now(before);
        run.broker.cont();
        recovery_ms = recovery_ms.max(flows_again(&run, &before));
        run.broker.in_sync();
    }
    run.ended_by = "by itself: another leader, or the brokers' return".into();
    end(run, "brokers stalled one by one, then all together (3 replicas)", rounds * 4, recovery_ms);
}

#[test]
fn nothing_is_lost_when_a_follower_is_stopped_while_the_leader_is_killed() {
    // given a cluster under load
    let mut run = under_load("replicated-follower", Options::default());
    let topic = run.topic(&run.sim.mdts()[0].clone());
    let (rounds, mut recovery_ms) = (times(1), 0);
    for _ in 0..rounds {
        // when a follower stands still and the leader is killed before anybody has noticed
        let (leader, followers) = run.broker.replicas(&topic, 0);
        let follower = followers[0];
        let before = run.durable();
        run.broker.one(follower, "stall");
        run.broker.one(leader, "kill");
        std::thread::sleep(Duration::from_secs(3));
        let before = run.durable_by_now(before);
        tell!("partition 0: leader {leader} killed while follower {follower} stood still");

        // then nothing is confirmed by the one that is left, and all flows when the two are back
        run.broker.one(follower, "continue");
        run.broker.one(leader, "restart");
        recovery_ms = recovery_ms.max(flows_again(&run, &before));
        run.broker.in_sync();
    }
    run.ended_by = "by itself, when two brokers were there again".into();
    end(run, "follower stopped while the leader is killed (3 replicas)", rounds, recovery_ms);
}

#[test]
fn nothing_is_lost_when_the_network_between_bridge_and_brokers_is_cut() {
    // given a bridge that reaches the cluster through a proxy
    let mut run = under_load("replicated-network", Options { by_proxy: true, ..Options::default() });
    let (rounds, mut recovery_ms) = (times(1), 0);
    for _ in 0..rounds {
        for (traffic, seconds) in [(Traffic::Held, 8), (Traffic::Cut, 8)] {
            // when nothing passes for a while
            let before = run.durable();
            run.broker.traffic(traffic);
            std::thread::sleep(Duration::from_secs(seconds));
            let before = run.durable_by_now(before);
            run.broker.traffic(Traffic::Passes);

            // then all flows when it does again
            let ms = flows_again(&run, &before);
            tell!("network {traffic:?} for {seconds} s: durable again after {ms} ms");
            recovery_ms = recovery_ms.max(ms);
        }
    }
    run.ended_by = "by itself, with the network".into();
    end(run, "network between bridge and brokers dropped, then cut", rounds * 2, recovery_ms);
}

#[test]
fn clears_go_on_behind_brokers_that_answer_later_than_the_groups_are_looked_at() {
    // given a bridge that looks at its groups every 100 ms, and reaches the cluster through a proxy
    let mut run = under_load("replicated-slow", Options { by_proxy: true, ..Options::default() });
    let (rounds, mut recovery_ms) = (times(1), 0);
    for _ in 0..rounds {
        // when every answer takes half a second longer
        run.broker.traffic(Traffic::Slow);
        let (before, cleared) = (run.durable(), run.sim.cleared());

        // then records become durable, and what groups acknowledge is cleared, far beyond what was on its way
        recovery_ms = recovery_ms.max(run.recovered_ms(Instant::now(), &before));
        run.cleared_beyond(cleared + 20_000);
        run.broker.traffic(Traffic::Passes);
    }
    run.ended_by = "nothing had to be".into();
    end(run, "network between bridge and brokers slow: half a second for an answer", rounds, recovery_ms);
}

#[test]
fn nothing_is_lost_when_a_quota_throttles_the_bridge() {
    // given a cluster under load
    let mut run = under_load("replicated-quota", Options::default());
    let change = |run: &Run, words: &[&str]| {
        let all = [&["--alter", "--entity-type", "clients", "--entity-default"], words].concat();
        run.broker.tool("kafka-configs", &all);
    };
    let (rounds, mut recovery_ms) = (times(1), 0);
    for _ in 0..rounds {
        // when every producer may write no more than 10 kB a second
        change(&run, &["--add-config", "producer_byte_rate=10000"]);
        let backlog = run.sim.backlog();
        wait::until_true("the backlog on the MDT grows", PATIENCE, || run.sim.backlog() > backlog + 10_000);
        let before = run.durable();

        // then the backlog waits on the MDT, and goes down when the quota is taken away
        change(&run, &["--delete-config", "producer_byte_rate"]);
        recovery_ms = recovery_ms.max(flows_again(&run, &before));
        wait::until_true("the backlog is gone", PATIENCE, || run.sim.backlog() < 10_000);
    }
    run.ended_by = "kafka-configs --delete-config producer_byte_rate".into();
    end(run, "quota of a tenth of the load", rounds, recovery_ms);
}
