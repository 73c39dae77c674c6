//! Names of what the demonstration makes, and the configurations that use them.

use std::path::Path;
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use clbridge_sinks::StartAt;
use clbridge_sinks::kafka::{Delivery, KafkaConfig};
use mdt_sim::addr::Addr;

use crate::config::{Config, GroupConfig, SourceKind};

/// Partitions of a record topic.
pub const PARTITIONS: u32 = 4;

/// Which broker, and what is called how in it.
#[derive(Clone, Debug)]
pub struct Names {
    bootstrap: String,
    mock: bool,
    /// Stands before everything in somebody's real broker, so that nothing of theirs is touched.
    prefix: String,
}

impl Names {
    /// In a mock cluster, where everything is ours.
    #[must_use]
    pub fn mock(bootstrap: String) -> Self {
        Self { bootstrap, mock: true, prefix: String::new() }
    }

    /// In a real broker; `run` is different for every run.
    #[must_use]
    pub fn real(bootstrap: String, run: &str) -> Self {
        Self { bootstrap, mock: false, prefix: format!("clbridge-demo-{run}.") }
    }

    /// Whether the broker is librdkafka's mock cluster.
    #[must_use]
    pub fn is_mock(&self) -> bool {
        self.mock
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// What all names begin with; empty on a mock cluster.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The group id of the group `name`.
    #[must_use]
    pub fn group(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The sink's settings.
    #[must_use]
    pub fn kafka(&self) -> KafkaConfig {
        let p = &self.prefix;
        KafkaConfig {
            bootstrap_servers: self.bootstrap.clone(),
            topic_prefix: format!("{p}lustre"),
            state_prefix: format!("{p}state."),
            registry_topic: format!("{p}groups"),
            schema_topic: format!("{p}schemas"),
            mock: self.mock,
            // The mock cluster shows records of open and aborted transactions to everybody, so a transaction there
            // would only pretend.
            delivery: if self.mock { Delivery::Idempotent } else { Delivery::Transactional },
            transaction_timeout_ms: 10_000,
            ..KafkaConfig::default()
        }
    }

    /// The topics: of records with [`PARTITIONS`] each, and the others with one.
    #[must_use]
    pub fn topics(&self, mdts: &[MdtName]) -> Vec<(String, u32)> {
        let kafka = self.kafka();
        let mut topics = vec![(kafka.registry_topic.clone(), 1), (kafka.schema_topic.clone(), 1)];
        for mdt in mdts {
            topics.push((kafka.topic_name(mdt.as_str(), None), PARTITIONS));
            topics.push((kafka.state_topic(mdt.as_str()), 1));
        }
        topics
    }

    /// The bridge's configuration.
    #[must_use]
    pub fn bridge(&self, source: &Addr, groups: &[&str]) -> Config {
        let mut config = Config { instance: "clbridge-demo".to_owned(), ..Config::default() };
        config.source.kind = SourceKind::Sim;
        config.source.address = Some(source.to_string());
        // The simulated MDTs commit every 200 ms: five to one, as the assumption behind `stable` wants it.
        config.clear.min_age = Duration::from_secs(1);
        config.clear.every = Duration::from_millis(500);
        config.poll.groups = Duration::from_millis(250);
        config.feed.partitions = PARTITIONS;
        config.sink.kafka = Some(self.kafka());
        for name in groups {
            let group = GroupConfig { from: StartAt::Oldest, ..GroupConfig::default() };
            config.groups.insert(self.group(name), group);
        }
        config
    }

    /// Writes the members' configuration to `file`. A member that dies is missed soon.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_members(&self, file: &Path) -> anyhow::Result<()> {
        let mut config = Config::default();
        // A member never makes a topic or asks about one, which is where a mock cluster is different.
        let mut kafka = KafkaConfig { mock: false, ..self.kafka() };
        // Six seconds are the least that a Kafka allows unless it is told otherwise. The mock cluster lets the first
        // members wait for three, in which they send no heartbeat: a shorter session would end before it began.
        let session_ms = if self.mock { 4_000 } else { 6_000 };
        for (key, value) in [("session.timeout.ms", session_ms), ("heartbeat.interval.ms", 300)] {
            kafka.librdkafka.insert(key.to_owned(), value.to_string());
        }
        config.sink.kafka = Some(kafka);
        std::fs::write(file, toml::to_string(&config)?)?;
        Ok(())
    }
}
