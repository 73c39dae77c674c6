//! Credentials and rights taken away and given back: nothing is lost, nothing cleared meanwhile that must not be.

use clbridge::status::Phase;
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::{tell, wait};

use super::groups::{end, nothing_is_cleared, two_groups};

/// Two groups that keep up, on a broker that asks the bridge who it is.
fn secured(name: &str) -> Run {
    let mut run = Run::on_secured_broker(name, 1, &two_groups());
    run.start();
    run.join("robinhood", &[]);
    run.join("lake", &[]);
    run.sim.emit(0, 1000);
    run.cleared_beyond(3000);
    run
}

/// Waits until the only MDT's pipeline tries again and again, for want of rights.
fn refused(run: &Run) {
    let error = wait::until("the MDT's pipeline says that it is refused", PATIENCE, || {
        match run.bridge.status()?.mdts.pop()?.phase {
            Phase::Retrying { error } if error.contains("not authorised") => Some(error),
            _ => None,
        }
    });
    tell!("retrying: {error}");
}

fn rights(run: &Run, change: &str, operation: &str, topic: &str) {
    let user = format!("User:{}", run.broker.way_in().user.0);
    let mut words = vec![change, "--deny-principal", &user, "--operation", operation, "--topic", topic];
    if change == "--remove" {
        words.push("--force");
    }
    run.broker.tool("kafka-acls", &words);
}

#[test]
fn nothing_is_lost_when_the_bridges_credentials_are_revoked_and_given_back() {
    // given a bridge that logs in with a password
    let mut run = secured("credentials");
    let (name, password) = run.broker.way_in().user.clone();
    let change = |run: &Run, words: &[&str]| {
        let all = [&["--alter", "--entity-type", "users", "--entity-name", name.as_str()], words].concat();
        run.broker.tool("kafka-configs", &all);
    };

    // when its user is deleted
    change(&run, &["--delete-config", "SCRAM-SHA-512"]);

    // then it says so, and goes on by itself once the user is there again
    refused(&run);
    nothing_is_cleared(&run);
    change(&run, &["--add-config", &format!("SCRAM-SHA-512=[password={password}]")]);
    run.ended("kafka-configs --add-config SCRAM-SHA-512=...");
    end(run, "credentials revoked and given back");
}

#[test]
fn nothing_is_lost_when_the_right_to_write_is_taken_away_and_given_back() {
    // given a bridge that may do everything
    let mut run = secured("rights");
    let topic = run.topic(&run.sim.mdts()[0]);

    // when it may no longer write into its topic
    rights(&run, "--add", "Write", &topic);

    // then it says so, and goes on by itself once it may
    refused(&run);
    nothing_is_cleared(&run);
    rights(&run, "--remove", "Write", &topic);
    run.ended("kafka-acls --remove --deny-principal ... --operation Write");
    end(run, "right to write taken away and given back");
}

#[test]
fn nothing_is_cleared_while_the_registry_of_groups_is_unreadable() {
    // given a bridge that may do everything
    let mut run = secured("registry");
    let registry = format!("clbridge.groups.{}", run.scene.name());

    // when it may no longer read the registry, though everything else
    rights(&run, "--add", "Read", &registry);

    // then it publishes on, clears nothing and says why, until it may
    let why = wait::until("nothing is cleared, for want of the registry", PATIENCE, || {
        run.bridge.running(1)?.pop()?.holding.into_iter().find(|why| why.reason == "registry_unreadable")
    });
    tell!("{}: {} · {}", why.reason, why.text, why.command);
    let before = run.durable();
    wait::until_true("it clears by no old answer", PATIENCE, || {
        run.bridge.running(1).is_some_and(|mdts| mdts[0].acknowledged == 0)
    });
    nothing_is_cleared(&run);
    run.recovered_ms(std::time::Instant::now(), &before);
    rights(&run, "--remove", "Read", &registry);
    run.ended("kafka-acls --remove --deny-principal ... --operation Read");
    end(run, "registry of groups unreadable");
}
