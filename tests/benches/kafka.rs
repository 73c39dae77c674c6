//! Kafka, transactional: against loops over librdkafka with the bridge's own settings.

use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::rate::Contest;
use crate::setup::PARTITIONS;

/// Milliseconds: the bridge's default.
pub const LINGER_MS: u32 = 5;
/// Bytes that may be on their way in librdkafka, with [`OVERHEAD`]: what the bridge grants it.
pub const IN_FLIGHT: usize = 32 << 20;
/// What librdkafka needs for a message beyond its payload, bytes.
pub const OVERHEAD: usize = 170;
/// Names the codec of both sides.
pub const COMPRESSION: &str = "lz4";

/// A Kafka.
pub struct Kafka {
    /// `HOST:PORT`.
    pub brokers: String,
}

impl Contest for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn rivals(&self) -> &'static [&'static str] {
        &["bare", "baseproducer"]
    }

    fn table(&self, name: &str) -> String {
        table(&self.brokers, name, "transactional")
    }

    fn prepare(&self, _rival: &str, name: &str) -> Result<Vec<String>> {
        make_topic(&self.brokers, name)?;
        Ok(vec![self.brokers.clone(), name.to_owned(), name.to_owned()])
    }

    fn clean(&self, _name: &str) -> Result<()> {
        // A topic that nobody reads or writes costs nothing, and deleting it is work for the broker in the next run.
        Ok(())
    }
}

/// The sink's table; `delivery` as in the configuration.
pub fn table(brokers: &str, name: &str, delivery: &str) -> String {
    format!(
        "[sink.kafka]\nbootstrap_servers = \"{brokers}\"\ntopic_prefix = \"{name}\"\nstate_prefix = \"{name}.state.\"\n\
         registry_topic = \"{name}.groups\"\nschema_topic = \"{name}.schemas\"\n\
         delivery = \"{delivery}\"\nlinger_ms = {LINGER_MS}\ncompression = \"{COMPRESSION}\"\n"
    )
}

/// What a bare loop or a producer of `BaseProducer` gets: the settings of the bridge's own producer.
pub fn producer(brokers: &str, transactional_id: Option<&str>) -> ClientConfig {
    let mut c = ClientConfig::new();
    c.set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", LINGER_MS.to_string())
        .set("batch.size", "1000000")
        .set("message.max.bytes", "1000000")
        .set("compression.codec", COMPRESSION)
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", (i32::MAX / 1024).to_string());
    match transactional_id {
        Some(id) => {
            c.set("transactional.id", id).set("transaction.timeout.ms", "30000").set("message.timeout.ms", "30000")
        }
        None => c.set("enable.gapless.guarantee", "true").set("message.timeout.ms", "0"),
    };
    c
}

/// Makes a topic like those of the bridge.
pub fn make_topic(brokers: &str, name: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let topic = NewTopic::new(name, i32::try_from(PARTITIONS)?, TopicReplication::Fixed(-1))
        .set("retention.ms", "-1")
        .set("retention.bytes", "-1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let made = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()))?;
    for one in made {
        one.map_err(|(topic, code)| anyhow::anyhow!("making topic {topic}: {code}"))?;
    }
    Ok(())
}
