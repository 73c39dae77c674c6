//! Which broker, and its settings: the one table that stands under `sink`.

use clbridge_sinks::SinkError;
use clbridge_sinks::amqp::AmqpConfig;
use clbridge_sinks::files::FilesConfig;
use clbridge_sinks::kafka::{Delivery, KafkaConfig};
use clbridge_sinks::nats::NatsConfig;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// The broker. A bridge has one: the one whose table is there, and without any of them files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkConfig {
    /// Apache Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaConfig>,
    /// NATS JetStream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsConfig>,
    /// RabbitMQ by AMQP 0.9.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amqp: Option<AmqpConfig>,
    /// Files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesConfig>,
}

/// The settings of the broker that was chosen.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// Apache Kafka.
    Kafka(KafkaConfig),
    /// NATS JetStream.
    Nats(NatsConfig),
    /// RabbitMQ.
    Amqp(AmqpConfig),
    /// Files.
    Files(FilesConfig),
}

impl SinkConfig {
    /// The broker whose table is there, else files with their default settings: they need nothing else to run.
    #[must_use]
    pub fn chosen(&self) -> Chosen {
        match self {
            Self { nats: Some(own), .. } => Chosen::Nats(own.clone()),
            Self { amqp: Some(own), .. } => Chosen::Amqp(own.clone()),
            Self { kafka: Some(own), .. } => Chosen::Kafka(own.clone()),
            Self { files, .. } => Chosen::Files(files.clone().unwrap_or_default()),
        }
    }

    /// What `status` calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.chosen() {
            Chosen::Kafka(KafkaConfig { delivery: Delivery::Transactional, .. }) => "kafka",
            Chosen::Kafka(KafkaConfig { delivery: Delivery::Idempotent, .. }) => "kafka-idempotent",
            Chosen::Nats(_) => "nats",
            Chosen::Amqp(_) => "amqp",
            Chosen::Files(_) => "files",
        }
    }

    /// Refuses two brokers, what a sink has a setting for and the configuration another place, and what the sink itself
    /// refuses.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let tables = [
            ("kafka", self.kafka.is_some()),
            ("nats", self.nats.is_some()),
            ("amqp", self.amqp.is_some()),
            ("files", self.files.is_some()),
        ];
        let given: Vec<&str> = tables.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
        if let [first, second, ..] = given[..] {
            return Err(ConfigError::impossible(
                format!("sink.{second}"),
                format!("a bridge has one broker, and there is `sink.{first}` too: run one bridge for each"),
            ));
        }
        match self.chosen() {
            Chosen::Kafka(own) => {
                let default = KafkaConfig::default();
                refuse("kafka.instance", own.instance != default.instance, INSTANCE)?;
                refuse("kafka.partitions", own.partitions != default.partitions, PARTITIONS)?;
                refuse("kafka.mock", own.mock, "only `clbridge demo` uses a mock broker")?;
                refused("kafka", own.check())
            }
            Chosen::Nats(own) => {
                refuse("nats.instance", own.instance != NatsConfig::default().instance, INSTANCE)?;
                refused("nats", own.check())
            }
            Chosen::Amqp(own) => {
                refuse("amqp.instance", own.instance != AmqpConfig::default().instance, INSTANCE)?;
                refused("amqp", own.check())
            }
            Chosen::Files(own) => {
                refuse("files.instance", own.instance != FilesConfig::default().instance, INSTANCE)?;
                refused("files", own.check())
            }
        }
    }
}

const INSTANCE: &str = "set the key `instance` instead";
const PARTITIONS: &str = "set the keys `feed.partitions`, `feeds.NAME.partitions` instead";

fn refuse(key: &str, set: bool, why: &str) -> Result<(), ConfigError> {
    if set { Err(ConfigError::impossible(format!("sink.{key}"), why)) } else { Ok(()) }
}

fn refused(sink: &str, checked: Result<(), SinkError>) -> Result<(), ConfigError> {
    checked.map_err(|e| ConfigError::impossible(format!("sink.{sink}"), e.to_string()))
}
