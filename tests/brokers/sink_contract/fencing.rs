//! One writer: the newest.

use std::time::{Duration, Instant};

use clbridge_sinks::{Refused, SinkError};

use crate::ground::{Ground, HANG, Mdt, Seen, id, indexes, message, payload, read_all, retry, wait_for};

pub async fn the_second_recover_fences_the_first_for_good(g: &dyn Ground) {
    // given a first bridge with records under way
    let mut first = Mdt::new(g).await;
    first.write(1..=100);
    let mut seen = Seen::default();
    first.publish(101..=2000, &mut seen);
    // (in a mode whose late records are not fenced, they are awaited: they would stop the second)
    let (exact, atomic) = (first.sink.capabilities().exactly_once, first.sink.capabilities().atomic_state);
    if !exact {
        retry(&mut *first.publisher, &mut seen, |p| p.seal(Some(id(2000)), None));
        wait_for(&mut *first.publisher, &mut seen, |s| s.frontier == Some(id(2000)));
    }
    // when a second one starts and publishes (again, where what the first had on its way overtook it)
    let (mut second, from) = loop {
        let mut second = Mdt::named(g, first.name.clone(), &[None]).await;
        assert_eq!(second.state.frontier.unwrap().id, id(100));
        let there = indexes(&second.read_all().await).pop().unwrap();
        assert!(!atomic || there == 100, "what was not sealed is there: {there}");
        let from = if exact { there + 1 } else { 10_001 };
        let mut seen = Seen::default();
        second.publish(from..=from, &mut seen);
        retry(&mut *second.publisher, &mut seen, |p| p.seal(Some(id(from)), atomic.then_some(&second.state)));
        let began = Instant::now();
        let overtaken = loop {
            match second.publisher.poll(Duration::from_millis(50), &mut |d| seen.note(d)) {
                Ok(()) if seen.frontier == Some(id(from)) => break None,
                Ok(()) => assert!(began.elapsed() < HANG, "neither durable nor dead"),
                Err(e) => break Some(e),
            }
        };
        match overtaken {
            None => break (second, from),
            Some(SinkError::Unavailable { .. }) if !atomic => {}
            Some(e) => panic!("{e}"),
        }
    };
    second.write(from + 1..=from + 99);
    // then the first can make nothing durable any more, and says that it is fenced
    first.state.number += 100;
    let began = Instant::now();
    let error = loop {
        let stored = if atomic {
            first.publisher.seal(Some(id(2000)), Some(&first.state))
        } else {
            first.publisher.store(&first.state)
        };
        match stored {
            Err(Refused::Dead(e)) => break e,
            Ok(()) | Err(Refused::Full) => {}
        }
        if let Err(e) = first.publisher.poll(Duration::from_millis(50), &mut |d| seen.note(d)) {
            break e;
        }
        assert!(began.elapsed() < HANG, "never fenced");
    };
    assert!(matches!(error, SinkError::Fenced { .. }), "{error}");
    assert_eq!(seen.state, None);
    // and so does every later call
    let fenced = |r: Result<(), Refused>| assert!(matches!(r, Err(Refused::Dead(SinkError::Fenced { .. }))), "{r:?}");
    fenced(first.publisher.publish(&message(&first.topics[0], id(2001), &payload(&second.name, id(2001)))));
    fenced(first.publisher.seal(Some(id(2001)), None));
    fenced(first.publisher.store(&first.state));
    let polled = first.publisher.poll(Duration::ZERO, &mut |d| seen.note(d));
    assert!(matches!(polled, Err(SinkError::Fenced { .. })), "{polled:?}");
    drop(first);
    // and State is the second's, which goes on
    let mut seen = Seen::default();
    let end = from + 199;
    second.publish(from + 100..=end, &mut seen);
    second.seal(end, &mut seen);
    let state = second.sink.peek_state(&second.name).await.unwrap().unwrap();
    assert_eq!(state, second.state);
    if exact {
        // and none of the first's late records is there
        assert_eq!(indexes(&read_all(&*second.sink, second.topic()).await), (1..=end).collect::<Vec<_>>());
    }
}

pub async fn looking_at_state_fences_nobody(g: &dyn Ground) {
    // given an MDT whose State was never written
    let mut mdt = Mdt::new(g).await;
    assert_eq!(g.sink().peek_state(&mdt.name).await.unwrap(), None);
    mdt.write(1..=10);
    let mut seen = Seen::default();
    mdt.publish(11..=20, &mut seen);
    // when another bridge looks at it in the middle of a batch, then it sees what was written last
    let state = g.sink().peek_state(&mdt.name).await.unwrap();
    assert_eq!(state.as_ref(), Some(&mdt.state));
    // and the writer goes on
    mdt.seal(20, &mut seen);
    // also where nothing was ever prepared
    let unknown = crate::ground::new_mdt();
    assert_eq!(g.sink().peek_state(&unknown).await.unwrap(), None);
    let mut seen = Seen::default();
    retry(&mut *mdt.publisher, &mut seen, |p| p.seal(Some(id(20)), None));
}
