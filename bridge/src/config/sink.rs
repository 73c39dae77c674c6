//! Which broker, and its settings: the one table that stands under `sink`.

use clbridge_sinks::kafka::{Delivery, KafkaConfig};
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// The broker. A bridge has one: the one whose table is there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkConfig {
    /// Apache Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaConfig>,
}

/// The settings of the broker that was chosen.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// Apache Kafka.
    Kafka(KafkaConfig),
}

impl SinkConfig {
    /// The broker whose table is there, else the default one with its default settings.
    #[must_use]
    pub fn chosen(&self) -> Chosen {
        Chosen::Kafka(self.kafka.clone().unwrap_or_default())
    }

    /// What `status` calls it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.chosen() {
            Chosen::Kafka(KafkaConfig { delivery: Delivery::Transactional, .. }) => "kafka",
            Chosen::Kafka(KafkaConfig { delivery: Delivery::Idempotent, .. }) => "kafka-idempotent",
        }
    }

    /// Refuses what a sink has a setting for and the configuration another place, and what the sink itself refuses.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.chosen() {
            Chosen::Kafka(given) => kafka(&given),
        }
    }
}

fn kafka(given: &KafkaConfig) -> Result<(), ConfigError> {
    let default = KafkaConfig::default();
    let elsewhere = [
        ("instance", given.instance != default.instance, "set the key `instance` instead"),
        (
            "partitions",
            given.partitions != default.partitions,
            "set the keys `feed.partitions`, `feeds.NAME.partitions` instead",
        ),
        ("mock", given.mock, "only `clbridge demo` uses a mock broker"),
    ];
    if let Some((key, _, what)) = elsewhere.into_iter().find(|(_, set, _)| *set) {
        return Err(ConfigError::impossible(format!("sink.kafka.{key}"), what));
    }
    given.check().map_err(|e| ConfigError::impossible("sink.kafka", e.to_string()))
}
