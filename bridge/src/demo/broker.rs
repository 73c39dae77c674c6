//! The broker of the demonstration: librdkafka's mock cluster in this process, or somebody's real Kafka.

use std::time::Duration;

use anyhow::Context as _;
use clbridge_schemas::ids::MdtName;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::names::Names;
use super::verdict::LogStart;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A broker that the demonstration may use. The mock cluster ends with it.
pub struct Broker {
    names: Names,
    /// Kept for its life only.
    _mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl Broker {
    /// Starts a mock cluster with the topics of these MDTs, which nobody can make by its protocol.
    ///
    /// # Errors
    /// The cluster or a topic cannot be made.
    pub fn mock(mdts: &[MdtName]) -> anyhow::Result<Self> {
        let cluster = MockCluster::new(1).context("starting librdkafka's mock cluster")?;
        let names = Names::mock(cluster.bootstrap_servers());
        for (topic, partitions) in names.topics(mdts) {
            cluster
                .create_topic(&topic, partitions.cast_signed(), 1)
                .with_context(|| format!("making topic {topic} in the mock cluster"))?;
        }
        Ok(Self { names, _mock: Some(cluster) })
    }

    /// Uses the Kafka at `bootstrap`, under names that begin with `clbridge-demo-RUN.`.
    #[must_use]
    pub fn real(bootstrap: &str, run: &str) -> Self {
        Self { names: Names::real(bootstrap.to_owned(), run), _mock: None }
    }

    /// What is called how.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What has to be said of it before anything is shown.
    #[must_use]
    pub fn introduction(&self) -> Vec<String> {
        if !self.names.is_mock() {
            return vec![
                format!("Broker: the Kafka at {}, by transactions.", self.names.bootstrap()),
                format!(
                    "  Every topic and group of this run begins with `{}` and is deleted at its end.",
                    self.names.prefix()
                ),
            ];
        }
        [
            "Broker: librdkafka's MOCK CLUSTER, in this process. It speaks Kafka's protocol and keeps everything in memory.",
            "  Off with it: fencing of a second bridge, isolation (so records are published by an idempotent producer, not",
            "  by transactions), trimming, listing of groups and their members, settings and identity of topics.",
            "  It drops data beyond 5 MiB a partition: the workload is bounded, and a dropped record fails the verdict.",
            "  None of this holds for a real Kafka: make demo ARGS='--broker HOST:PORT'",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.names.bootstrap());
        config
    }

    /// Where each partition of these MDTs' record topics starts. Blocks.
    ///
    /// # Errors
    /// The broker does not say.
    pub fn log_starts(&self, mdts: &[MdtName]) -> anyhow::Result<Vec<LogStart>> {
        let consumer: BaseConsumer = self.client().create()?;
        let kafka = self.names.kafka();
        let mut starts = Vec::new();
        for mdt in mdts {
            let topic = kafka.topic_name(mdt.as_str(), None);
            for partition in 0..super::names::PARTITIONS.cast_signed() {
                let (position, _) = consumer
                    .fetch_watermarks(&topic, partition, PATIENCE)
                    .with_context(|| format!("asking where {topic} partition {partition} starts"))?;
                starts.push(LogStart { topic: topic.clone(), partition, position });
            }
        }
        Ok(starts)
    }

    /// Deletes what this run made in a real broker; a mock cluster goes by itself.
    ///
    /// # Errors
    /// What could not be deleted, by name.
    pub async fn tidy(&self, mdts: &[MdtName], groups: &[&str]) -> anyhow::Result<()> {
        if self.names.is_mock() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
        let topics = self.names.topics(mdts);
        let topics: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
        let groups: Vec<String> = groups.iter().map(|g| self.names.group(g)).collect();
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let mut left = Vec::new();
        for gone in admin.delete_groups(&groups, &options).await? {
            left.extend(gone.err().map(|(group, code)| format!("group {group}: {code}")));
        }
        for gone in admin.delete_topics(&topics, &options).await? {
            // A topic that nobody wrote to was never made.
            left.extend(
                gone.err()
                    .filter(|(_, code)| *code != RDKafkaErrorCode::UnknownTopicOrPartition)
                    .map(|(topic, code)| format!("topic {topic}: {code}")),
            );
        }
        anyhow::ensure!(left.is_empty(), "could not be deleted: {}", left.join("; "));
        Ok(())
    }
}
