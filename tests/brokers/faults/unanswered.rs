//! On RabbitMQ: a group whose queue is empty although nobody answered for what was in it.

use std::time::Duration;

use clbridge_tests::binaries::up;
use clbridge_tests::bridge::Options;
use clbridge_tests::run::{PATIENCE, Run};
use clbridge_tests::sink::Sink;
use clbridge_tests::wait;

use crate::groups::{end, held, nothing_is_cleared};

pub fn a_purged_queue(sink: Sink) {
    // given a bridge under load, and a group without members beside one that takes everything
    let mut run = Run::new("purged", 1, &Options { sink, ..Options::default() });
    run.start();
    run.join("robinhood", &[]);
    let lake = run.group("lake");
    run.bridge.says(&["groups", "add", &lake]);
    wait::until_true("status shows the group", PATIENCE, || {
        run.running()[0].groups.iter().any(|g| g.name == lake && g.committed.iter().all(Option::is_some))
    });
    run.sim.emit(0, sink.rate(1000));
    let robinhood = run.group("robinhood");
    wait::until_true("the other group is ahead", PATIENCE, || {
        let cleared = run.sim.cleared();
        run.running()[0].groups.iter().any(|g| g.name == robinhood && g.floor > cleared + 2000)
    });

    // when its queue is purged while nothing is logged
    let queue = format!("{}:{lake}", run.topic(&run.sim.mdts()[0]));
    run.sim.emit_stop();
    wait::until_true("all is published and the other group has it", PATIENCE, || {
        // (the workload ends some moments after it was told to)
        let logged = run.sim.stats(&run.sim.mdts()[0]).last_index;
        std::thread::sleep(Duration::from_millis(500));
        let status = run.running().remove(0);
        status.durable == run.sim.stats(&run.sim.mdts()[0]).last_index
            && status.durable == logged
            && status.groups.iter().any(|g| g.name == robinhood && g.lag_records == 0)
    });
    rabbitmqctl(&["purge_queue", &queue]);

    // then it holds, and says what ends it
    let why = held(&run, "lake", "never_answered");
    run.sim.emit(0, sink.rate(1000));
    nothing_is_cleared(&run);

    // when that is done
    run.obey(why.command.split(',').next().unwrap());
    assert!(run.bridge.terminate().success());
    rabbitmqctl(&["delete_queue", &queue]);
    run.bridge.start(None);
    run.running();
    run.obey(&format!("clbridge groups add {lake}"));

    // then what comes from now on reaches it, and clears go on
    run.join("lake", &[]);
    end(run, "queue purged that was never answered");
}

fn rabbitmqctl(words: &[&str]) {
    let dir = std::env::var_os("AMQP_DIR").expect("tests/up run sets it");
    let said = up().args(["amqp", "ctl"]).arg(dir).args(words).output().unwrap();
    assert!(said.status.success(), "rabbitmqctl {words:?}: {}", String::from_utf8_lossy(&said.stderr));
}
