//! What an operator sets for Kafka, and the librdkafka configurations made of it.
//!
//! Everything that librdkafka knows can be passed through, except what would break a guarantee: that is an error
//! here, never a warning later.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::error::SinkError;

/// How records become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// A sealed batch and State are one transaction: nothing twice, no hole, and a fenced writer writes nothing.
    #[default]
    Transactional,
    /// Records by an idempotent producer: lowest latency. Records of a writer that was replaced may still arrive, so
    /// a restart may bring duplicates, out of order.
    Idempotent,
}

/// The Kafka sink's settings. Times are in milliseconds, sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `HOST:PORT` of one or more brokers, separated by commas.
    pub bootstrap_servers: String,
    /// What the names of record topics begin with: `PREFIX.FS-MDT0000[.FEED]`.
    pub topic_prefix: String,
    /// What the names of State topics begin with, and each `transactional.id`.
    pub state_prefix: String,
    /// The compacted topic that holds the registry of groups.
    pub registry_topic: String,
    /// The compacted topic that holds Avro schemas by fingerprint.
    pub schema_topic: String,
    /// Partitions of a record topic that is created; an existing one keeps its own number.
    pub partitions: u32,
    /// Copies of topics that are created; `None`: the broker's default.
    pub replication_factor: Option<u32>,
    /// `min.insync.replicas` of topics that are created, and the least that an existing one may have; `None`: the
    /// broker's default, unchecked.
    pub min_insync: Option<u32>,
    /// How records become durable.
    pub delivery: Delivery,
    /// After this time the broker ends a transaction that its writer left open, 1,000 to 900,000 ms. A broker that
    /// stalls for longer costs a restart of the MDT's pipeline.
    pub transaction_timeout_ms: u32,
    /// Largest produce batch, 16,384 to 104,857,600 bytes, before compression; a topic's `max.message.bytes` must not be below it.
    pub batch_bytes: u32,
    /// How long a batch waits to be filled, 0 to 900,000 ms (librdkafka's `linger.ms`).
    pub linger_ms: u32,
    /// Compression of batches: `none`, `lz4`, `gzip`, `snappy`.
    pub compression: String,
    /// Bound of the memory for records on their way, for each MDT, at least 1 MiB: payload, key and 170 bytes a
    /// message for librdkafka's own.
    pub memory_bytes: usize,
    /// Longest time that one request to the broker may take before it counts as unavailable, at least 1,000 ms.
    pub request_timeout_ms: u32,
    /// Name of this bridge, sent as `client.id`.
    pub instance: String,
    /// The broker is librdkafka's mock cluster: topics exist already and settings, identity and group members are
    /// unknown. Only `clbridge demo` sets it.
    pub mock: bool,
    /// Any setting of librdkafka. A key that ends in `_file` (`sasl.password_file`) or a value that begins with
    /// `file:` names a file that holds the value.
    pub librdkafka: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            topic_prefix: "lustre".to_owned(),
            state_prefix: "clbridge.state.".to_owned(),
            registry_topic: "clbridge.groups".to_owned(),
            schema_topic: "clbridge.schemas".to_owned(),
            partitions: 4,
            replication_factor: None,
            min_insync: None,
            delivery: Delivery::Transactional,
            transaction_timeout_ms: 30_000,
            batch_bytes: 1_000_000,
            linger_ms: 5,
            compression: "lz4".to_owned(),
            memory_bytes: 64 << 20,
            request_timeout_ms: 10_000,
            instance: "clbridge".to_owned(),
            mock: false,
            librdkafka: BTreeMap::new(),
        }
    }
}

/// Settings that must not be passed through, and what to use instead. The values that change nothing are let pass.
const GUARDED: &[(&str, &[&str], &str)] = &[
    ("enable.idempotence", &["true"], "without it a retry may change the order or publish twice"),
    ("enable.gapless.guarantee", &["true"], "without it a failed batch leaves a gap"),
    ("acks", &["all", "-1"], "durable means that all in-sync replicas have the record"),
    ("request.required.acks", &["all", "-1"], "durable means that all in-sync replicas have the record"),
    ("transactional.id", &[], "it is the fence and is made from state_prefix and the MDT's name"),
    ("transaction.timeout.ms", &[], "set transaction_timeout_ms"),
    ("isolation.level", &[], "what is read back must be what was committed"),
    ("message.timeout.ms", &["0"], "a record must not be given up while the broker is away"),
    ("delivery.timeout.ms", &["0"], "a record must not be given up while the broker is away"),
    ("enable.auto.commit", &["false"], "only what is done may be committed"),
    ("auto.commit.enable", &["false"], "only what is done may be committed"),
    ("enable.auto.offset.store", &["false"], "only what is done may be committed"),
    ("auto.offset.reset", &["error"], "a group without a position must not jump over records"),
    ("enable.partition.eof", &[], "the bridge sets it where it reads back"),
    ("group.id", &[], "groups are named in the registry"),
    ("bootstrap.servers", &[], "set bootstrap_servers"),
    ("metadata.broker.list", &[], "set bootstrap_servers"),
    ("client.id", &[], "set instance"),
    ("batch.size", &[], "set batch_bytes, which is checked against the topic's limit"),
    ("message.max.bytes", &[], "set batch_bytes, which is checked against the topic's limit"),
    ("linger.ms", &[], "set linger_ms"),
    ("queue.buffering.max.ms", &[], "set linger_ms"),
    ("compression.codec", &[], "set compression"),
    ("compression.type", &[], "set compression"),
    ("queue.buffering.max.messages", &[], "set memory_bytes"),
    ("queue.buffering.max.kbytes", &[], "set memory_bytes"),
    ("allow.auto.create.topics", &["false"], "a topic made by accident has one partition and a retention"),
    ("log.queue", &[], "the bridge takes librdkafka's log lines itself"),
    ("test.mock.num.brokers", &[], "`clbridge demo` starts its own mock cluster"),
];

/// Asked of a partition at once where the bridge reads back, bytes. The broker gives at least one batch.
const READ_BYTES: usize = 128 << 10;

/// librdkafka's own memory for one message, bytes (brokers' measurements: 310 B at 145 B of payload).
pub(super) const MESSAGE_OVERHEAD: usize = 170;

impl KafkaConfig {
    /// Checks the settings, and that librdkafka takes what is passed through.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] that names the key, what is wrong with it and what to do.
    pub fn check(&self) -> Result<(), SinkError> {
        let wrong = |key: &str, why: String, hint: &str| {
            Err(SinkError::Mismatch { what: format!("setting kafka.{key}"), why, hint: hint.to_owned() })
        };
        for (key, text) in [
            ("bootstrap_servers", &self.bootstrap_servers),
            ("topic_prefix", &self.topic_prefix),
            ("state_prefix", &self.state_prefix),
            ("registry_topic", &self.registry_topic),
            ("schema_topic", &self.schema_topic),
        ] {
            if text.is_empty() {
                return wrong(key, "is empty".to_owned(), "give it a value");
            }
        }
        for (key, value, from, to) in [
            ("partitions", u64::from(self.partitions), 1, 10_000),
            ("transaction_timeout_ms", u64::from(self.transaction_timeout_ms), 1_000, 900_000),
            ("batch_bytes", u64::from(self.batch_bytes), 16_384, 104_857_600),
            ("linger_ms", u64::from(self.linger_ms), 0, 900_000),
            ("memory_bytes", self.memory_bytes as u64, 1 << 20, 1 << 40),
            ("request_timeout_ms", u64::from(self.request_timeout_ms), 1_000, 3_600_000),
        ] {
            if !(from..=to).contains(&value) {
                return wrong(key, format!("is {value}"), &format!("set it between {from} and {to}"));
            }
        }
        for (given, value) in &self.librdkafka {
            let key = given.strip_suffix("_file").unwrap_or(given);
            if let Some((_, allowed, why)) = GUARDED.iter().find(|(k, _, _)| *k == key)
                && !allowed.contains(&value.as_str())
            {
                return wrong(
                    &format!("librdkafka.\"{given}\""),
                    format!("= \"{value}\" would break a guarantee or hide a setting of its own"),
                    &format!("remove it: {why}"),
                );
            }
        }
        self.client()?.create_native_config().map(|_| ()).map_err(|e| SinkError::Mismatch {
            what: "setting kafka.librdkafka".to_owned(),
            why: e.to_string(),
            hint: "see librdkafka's CONFIGURATION.md for names and values".to_owned(),
        })
    }

    /// The longest record that can be published, bytes.
    pub(super) fn max_message_bytes(&self) -> usize {
        (self.batch_bytes as usize).max(1_000_000)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.request_timeout_ms))
    }

    /// What every client has in common: brokers, name, and everything that is passed through.
    pub(super) fn client(&self) -> Result<ClientConfig, SinkError> {
        let mut c = ClientConfig::new();
        // A broker that stands still is left for the new leader after this time, not after librdkafka's minute; it
        // must be below the transaction's own (librdkafka, CONFIGURATION.md, transaction.timeout.ms).
        let silent = self.request_timeout_ms.min(self.transaction_timeout_ms.saturating_sub(500)).clamp(500, 300_000);
        c.set("socket.timeout.ms", silent.to_string())
            .set("socket.connection.setup.timeout.ms", silent.max(1_000).to_string());
        for (key, value) in &self.librdkafka {
            let (key, value) = match (key.strip_suffix("_file"), value.strip_prefix("file:")) {
                (Some(key), path) => (key, secret(key, path.unwrap_or(value))?),
                (None, Some(path)) => (key.as_str(), secret(key, path)?),
                (None, None) => (key.as_str(), value.clone()),
            };
            c.set(key, value);
        }
        c.set("bootstrap.servers", &self.bootstrap_servers).set("client.id", &self.instance);
        c.set("allow.auto.create.topics", "false");
        Ok(c)
    }

    /// A producer; with `transactional_id` a transactional one.
    pub(super) fn producer(&self, transactional_id: Option<&str>) -> Result<ClientConfig, SinkError> {
        let mut c = self.client()?;
        c.set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", self.linger_ms.to_string())
            .set("batch.size", self.batch_bytes.to_string())
            .set("message.max.bytes", self.max_message_bytes().to_string())
            .set("compression.codec", &self.compression)
            // The publisher keeps its own account, which is stricter: librdkafka must never be the one to refuse,
            // since a refusal in the middle of a batch would leave a hole.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", (i32::MAX / 1024).to_string());
        match transactional_id {
            Some(id) => c
                .set("transactional.id", id)
                .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string())
                .set("message.timeout.ms", self.transaction_timeout_ms.to_string()),
            None => c.set("enable.gapless.guarantee", "true").set("message.timeout.ms", "0"),
        };
        Ok(c)
    }

    /// A client that reads assigned partitions and commits nothing. Kafka never hears of its group.
    pub(super) fn reader(&self, committed: bool) -> Result<ClientConfig, SinkError> {
        let mut c = self.client()?;
        c.set("group.id", format!("{}reader", self.state_prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("isolation.level", if committed { "read_committed" } else { "read_uncommitted" })
            // The default waits half a second at the end of a partition, which is where we read.
            .set("fetch.wait.max.ms", "10")
            // Most reads want one record of a partition; what is fetched beside it is thrown away, and counts.
            .set("fetch.message.max.bytes", READ_BYTES.to_string())
            .set("queued.max.messages.kbytes", "1024");
        Ok(c)
    }

    /// The name of an MDT's record topic in a feed.
    #[must_use]
    pub fn topic_name(&self, mdt: &str, feed: Option<&str>) -> String {
        match feed {
            None => format!("{}.{mdt}", self.topic_prefix),
            Some(feed) => format!("{}.{mdt}.{feed}", self.topic_prefix),
        }
    }

    /// The name of an MDT's State topic, which is its `transactional.id` too.
    #[must_use]
    pub fn state_topic(&self, mdt: &str) -> String {
        format!("{}{mdt}", self.state_prefix)
    }
}

fn secret(key: &str, path: &str) -> Result<String, SinkError> {
    match std::fs::read_to_string(Path::new(path)) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(e) => Err(SinkError::Mismatch {
            what: format!("setting kafka.librdkafka.\"{key}\""),
            why: format!("cannot read its file {path}: {e}"),
            hint: "make the file readable for the bridge, or name another".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(key: &str, value: &str) -> KafkaConfig {
        let mut c = KafkaConfig::default();
        c.librdkafka.insert(key.to_owned(), value.to_owned());
        c
    }

    #[test]
    fn a_setting_that_breaks_a_guarantee_is_an_error_that_names_it() {
        for (key, value) in [
            ("enable.idempotence", "false"),
            ("acks", "1"),
            ("request.required.acks", "0"),
            ("transactional.id", "x"),
            ("isolation.level", "read_uncommitted"),
            ("enable.gapless.guarantee", "false"),
            ("enable.auto.commit", "true"),
            ("auto.offset.reset", "latest"),
            ("message.timeout.ms", "5000"),
        ] {
            let error = with(key, value).check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn other_settings_pass_and_harmless_values_of_guarded_ones_too() {
        for (key, value) in [("acks", "all"), ("socket.keepalive.enable", "true"), ("security.protocol", "ssl")] {
            with(key, value).check().unwrap();
        }
    }

    #[test]
    fn a_setting_that_librdkafka_does_not_know_is_an_error_that_names_it() {
        let error = with("no.such.setting", "1").check().unwrap_err().to_string();
        assert!(error.contains("no.such.setting"), "{error}");
    }

    #[test]
    fn a_value_out_of_range_is_an_error_that_names_its_key() {
        let c = KafkaConfig { memory_bytes: 10, ..KafkaConfig::default() };
        assert!(c.check().unwrap_err().to_string().contains("memory_bytes"));
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_line_end() {
        let path = std::env::temp_dir().join(format!("clbridge-secret-{}", std::process::id()));
        std::fs::write(&path, "pa ss\n").unwrap();
        let path = path.to_str().unwrap();
        for c in [with("sasl.password_file", path), with("sasl.password", &format!("file:{path}"))] {
            assert_eq!(c.client().unwrap().get("sasl.password"), Some("pa ss"));
        }
        std::fs::remove_file(path).unwrap();
        let error = with("sasl.password_file", path).check().unwrap_err().to_string();
        assert!(error.contains("sasl.password") && error.contains(path), "{error}");
    }
}
