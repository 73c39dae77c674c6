//! Kafka as a ground for the contract. What happens behind the sink's back is done with the rdkafka crate directly.

use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use clbridge_sinks::kafka::{Delivery, KafkaConfig, KafkaSink};
use clbridge_sinks::retraction::RETRACTS_HEADER;
use clbridge_sinks::{Broker as _, Consumer, GroupObserver, MdtSelection, Position, Sink, Subscription, Topic};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::ground::{Ground, variable};

/// One broker, given by KAFKA_BOOTSTRAP.
pub struct Kafka {
    delivery: Delivery,
    bootstrap: String,
}

const WAIT: Duration = Duration::from_secs(30);

impl Kafka {
    pub fn new(delivery: Delivery) -> Self {
        Self { delivery, bootstrap: variable("KAFKA_BOOTSTRAP") }
    }

    fn make(&self) -> KafkaSink {
        KafkaSink::new(KafkaConfig {
            bootstrap_servers: self.bootstrap.clone(),
            delivery: self.delivery,
            memory_bytes: self.memory(),
            // (longer than a busy machine stands still)
            request_timeout_ms: 60_000,
            transaction_timeout_ms: 120_000,
            ..KafkaConfig::default()
        })
        .unwrap()
    }

    fn subscription(mdts: MdtSelection) -> Subscription {
        Subscription { mdts, feed: None }
    }

    fn client(&self) -> ClientConfig {
        let mut c = ClientConfig::new();
        c.set("bootstrap.servers", &self.bootstrap);
        c
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    fn up(verb: &str) {
        let status = Command::new(variable("CLB_UP")).args(["kafka", verb, &variable("KAFKA_DIR")]).status().unwrap();
        assert!(status.success(), "tests/up kafka {verb}");
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(WAIT)).request_timeout(Some(WAIT))
}

#[async_trait]
impl Ground for Kafka {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.make())
    }

    fn observer(&self) -> Box<dyn GroupObserver> {
        Box::new(self.make())
    }

    fn member(&self, group: &str, mdts: MdtSelection) -> Box<dyn Consumer> {
        self.make().consumer(group, &Self::subscription(mdts)).unwrap()
    }

    fn ephemeral(&self, mdts: MdtSelection) -> Box<dyn Consumer> {
        self.make().ephemeral(&Self::subscription(mdts), true).unwrap()
    }

    fn memory(&self) -> usize {
        32 << 20
    }

    async fn delete(&self, topic: &Topic, recreate: bool) {
        let admin = self.admin();
        admin.delete_topics(&[&topic.name], &options()).await.unwrap()[0].as_ref().unwrap();
        let new = NewTopic::new(&topic.name, topic.partitions as i32, TopicReplication::Fixed(1))
            .set("retention.ms", "-1")
            .set("retention.bytes", "-1");
        // Deleting is finished somewhat after it was answered.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if !recreate {
                let metadata = admin.inner().fetch_metadata(None, WAIT).unwrap();
                if metadata.topics().iter().all(|t| t.name() != topic.name) {
                    return;
                }
            } else if admin.create_topics([&new], &options()).await.unwrap()[0].is_ok() {
                return;
            }
        }
        panic!("{} cannot be deleted", topic.name);
    }

    async fn widen(&self, topic: &Topic) {
        let more = NewPartitions::new(&topic.name, topic.partitions as usize + 1);
        self.admin().create_partitions([&more], &options()).await.unwrap()[0].as_ref().unwrap();
    }

    async fn set_retention(&self, topic: &Topic) -> Option<&'static str> {
        let change = AlterConfig::new(ResourceSpecifier::Topic(&topic.name)).set("retention.ms", "3600000");
        self.admin().alter_configs([&change], &options()).await.unwrap()[0].as_ref().unwrap();
        Some("retention.ms")
    }

    async fn evict(&self, topic: &Topic, partition: u32, below: u64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic.name, partition as i32, Offset::Offset(below as i64)).unwrap();
        let done = self.admin().delete_records(&list, &options()).await.unwrap();
        done.elements()[0].error().unwrap();
    }

    async fn schema(&self, fingerprint: [u8; 8]) -> Option<String> {
        let key: String = fingerprint.iter().map(|b| format!("{b:02x}")).collect();
        let reader: BaseConsumer =
            self.client().set("group.id", "schema-reader").set("enable.partition.eof", "true").create().unwrap();
        let topic = KafkaConfig::default().schema_topic;
        let metadata = reader.fetch_metadata(None, WAIT).unwrap();
        if metadata.topics().iter().all(|t| t.name() != topic) {
            return None;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Beginning).unwrap();
        reader.assign(&list).unwrap();
        let mut found = None;
        while let Some(Ok(m)) = reader.poll(WAIT) {
            if m.key() == Some(key.as_bytes()) {
                found = m.payload().map(|p| String::from_utf8(p.to_vec()).unwrap());
            }
        }
        found
    }

    async fn retraction_headers(&self, topic: &Topic) -> Vec<(Position, String)> {
        let said = Command::new("kcat")
            .args(["-b", &self.bootstrap, "-C", "-t", &topic.name, "-o", "beginning", "-e", "-q"])
            .args(["-X", "isolation.level=read_committed", "-f", "%p %o %h\n"])
            .output()
            .unwrap();
        assert!(said.status.success(), "kcat: {}", String::from_utf8_lossy(&said.stderr));
        let lines = String::from_utf8(said.stdout).unwrap();
        let headed = lines.lines().filter_map(|line| {
            let (place, header) = line.split_once(&format!(" {RETRACTS_HEADER}="))?;
            let (partition, offset) = place.split_once(' ')?;
            let at = Position { partition: partition.parse().unwrap(), offset: offset.parse().unwrap() };
            Some((at, header.to_owned()))
        });
        headed.collect()
    }

    fn stall(&self) {
        Self::up("stop");
    }

    fn go_on(&self) {
        Self::up("cont");
    }

    fn kill_and_restart(&self) {
        Self::up("kill9");
        Self::up("restart");
    }
}
