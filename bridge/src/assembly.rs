//! Turns the configuration into what the daemon is made of. The only place that knows both.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clbridge_schemas::avro::{Framing, SchemaVersion};
use clbridge_schemas::ids::MdtName;
use clbridge_sinks::amqp::{AmqpConfig, AmqpSink};
use clbridge_sinks::files::{FilesConfig, FilesSink};
use clbridge_sinks::kafka::{KafkaConfig, KafkaSink};
use clbridge_sinks::nats::{NatsConfig, NatsSink};
use clbridge_sinks::{Broker, Owner, State, TopicSpec};

use crate::config::{Chosen, Config, FeedConfig, FramingName, SourceKind, WithoutGroups};
use crate::core::Settings;
use crate::core::clears::ClearSettings;
use crate::core::ledger::WithoutGroups as CoreWithoutGroups;
use crate::modules::TypeSet;
use crate::pipeline::{BatchSettings, FeedSettings, PipelineSettings};
use crate::run::Setup;
use crate::source::{LustreFactory, PaceSettings, Replay, ReplayFactory, SimFactory, SourceFactory};

/// The longest encoded record. The kernel's longest has 947 bytes, of which names and an xattr may grow threefold by
/// replacement characters and stand beside their raw bytes.
pub const MAX_MESSAGE_BYTES: usize = 8 << 10;

/// The broker that the configuration names. Nothing is asked of it yet.
///
/// # Errors
/// A setting that is not possible, named.
pub fn sink(config: &Config) -> anyhow::Result<Arc<dyn Broker>> {
    sink_for(config, mdts(config).map_or(1, |m| m.len().max(1)))
}

/// As [`sink`], for this many MDTs: half of the memory is the broker client's, in equal parts for each MDT; the rest is
/// for reading and encoding.
///
/// # Errors
/// A setting that is not possible, named.
pub fn sink_for(config: &Config, mdts: usize) -> anyhow::Result<Arc<dyn Broker>> {
    let share = (config.memory.limit.as_usize() / 2 / mdts).max(1 << 20);
    let instance = config.instance.clone();
    Ok(match config.sink.chosen() {
        Chosen::Kafka(own) => {
            let memory_bytes = share.min(own.memory_bytes);
            Arc::new(KafkaSink::new(KafkaConfig { instance, memory_bytes, ..own })?)
        }
        Chosen::Nats(own) => {
            let memory_bytes = share.min(own.memory_bytes);
            Arc::new(NatsSink::new(NatsConfig { instance, memory_bytes, ..own })?)
        }
        Chosen::Amqp(own) => {
            let memory_bytes = share.min(own.memory_bytes);
            Arc::new(AmqpSink::new(AmqpConfig { instance, memory_bytes, ..own })?)
        }
        Chosen::Files(own) => {
            let memory_bytes = share.min(own.memory_bytes);
            Arc::new(FilesSink::new(FilesConfig { instance, memory_bytes, ..own })?)
        }
    })
}

/// What opens MDTs.
///
/// # Errors
/// An address that is none, or files that cannot be read.
pub fn sources(config: &Config) -> anyhow::Result<Arc<dyn SourceFactory>> {
    let source = &config.source;
    let pace = PaceSettings { reopen_share: source.reopen_share, quickest: source.poll_min, slowest: source.poll_max };
    Ok(match source.kind {
        SourceKind::Lustre => Arc::new(LustreFactory::in_dir(source.dir.clone(), source.fs.clone(), pace)),
        SourceKind::Sim => {
            let Some(address) = &source.address else { bail!("configuration key `source.address`: is missing") };
            Arc::new(SimFactory::new(address.parse().context("configuration key `source.address`")?, pace))
        }
        SourceKind::Replay => {
            let load = |(mdt, files): (&MdtName, &Vec<_>)| Ok((mdt.clone(), Replay::load(mdt, files, false)?));
            let replays: anyhow::Result<Vec<_>> = source.files.iter().map(load).collect();
            Arc::new(ReplayFactory::new(replays.context("configuration key `source.files`")?))
        }
    })
}

/// The MDTs that are listed, else those that are found now.
///
/// # Errors
/// The place where they are looked for cannot be read.
pub fn mdts(config: &Config) -> anyhow::Result<Vec<MdtName>> {
    if !config.source.mdts.is_empty() {
        return Ok(config.source.mdts.clone());
    }
    let mut found = sources(config)?.discover()?;
    found.retain(|mdt| config.source.takes(mdt));
    Ok(found)
}

/// Everything that [`crate::run::Bridge`] needs.
///
/// # Errors
/// As [`sources`], and a feed that cannot be.
pub fn setup(config: &Config, broker: &Arc<dyn Broker>) -> anyhow::Result<Setup> {
    Ok(Setup {
        settings: pipeline(config)?,
        sources: sources(config)?,
        mdts: (!config.source.mdts.is_empty()).then(|| config.source.mdts.clone()),
        user: config.source.user.clone(),
        users: config.source.users.clone(),
        standby: config.source.standby.clone(),
        sink: broker.clone(),
        observer: broker.clone(),
        sink_name: config.sink.name().to_owned(),
        max_message_bytes: MAX_MESSAGE_BYTES,
        backlog_limit: config.backlog_limit,
        poll_mdts: config.poll.mdts,
        poll_members: config.poll.members,
    })
}

/// The name that this bridge is configured to have, and what tells this process from all others: two containers may have
/// the same process number, but did not start within the same nanosecond.
fn this_run(config: &Config) -> Owner {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Owner { name: config.instance.clone(), run: format!("{}-{:x}", std::process::id(), since.as_nanos()) }
}

fn pipeline(config: &Config) -> anyhow::Result<PipelineSettings> {
    let feeds: anyhow::Result<Vec<_>> = config.all_feeds().map(|(name, feed)| feed_settings(name, feed)).collect();
    Ok(PipelineSettings {
        owner: this_run(config),
        core: Settings {
            min_age: config.clear.min_age,
            clears: ClearSettings {
                batch: config.clear.batch,
                every: config.clear.every,
                heartbeat: config.clear.heartbeat,
                state_fresh: config.clear.state_fresh,
                retry: Duration::from_secs(1),
            },
            without_groups: match config.clear.without_groups {
                WithoutGroups::Hold => CoreWithoutGroups::Hold,
                WithoutGroups::Durable => CoreWithoutGroups::Durable,
            },
            state_every: config.clear.state_fresh,
            answers_fresh: (config.poll.groups.max(config.poll.mdts) * 4).max(Duration::from_secs(10)),
            reads: 256,
        },
        feeds: feeds?,
        batch: BatchSettings {
            max_bytes: config.batch.max_bytes.0,
            max_age: config.batch.max_age,
            min_age: config.batch.max_age / 10,
        },
        poll_groups: config.poll.groups,
        poll_registry: config.poll.mdts,
        trim_every: Duration::from_secs(60),
        keep: config.keep,
        takeover_after: config.takeover_after,
        retry_max: Duration::from_secs(30),
    })
}

fn feed_settings(name: Option<&str>, feed: &FeedConfig) -> anyhow::Result<FeedSettings> {
    Ok(FeedSettings {
        name: name.map(str::to_owned),
        version: SchemaVersion::try_from(feed.schema_version)?,
        framing: match feed.framing {
            FramingName::SingleObject => Framing::SingleObject,
            FramingName::Confluent { id } => Framing::Confluent { id },
        },
        key: feed.key,
        types: TypeSet::of_list(feed.types.as_deref())?,
        partitions: feed.partitions,
    })
}

/// The topics that State knows, as they were pinned.
#[must_use]
pub fn pinned_specs(state: &State) -> Vec<TopicSpec> {
    let spec = |(feed, topic): (&String, &clbridge_sinks::TopicState)| TopicSpec {
        mdt: state.mdt.clone(),
        feed: (!feed.is_empty()).then(|| feed.clone()),
        partitions: topic.partitions,
        max_message_bytes: MAX_MESSAGE_BYTES,
    };
    state.topics.iter().map(spec).collect()
}

/// The topics of one MDT that the configuration asks for.
#[must_use]
pub fn wanted_specs(config: &Config, mdt: &MdtName) -> Vec<TopicSpec> {
    let spec = |(name, feed): (Option<&str>, &FeedConfig)| TopicSpec {
        mdt: mdt.clone(),
        feed: name.map(str::to_owned),
        partitions: feed.partitions,
        max_message_bytes: MAX_MESSAGE_BYTES,
    };
    config.all_feeds().map(spec).collect()
}
