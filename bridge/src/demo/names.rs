//! Where the demonstration's records go, names of what it makes there, and the configurations that use them.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use clbridge_sinks::amqp::AmqpConfig;
use clbridge_sinks::files::FilesConfig;
use clbridge_sinks::kafka::{Delivery, KafkaConfig};
use clbridge_sinks::nats::NatsConfig;
use clbridge_sinks::{Capabilities, StartAt};
use mdt_sim::addr::Addr;

use crate::config::{Config, GroupConfig, SinkConfig, SourceKind};

/// Partitions of a record topic, where there are several.
pub const PARTITIONS: u32 = 4;
/// After so long NATS gives what a dead member had not acknowledged to another one. Its default, half a minute, is longer
/// than the demonstration.
const ACK_WAIT_MS: u32 = 5_000;

/// Where records go. Not to be shown as it is: an address may hold a password, see [`Names::place`].
#[derive(Clone)]
pub enum Target {
    /// librdkafka's mock cluster in this process.
    Mock(String),
    /// Somebody's Kafka.
    Kafka(String),
    /// Somebody's NATS servers.
    Nats(String),
    /// Somebody's RabbitMQ.
    Amqp(String),
    /// A folder of this run.
    Files(PathBuf),
}

/// What is called how there.
#[derive(Clone)]
pub struct Names {
    target: Target,
    /// Stands before everything in somebody's real broker, so that nothing of theirs is touched; empty where all is ours.
    prefix: String,
}

impl Names {
    /// `run` is different for every run: at most 16 of the characters `a-z 0-9`.
    #[must_use]
    pub fn new(target: Target, run: &str) -> Self {
        let prefix = match target {
            Target::Mock(_) | Target::Files(_) => String::new(),
            Target::Kafka(_) | Target::Nats(_) | Target::Amqp(_) => format!("clb-demo-{run}-"),
        };
        Self { target, prefix }
    }

    /// Where records go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What all names begin with; empty where everything is this run's.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The name that the broker has for the group `name`.
    #[must_use]
    pub fn group(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Where it is, for people: never with a password.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.target {
            Target::Mock(at) | Target::Kafka(at) => at.clone(),
            Target::Nats(servers) => self.nats(servers).place(),
            Target::Amqp(uri) => self.amqp(uri).place(),
            Target::Files(dir) => dir.display().to_string(),
        }
    }

    /// Whether the records of one object, and so their order, stay with one of several members of a group at a time. NATS
    /// and RabbitMQ share records out one by one, unless a group is set up otherwise.
    #[must_use]
    pub fn members_share_by_object(&self) -> bool {
        matches!(self.target, Target::Mock(_) | Target::Kafka(_) | Target::Files(_))
    }

    /// The table of the sink.
    #[must_use]
    pub fn sink(&self) -> SinkConfig {
        match &self.target {
            Target::Mock(at) | Target::Kafka(at) => SinkConfig { kafka: Some(self.kafka(at)), ..SinkConfig::default() },
            Target::Nats(servers) => SinkConfig { nats: Some(self.nats(servers)), ..SinkConfig::default() },
            Target::Amqp(uri) => SinkConfig { amqp: Some(self.amqp(uri)), ..SinkConfig::default() },
            Target::Files(dir) => {
                let files = FilesConfig { dir: dir.clone(), ..FilesConfig::default() };
                SinkConfig { files: Some(files), ..SinkConfig::default() }
            }
        }
    }

    /// Settings for a Kafka at this address.
    #[must_use]
    pub fn kafka(&self, bootstrap: &str) -> KafkaConfig {
        let (p, mock) = (&self.prefix, matches!(self.target, Target::Mock(_)));
        KafkaConfig {
            bootstrap_servers: bootstrap.to_owned(),
            topic_prefix: format!("{p}lustre"),
            state_prefix: format!("{p}state."),
            registry_topic: format!("{p}groups"),
            schema_topic: format!("{p}schemas"),
            mock,
            // The mock cluster shows records of open and aborted transactions to everybody, so a transaction there
            // would only pretend.
            delivery: if mock { Delivery::Idempotent } else { Delivery::Transactional },
            transaction_timeout_ms: 10_000,
            ..KafkaConfig::default()
        }
    }

    /// Settings for NATS servers at this address.
    #[must_use]
    pub fn nats(&self, servers: &str) -> NatsConfig {
        let p = &self.prefix;
        NatsConfig {
            servers: servers.to_owned(),
            prefix: format!("{p}lustre"),
            own_prefix: format!("{p}own"),
            ack_wait_ms: ACK_WAIT_MS,
            ..NatsConfig::default()
        }
    }

    /// Settings for a RabbitMQ at this address.
    #[must_use]
    pub fn amqp(&self, uri: &str) -> AmqpConfig {
        let p = &self.prefix;
        // HOST:PORT is RabbitMQ as it is installed: user and password `guest`, virtual host `/`.
        let uri = if uri.contains("://") { uri.to_owned() } else { format!("amqp://{uri}/%2f") };
        AmqpConfig { uri, prefix: format!("{p}lustre"), own_prefix: format!("{p}own"), ..AmqpConfig::default() }
    }

    /// Kafka's topics: of records with [`PARTITIONS`] each, and the others with one.
    #[must_use]
    pub fn kafka_topics(&self, bootstrap: &str, mdts: &[MdtName]) -> Vec<(String, u32)> {
        let kafka = self.kafka(bootstrap);
        let mut topics = vec![(kafka.registry_topic.clone(), 1), (kafka.schema_topic.clone(), 1)];
        for mdt in mdts {
            topics.push((kafka.topic_name(mdt.as_str(), None), PARTITIONS));
            topics.push((kafka.state_topic(mdt.as_str()), 1));
        }
        topics
    }

    /// The bridge's configuration, for a sink that can do this.
    #[must_use]
    pub fn bridge(&self, source: &Addr, groups: &[&str], sink: Capabilities) -> Config {
        let mut config = Config { instance: "clbridge-demo".to_owned(), ..Config::default() };
        config.source.kind = SourceKind::Sim;
        config.source.address = Some(source.to_string());
        // The simulated MDTs commit every 200 ms: five to one, as the assumption behind `stable` wants it.
        config.clear.min_age = Duration::from_secs(1);
        config.clear.every = Duration::from_millis(500);
        config.poll.groups = Duration::from_millis(250);
        config.feed.partitions = PARTITIONS;
        config.sink = self.sink();
        // Groups are registered before the first record, so it is the same; what keeps nothing knows only the newest.
        let from = if sink.read_back { StartAt::Oldest } else { StartAt::Newest };
        for name in groups {
            config.groups.insert(self.group(name), GroupConfig { from, ..GroupConfig::default() });
        }
        config
    }

    /// Writes the members' configuration to `file`, which nobody else can read: an address may hold a password. A member
    /// that dies is missed soon.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_members(&self, file: &Path) -> anyhow::Result<()> {
        let mut config = Config { sink: self.sink(), ..Config::default() };
        if let Some(kafka) = &mut config.sink.kafka {
            // Six seconds are the least that a Kafka allows unless it is told otherwise. The mock cluster lets the first
            // members wait for three, in which they send no heartbeat: a shorter session would end before it began.
            let session_ms = if kafka.mock { 4_000 } else { 6_000 };
            for (key, value) in [("session.timeout.ms", session_ms), ("heartbeat.interval.ms", 300)] {
                kafka.librdkafka.insert(key.to_owned(), value.to_string());
            }
            // A member never makes a topic or asks about one, which is where a mock cluster is different.
            kafka.mock = false;
        }
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        std::io::Write::write_all(&mut out, toml::to_string(&config)?.as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
