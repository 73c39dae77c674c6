//! Kafka, as far as the sink itself has no word for it: a mock cluster, and deleting what a run made.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A member that was killed is one of its group until its session ends.
const SESSION: Duration = Duration::from_secs(15);

/// librdkafka's mock cluster, in this process.
pub struct Mock(MockCluster<'static, DefaultProducerContext>);

impl Mock {
    /// Starts one without topics.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start() -> anyhow::Result<Self> {
        MockCluster::new(1).map(Self).context("starting librdkafka's mock cluster")
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Makes topics, which nobody can make by its protocol.
    ///
    /// # Errors
    /// One cannot be made.
    pub fn make(&self, topics: &[(String, u32)]) -> anyhow::Result<()> {
        for (topic, partitions) in topics {
            let made = self.0.create_topic(topic, partitions.cast_signed(), 1);
            made.with_context(|| format!("making topic {topic} in the mock cluster"))?;
        }
        Ok(())
    }
}

/// Deletes these topics and groups of a real Kafka.
///
/// # Errors
/// What could not be deleted, by name.
pub async fn tidy(bootstrap: &str, topics: &[(String, u32)], groups: &[String]) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().context("making a client")?;
    let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
    let mut left = Vec::new();
    for group in groups {
        left.extend(delete_group(&admin, &options, group).await?.map(|code| format!("group {group}: {code}")));
    }
    let topics: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
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

/// Why a group could not be deleted, if so.
async fn delete_group(
    admin: &AdminClient<DefaultClientContext>,
    options: &AdminOptions,
    group: &str,
) -> anyhow::Result<Option<RDKafkaErrorCode>> {
    let until = Instant::now() + SESSION;
    loop {
        let gone = admin.delete_groups(&[group], options).await?;
        match gone.into_iter().find_map(Result::err).map(|(_, code)| code) {
            Some(RDKafkaErrorCode::NonEmptyGroup) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            None | Some(RDKafkaErrorCode::GroupIdNotFound) => return Ok(None),
            Some(code) => return Ok(Some(code)),
        }
    }
}
