//! What only Kafka's client can get wrong.

use std::time::Duration;

use clbridge_sinks::SinkError;
use clbridge_sinks::kafka::Delivery;

use crate::faults::publish_and_seal;
use crate::ground::{Mdt, On, Seen};
use crate::kafka::Kafka;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_producer_that_is_fenced_with_much_on_its_way_harms_nobody() {
    let _turn = On::Kafka.shared().await;
    let g = Kafka::new(Delivery::Transactional);
    let mut mdt = Mdt::new(&g).await;
    for round in 1..=6 {
        // given a bridge under load
        let name = mdt.name.clone();
        let worker = tokio::task::spawn_blocking(move || under_load(mdt, round * 10_000_000));
        tokio::time::sleep(Duration::from_millis(300)).await;
        // when another one starts
        mdt = Mdt::named(&g, name, &[None]).await;
        // then the first is fenced, and goes down with what it has on its way (which used to end the process)
        // (fenced in the middle of a commit it may hear no more than that this was not possible)
        let ended = worker.await.unwrap();
        assert!(matches!(ended, SinkError::Fenced { .. } | SinkError::Unavailable { .. }), "{ended}");
    }
    // and the last one goes on
    mdt.write(900_000_001..=900_000_100);
}

/// Publishes until that is no longer possible.
fn under_load(mut mdt: Mdt, from: u64) -> SinkError {
    let mut seen = Seen::default();
    for batch in 0.. {
        if let Err(e) = publish_and_seal(&mut mdt, from + batch * 1000, true, &mut seen) {
            return e;
        }
    }
    unreachable!("there is no last batch")
}
