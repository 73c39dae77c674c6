//! The place where the demonstration's records go: what it is, what is looked at there, and how it is left.

mod kafka;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clbridge_schemas::ids::MdtName;
use clbridge_sinks::amqp::AmqpSink;
use clbridge_sinks::nats::NatsSink;
use clbridge_sinks::{Broker, Topic};
use mdt_sim::addr::Addr;

use super::names::{Names, Target};
use super::verdict::LogStart;
use crate::assembly;
use crate::config::Config;

/// The sinks that can be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Show {
    /// Apache Kafka; without --broker a mock of one in this process
    #[default]
    Kafka,
    /// NATS JetStream
    Nats,
    /// RabbitMQ
    Amqp,
    /// Files in a temporary folder
    Files,
}

impl Show {
    /// Whether this sink can be shown at this address, or without one.
    ///
    /// # Errors
    /// What has to be typed instead.
    pub fn check(self, broker: Option<&str>) -> Result<(), String> {
        let needs = |name: &str, what: &str, address: &str, variable: &str| {
            Err(format!(
                "--sink {name} needs --broker {address}, {what}\n\n\
                 On a machine without one, in clbridge's source tree:\n  \
                 tests/up run --with {name} -- make demo ARGS='--sink {name} --broker $${variable}'"
            ))
        };
        match (self, broker) {
            (Self::Nats, None) => needs("nats", "a NATS server with JetStream", "HOST:PORT", "NATS_URL"),
            (Self::Amqp, None) => {
                needs("amqp", "a RabbitMQ (or amqp://USER:PASSWORD@HOST:PORT/VHOST)", "HOST:PORT", "AMQP_URL")
            }
            (Self::Files, Some(_)) => {
                Err("--sink files needs no --broker: it writes into a temporary folder".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Where the partitions of the record topics started before the first record.
pub struct Starts {
    topics: Vec<Topic>,
    /// By topic and partition, one after the other.
    began: Vec<u64>,
}

/// A place that the demonstration may use. A mock cluster and its folder end with it.
pub struct Place {
    names: Names,
    sink: Arc<dyn Broker>,
    config: Config,
    mdts: Vec<MdtName>,
    groups: Vec<&'static str>,
    /// Kept for its life only.
    _mock: Option<kafka::Mock>,
}

impl Place {
    /// Makes ready what is ours; a broker is not asked yet. `dir` is the run's own folder.
    ///
    /// # Errors
    /// A mock cluster or a client cannot be made, or the address is none.
    pub async fn open(
        (show, broker): (Show, Option<&str>),
        dir: &Path,
        (mdts, source): (&[MdtName], &Addr),
        groups: &[&'static str],
    ) -> anyhow::Result<Self> {
        let mut mock = None;
        let target = match (show, broker.map(str::to_owned)) {
            (Show::Kafka, None) => {
                let cluster = kafka::Mock::start()?;
                let at = cluster.address();
                mock = Some(cluster);
                Target::Mock(at)
            }
            (Show::Kafka, Some(at)) => Target::Kafka(at),
            (Show::Nats, Some(at)) => Target::Nats(at),
            (Show::Amqp, Some(at)) => Target::Amqp(at),
            (Show::Files, None) => Target::Files(dir.join("files")),
            (Show::Nats | Show::Amqp, None) | (Show::Files, Some(_)) => {
                bail!(show.check(broker).err().unwrap_or_default())
            }
        };
        let names = Names::new(target, &super::run_id());
        if let (Some(mock), Target::Mock(at)) = (&mock, names.target()) {
            mock.make(&names.kafka_topics(at, mdts))?;
        }
        let own = Config { sink: names.sink(), instance: "clbridge-demo".to_owned(), ..Config::default() };
        let count = mdts.len();
        let sink = tokio::task::spawn_blocking(move || assembly::sink_for(&own, count)).await??;
        let config = names.bridge(source, groups, sink.capabilities());
        Ok(Self { names, sink, config, mdts: mdts.to_vec(), groups: groups.to_vec(), _mock: mock })
    }

    /// What is called how.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The sink, as bridge and commands use it.
    #[must_use]
    pub fn sink(&self) -> &Arc<dyn Broker> {
        &self.sink
    }

    /// The bridge's configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Asks the broker for something that it may well not have. Nothing is made by that.
    ///
    /// # Errors
    /// It does not answer, or not to us; the error names its address.
    pub async fn reach(&self) -> anyhow::Result<()> {
        let asked = self.sink.registry().await.with_context(|| format!("{} cannot be used", self.names.place()));
        asked.map(drop)
    }

    /// What has to be said of it before anything is shown: what it is, and what gives the guarantees.
    #[must_use]
    pub fn introduction(&self) -> Vec<String> {
        let at = self.names.place();
        let mut lines = match self.names.target() {
            Target::Mock(_) => {
                return [
                    "Broker: librdkafka's MOCK CLUSTER, in this process. It speaks Kafka's protocol and keeps everything in memory.",
                    "  Off with it: fencing of a second bridge, isolation (so records are published by an idempotent producer, not",
                    "  by transactions), trimming, listing of groups and their members, settings and identity of topics.",
                    "  It drops data beyond 5 MiB a partition: the workload is bounded, and a dropped record fails the verdict.",
                    "  None of this holds for a real Kafka: make demo ARGS='--broker HOST:PORT'",
                ]
                .map(str::to_owned)
                .to_vec();
            }
            Target::Files(_) => {
                return vec![
                    "No broker: Avro files, which fastavro, DuckDB and others read. They go with the demonstration; until then look into".to_owned(),
                    format!("  {at}"),
                    "  Nothing twice, no hole: a batch is synced, then one small file that says how far files count, and State with it.".to_owned(),
                    "  That file's lock keeps a second bridge out; by locks members share the MDTs, and a dead member's are free at once.".to_owned(),
                ];
            }
            Target::Kafka(_) => vec![
                format!("Broker: the Kafka at {at}, by transactions."),
                "  Nothing twice, no hole: a batch and State are one transaction of the MDT's own producer, which fences older ones.".to_owned(),
                "  What a group has finished are its committed offsets.".to_owned(),
            ],
            Target::Nats(_) => vec![
                format!("Broker: the NATS JetStream at {at}, a stream for each MDT."),
                "  Nothing twice, no hole: each message names the sequence and the message that must be the last before it, else the".to_owned(),
                "  server refuses it; so an older bridge is fenced too.".to_owned(),
                "  What a group has finished is the ack floor of its durable consumer, as long as nothing else can have moved it.".to_owned(),
            ],
            Target::Amqp(_) => vec![
                format!("Broker: the RabbitMQ at {at}, a quorum queue for each group and MDT."),
                "  What a group has finished is what its members have answered: each publishes an answer, then acknowledges; answers".to_owned(),
                "  are folded into State, a queue of one message whose only consumer is the one writer.".to_owned(),
                "  Nothing can be read back from a queue: a start may publish again what came after State, behind a retraction.".to_owned(),
            ],
        };
        lines.push(format!(
            "  Every name of this run there begins with `{}`, and all of it is deleted at the end.",
            self.names.prefix()
        ));
        lines
    }

    /// Where each partition of the record topics starts, once the bridge has made them and before the first record.
    ///
    /// # Errors
    /// The broker does not say, or a topic is not as it must be.
    pub async fn starts(&self) -> anyhow::Result<Starts> {
        let mut topics = Vec::new();
        for mdt in &self.mdts {
            topics.extend(self.sink.prepare(&assembly::wanted_specs(&self.config, mdt), None).await?);
        }
        let began = self.lows(&topics).await?;
        Ok(Starts { topics, began })
    }

    /// Where they start now.
    ///
    /// # Errors
    /// The broker does not say, or a topic is gone.
    pub async fn log_starts(&self, starts: &Starts) -> anyhow::Result<Vec<LogStart>> {
        let now = self.lows(&starts.topics).await?;
        let places = starts.topics.iter().flat_map(|t| (0..t.partitions).map(|p| (t.name.clone(), p)));
        let positions = starts.began.iter().zip(now);
        let start = |((topic, partition), (began, now)): ((String, u32), (&u64, u64))| LogStart {
            topic,
            partition,
            began: *began,
            now,
        };
        Ok(places.zip(positions).map(start).collect())
    }

    /// The first position of each partition of these topics, one after the other.
    async fn lows(&self, topics: &[Topic]) -> anyhow::Result<Vec<u64>> {
        let progress = self.sink.progress(&[], topics).await?;
        let mut lows = Vec::new();
        for topic in topics {
            match progress.topics.get(&topic.name) {
                Some(known) if known.low.len() == topic.partitions as usize => lows.extend(&known.low),
                _ => bail!("topic {} is gone, or is no longer what it was", topic.name),
            }
        }
        Ok(lows)
    }

    /// Deletes what this run made in somebody's broker; the rest goes by itself. Neither the bridge nor a member runs.
    ///
    /// # Errors
    /// What could not be deleted, by name.
    pub async fn tidy(&self) -> anyhow::Result<()> {
        let groups: Vec<String> = self.groups.iter().map(|name| self.names.group(name)).collect();
        match self.names.target() {
            Target::Mock(_) | Target::Files(_) => {}
            Target::Kafka(at) => kafka::tidy(at, &self.names.kafka_topics(at, &self.mdts), &groups).await?,
            Target::Nats(servers) => {
                NatsSink::new(self.names.nats(servers))?.erase(&self.mdts).await?;
            }
            Target::Amqp(uri) => AmqpSink::new(self.names.amqp(uri))?.erase(&self.mdts, &groups).await?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sink_without_the_address_that_it_needs_says_what_to_type() {
        for (show, variable) in [(Show::Nats, "$$NATS_URL"), (Show::Amqp, "$$AMQP_URL")] {
            let told = show.check(None).unwrap_err();
            assert!(told.contains("--broker HOST:PORT") && told.contains("tests/up run --with"), "{told}");
            assert!(told.contains(variable), "{told}");
            show.check(Some("h:1")).unwrap();
        }
    }

    #[test]
    fn kafka_can_do_without_an_address_and_files_have_none() {
        Show::Kafka.check(None).unwrap();
        Show::Kafka.check(Some("h:1")).unwrap();
        Show::Files.check(None).unwrap();
        assert!(Show::Files.check(Some("/tmp")).unwrap_err().contains("temporary folder"));
    }
}
