//! Publishes the records of a capture to RabbitMQ as the bridge does, for other people's clients to take and answer:
//! `amqp_capture URI MDT CAPTURE GROUP RECORDS_PER_MESSAGE`. Says `published N`, and `answered` once the group has
//! answered all of them and State tells so.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clbridge_schemas::avro::{Additions, Encoder, Framing, SchemaVersion};
use clbridge_schemas::ids::{Digest, MdtName, RecordId};
use clbridge_schemas::key::{KeyKind, key};
use clbridge_schemas::lustre::records;
use clbridge_sinks::amqp::{AmqpConfig, AmqpSink};
use clbridge_sinks::{Durable, GroupObserver, Mark, Message, Refused, Sink, StartAt, State, TopicIx, TopicSpec};

/// Only turns a hang into an error.
const HANG: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [uri, mdt, capture, group, packed] = args.as_slice() else {
        return Err(anyhow!("usage: amqp_capture URI MDT CAPTURE GROUP RECORDS_PER_MESSAGE"));
    };
    let mdt: MdtName = mdt.parse().map_err(|e| anyhow!("{e}"))?;
    let bytes = std::fs::read(capture).with_context(|| capture.clone())?;
    let records_per_message = packed.parse().context("RECORDS_PER_MESSAGE")?;

    let runtime = tokio::runtime::Runtime::new()?;
    let sink = AmqpSink::new(AmqpConfig { uri: uri.clone(), records_per_message, ..AmqpConfig::default() })?;
    let spec = TopicSpec { mdt: mdt.clone(), feed: None, partitions: 1, max_message_bytes: 64 * 1024 };
    let topics = runtime.block_on(sink.prepare(&[spec], None))?;
    runtime.block_on(sink.register(group, &topics[0], StartAt::Newest))?;
    let mut publisher = runtime.block_on(sink.recover(&mdt, &topics))?.publisher;

    let encoder = Encoder::new(&mdt, SchemaVersion::default(), Framing::SingleObject);
    let (mut name, mut payload, mut last, mut count) = (Vec::new(), Vec::new(), None, 0);
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
            partition: 0,
            kind: view.rtype(),
            time_ns: view.time().nanos(),
            key: Some(&name),
            payload: &payload,
            retracts: None,
        };
        while let Err(refused) = publisher.publish(&m) {
            ensure!(matches!(refused, Refused::Full), "{refused}");
            publisher.poll(Duration::from_millis(10), &mut |_| ())?;
        }
        (last, count) = (Some(id), count + 1);
    }
    let last = last.context("the capture holds no record")?;
    publisher.seal(Some(last), None)?;
    let mut durable = false;
    while !durable {
        publisher.poll(Duration::from_millis(100), &mut |d| durable |= d == Durable::Frontier(last))?;
    }
    let frontier = Some(Mark { id: last, digest: Digest(0) });
    publisher.store(&State { number: 1, frontier, ..State::first(mdt, "interop".to_owned()) })?;
    println!("published {count}");

    let began = Instant::now();
    loop {
        publisher.poll(Duration::from_millis(100), &mut |_| ())?;
        let progress = runtime.block_on(sink.progress(std::slice::from_ref(group), &topics))?;
        let topic = progress.topics.get(&topics[0].name).context("the topic is gone")?;
        if topic.groups.get(group).is_some_and(|at| at[0] == Some(topic.end[0])) {
            println!("answered");
            return Ok(());
        }
        ensure!(began.elapsed() < HANG, "not answered: {topic:?}");
    }
}
