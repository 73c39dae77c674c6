//! What a user of the rdkafka crate writes first: a loop of `BaseProducer::send`.
//!
//! Only its commit is not the crate's: that one always takes 100 ms, which would make this no rival.

use std::time::{Duration, Instant};

use anyhow::Result;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::child::{done, ready, say};
use crate::kafka;
use crate::native;
use crate::payloads::Payloads;
use crate::setup::{SEAL_BYTES, SEAL_MS};

fn commit(producer: &BaseProducer) -> Result<()> {
    while producer.in_flight_count() > 0 {
        native::hurry(producer.client());
        producer.poll(Duration::ZERO);
    }
    native::commit(producer.client())
}

/// Publishes `records` payloads in transactions.
pub fn rate(sim: &str, records: usize, brokers: &str, topic: &str, id: &str) -> Result<()> {
    let payloads = Payloads::read(sim, records)?;
    let mut config = kafka::producer(brokers, Some(id));
    // Here librdkafka itself bounds what is on its way: its defaults.
    config.remove("queue.buffering.max.messages");
    config.remove("queue.buffering.max.kbytes");
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(Duration::from_secs(30))?;
    ready()?;
    let mut open: Option<(usize, Instant)> = None;
    for (n, m) in payloads.iter().enumerate() {
        if open.is_none() {
            producer.begin_transaction()?;
        }
        let (sealed, since) = open.get_or_insert_with(|| (0, Instant::now()));
        *sealed += m.key.len() + m.payload.len();
        let seal = *sealed >= SEAL_BYTES || (n % 256 == 255 && since.elapsed() >= Duration::from_millis(SEAL_MS));
        let mut record = BaseRecord::to(topic).partition(m.partition.cast_signed()).key(m.key).payload(m.payload);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    producer.poll(Duration::from_millis(1));
                }
                Err((e, _)) => return Err(e.into()),
            }
        }
        if n % 1024 == 1023 {
            producer.poll(Duration::ZERO);
            if n % 8192 == 8191 {
                say(&format!("at {n}"))?;
            }
        }
        if seal {
            commit(&producer)?;
            open = None;
        }
    }
    if open.is_some() {
        commit(&producer)?;
    }
    done()
}
