//! Writing a few records beside the stream, one call from beginning to end: schemas, repairs.

use super::native::{Arena, Producer};
use super::{Shared, sort, sort_kafka};
use crate::error::SinkError;

/// Records that are handed over at once; bounds the memory of a large repair.
const CHUNK: usize = 1000;

impl Shared {
    /// Writes key and payload pairs to partition 0 of `topic` in order and waits until all are durable. Returns the
    /// offset of the last, `None` if there was none. An empty key is none.
    pub(super) fn write(&self, topic: &str, records: &[(&[u8], &[u8])]) -> Result<Option<u64>, SinkError> {
        let what = || format!("writing to {topic}");
        let mut config = self.config.producer(None)?;
        // Unlike the stream this has a caller who waits; and a record that stands there twice does no harm, so the half
        // second that a producer needs for its id is saved. One request at a time keeps the order all the same.
        config
            .set("message.timeout.ms", self.config.request_timeout_ms.to_string())
            .set("enable.idempotence", "false")
            .set("max.in.flight.requests.per.connection", "1");
        // Any error fails the whole call; named at all, the setting makes librdkafka warn that it is experimental.
        config.remove("enable.gapless.guarantee");
        let producer = Producer::new(&config, &[topic.to_owned()]).map_err(|e| sort(what(), &e))?;
        let mut last = None;
        for chunk in records.chunks(CHUNK) {
            let mut arena = Arena::default();
            for (key, payload) in chunk {
                arena.push(0, (!key.is_empty()).then_some(*key), payload);
            }
            producer.produce(0, 0, &mut arena).map_err(|e| sort(what(), &e))?;
            let mut left = chunk.len();
            while left > 0 {
                let mut error = None;
                let served = producer.serve(100, &mut |r| {
                    error = error.or(r.error);
                    last = u64::try_from(r.offset).ok();
                });
                left -= served.map_err(|e| sort(what(), &e))?;
                if let Some(code) = error {
                    return Err(sort_kafka(what(), rdkafka::error::KafkaError::MessageProduction(code)));
                }
            }
        }
        Ok(last)
    }
}
