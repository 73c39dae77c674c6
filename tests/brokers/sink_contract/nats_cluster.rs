//! Three servers: the leader of the records is killed under load.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use clbridge_sinks::{GroupObserver as _, Refused, Sink as _, SinkError, StartAt, State};

use crate::ground::{
    HANG, Mdt, On, Seen, id, index_of, indexes, new_group, new_mdt, payload, spec, unless_unavailable,
};
use crate::nats::Nats;
use crate::nats_own::{sink, start};

/// The server that leads a stream now, if there is one and it is known.
async fn leader(js: &jetstream::Context, stream: &str) -> Option<String> {
    js.get_stream(stream).await.ok()?.cached_info().cluster.clone()?.leader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_three_servers_the_leader_dies_under_load_and_nothing_is_lost_or_doubled() {
    let _turn = On::Nats.shared().await;
    // given three servers that keep everything three times
    let env = start("nats-three", &["--servers", "3"]);
    let make = || sink(&env, |c| c.replicas = 3);
    let (one, name) = (make(), new_mdt());
    let topics = one.prepare(&[spec(&name, None)], None).await.unwrap();
    assert_eq!(topics[0].replicas, 3);
    let js = jetstream::new(async_nats::connect(env["NATS_URL"].split(',').collect::<Vec<_>>()).await.unwrap());
    let group = new_group("cluster");
    one.register(&group, &topics[0], StartAt::Oldest).await.unwrap();
    let (mut next, mut durable_to, mut deaths) = (1u64, 0u64, 0);
    let began = Instant::now();
    for kill in 0..4 {
        // when a bridge publishes and the records' leader is killed
        let (recovered, from) = loop {
            match one.recover(&name, &topics).await {
                Ok(recovered) => {
                    let tail = recovered.tails[0].iter().flatten().map(index_of).max().unwrap_or(0);
                    assert!(tail >= durable_to, "{tail} is there, {durable_to} was durable");
                    break (recovered, tail + 1);
                }
                Err(SinkError::Unavailable { .. }) => assert!(began.elapsed() < HANG),
                Err(e) => panic!("{e}"),
            }
        };
        next = next.max(from);
        assert!(from <= next);
        next = from;
        let state = State::first(name.clone(), "cluster".to_owned());
        let mut mdt = Mdt {
            name: name.clone(),
            sink: Box::new(make()),
            topics: topics.clone(),
            publisher: recovered.publisher,
            state,
        };
        let mut seen = Seen::default();
        let mut killed = None;
        let died = 'life: loop {
            for _ in 0..500 {
                let record = payload(&name, id(next));
                let m = crate::ground::message(&topics[0], id(next), &record);
                loop {
                    match mdt.publisher.publish(&m) {
                        Ok(()) => break,
                        Err(Refused::Full) => {
                            if let Err(e) = mdt.publisher.poll(Duration::from_millis(5), &mut |d| seen.note(d)) {
                                break 'life Some(e);
                            }
                        }
                        Err(Refused::Dead(e)) => break 'life Some(e),
                    }
                }
                next += 1;
            }
            if let Err(Refused::Dead(e)) = mdt.publisher.seal(Some(id(next - 1)), None) {
                break Some(e);
            }
            if let Err(e) = mdt.publisher.poll(Duration::from_millis(5), &mut |d| seen.note(d)) {
                break Some(e);
            }
            durable_to = seen.frontier.map_or(durable_to, |f| f.index.get().max(durable_to));
            if kill < 3
                && killed.is_none()
                && seen.frontier.is_some_and(|f| f.index.get() > from + 2000)
                && let Some(leader) = leader(&js, &topics[0].name).await
            {
                let dir = format!("{}/{}", env["NATS_DIR"], leader.trim_start_matches('n'));
                println!("leader {leader} killed with {:?} in flight", mdt.publisher.in_flight());
                Nats::up(&["kill", &dir]);
                killed = Some((dir, Instant::now()));
            }
            let enough = killed.as_ref().map_or(kill == 3, |(_, at)| at.elapsed() > Duration::from_secs(5));
            if enough && seen.frontier.is_some_and(|f| f.index.get() > from + 5000) {
                break None;
            }
            assert!(began.elapsed() < HANG * 2);
        };
        durable_to = seen.frontier.map_or(durable_to, |f| f.index.get().max(durable_to));
        if let Some(e) = &died {
            assert!(matches!(e, SinkError::Unavailable { .. }), "{e}");
            deaths += 1;
        }
        if died.is_none() {
            // (it may die of the killed leader as late as here: the next life finds what became of the batch)
            let _ = mdt.publisher.seal(Some(id(next - 1)), None);
            let _ = mdt.publisher.poll(Duration::from_secs(5), &mut |d| seen.note(d));
        }
        if let Some((dir, _)) = killed {
            Nats::up(&["restart", &dir]);
        }
    }
    // then all is there, once and in order
    let answers = async || {
        let mut records = vec![Vec::new(); topics[0].partitions as usize];
        let reader = make();
        reader.read_back(&topics[0], 0, 0, &mut |s| records[s.at.partition as usize].push(s)).await?;
        Ok::<_, SinkError>((indexes(&records), reader.progress(std::slice::from_ref(&group), &topics).await?))
    };
    // (the stream of advisories may still be choosing its leader)
    let (all, progress) = loop {
        if let Some(answers) = unless_unavailable(answers().await) {
            break answers;
        }
        assert!(began.elapsed() < HANG * 3);
    };
    println!(
        "{} records over 3 killed leaders, {deaths} restarts of the publisher, {durable_to} were durable",
        all.len()
    );
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    assert!(all.len() as u64 >= durable_to);
    // and the group, which acknowledged nothing, stands at its beginning
    assert_eq!(progress.topics[&topics[0].name].groups[&group][0], Some(1));
}
