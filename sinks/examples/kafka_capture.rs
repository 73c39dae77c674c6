//! Publishes the records of a capture to Kafka as the bridge does, for other people's clients to look at:
//! `kafka_capture HOST:PORT MDT CAPTURE SCHEMA_VERSION PARTITIONS`. The key is the object's FID. Behind the records a
//! retraction of all of them stands in every partition.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clbridge_schemas::avro::{Additions, Encoder, Framing, Retraction as Mark, Retracts, SchemaVersion};
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::key::{KeyKind, key, partition};
use clbridge_schemas::lustre::{RecordType, Time, records};
use clbridge_sinks::kafka::{KafkaConfig, KafkaSink};
use clbridge_sinks::{Durable, Message, Publisher, Refused, Retraction, Sink, State, TopicIx, TopicSpec};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, mdt, capture, version, partitions] = args.as_slice() else {
        return Err(anyhow!("usage: kafka_capture HOST:PORT MDT CAPTURE SCHEMA_VERSION PARTITIONS"));
    };
    let mdt: MdtName = mdt.parse().map_err(|e| anyhow!("{e}"))?;
    let version = SchemaVersion::ALL.into_iter().find(|v| v.to_string() == *version).context("no such version")?;
    let partitions: NonZeroU32 = partitions.parse().context("PARTITIONS")?;
    let bytes = std::fs::read(capture).with_context(|| capture.clone())?;

    let runtime = tokio::runtime::Runtime::new()?;
    let sink = KafkaSink::new(KafkaConfig { bootstrap_servers: brokers.clone(), ..KafkaConfig::default() })?;
    let spec = TopicSpec { mdt: mdt.clone(), feed: None, partitions: partitions.get(), max_message_bytes: 64 * 1024 };
    let topics = runtime.block_on(sink.prepare(&[spec], None))?;
    let mut publisher = runtime.block_on(sink.recover(&mdt, &topics))?.publisher;

    let encoder = Encoder::new(&mdt, version, Framing::SingleObject);
    let (mut name, mut payload, mut last) = (Vec::new(), Vec::new(), None);
    for view in records(&bytes, 0) {
        let view = view?;
        let id = RecordId::new(1, NonZeroU64::new(view.index()).context("index 0")?);
        name.clear();
        payload.clear();
        key(KeyKind::Object, &view, &mdt, &mut name);
        encoder.encode(&view, 1, Additions::default(), &mut payload);
        let m = Message {
            topic: TopicIx(0),
            id,
            partition: partition(&name, partitions),
            kind: view.rtype(),
            time_ns: view.time().nanos(),
            key: Some(&name),
            payload: &payload,
            retracts: None,
        };
        publish(publisher.as_mut(), &m)?;
        last = Some(id);
    }
    let last = last.context("the capture holds no record")?;

    let void = Retraction { incarnation: 2, from: 1, to: last.index.get() };
    let id = RecordId::new(2, NonZeroU64::MIN);
    payload.clear();
    let mark =
        Mark { at: id, time: Time::from_nanos(0), void: Retracts { incarnation: 1, from: void.from, to: void.to } };
    encoder.encode_retraction(&mark, &mut payload);
    for partition in 0..partitions.get() {
        let (topic, kind) = (TopicIx(0), RecordType::MARK);
        let m = Message { topic, id, partition, kind, time_ns: 0, key: None, payload: &payload, retracts: Some(void) };
        publish(publisher.as_mut(), &m)?;
    }

    let state = State::first(mdt, "capture".to_owned());
    publisher.seal(Some(last), Some(&state)).map_err(|e| anyhow!("{e:?}"))?;
    let mut durable = false;
    while !durable {
        publisher.poll(Duration::from_millis(100), &mut |d| durable |= matches!(d, Durable::State(_)))?;
    }
    ensure!(publisher.in_flight() == (0, 0), "something is still in flight");
    Ok(())
}

fn publish(publisher: &mut dyn Publisher, m: &Message<'_>) -> Result<()> {
    loop {
        match publisher.publish(m) {
            Ok(()) => return Ok(()),
            Err(Refused::Full) => publisher.poll(Duration::from_millis(10), &mut |_| {})?,
            Err(Refused::Dead(e)) => return Err(e.into()),
        }
    }
}
