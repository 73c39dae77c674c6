//! Takes away what was made: of a demonstration, of a test, of a bridge that is no more.

use std::collections::BTreeSet;

use clbridge_schemas::avro::{SchemaVersion, fingerprint};
use clbridge_schemas::ids::MdtName;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};

use super::link::{close, short};
use super::topology::{group_queue, group_queues};
use super::{AmqpSink, Shared};
use crate::error::SinkError;

impl AmqpSink {
    /// Deletes what was made of these MDTs and groups under this sink's `prefix` and `own_prefix`: the groups' queues, also
    /// those that the directory of topics knows besides; each MDT's queues of State and answers; the exchanges of
    /// records, State and answers; the queues of schemas, the registry and the directory. Nothing else is looked at.
    ///
    /// Exchanges, registry and directory are everybody's who has these prefixes, and what is deleted cannot be had
    /// again: only for prefixes that no bridge uses any more. Interrupted, it can be repeated; what is not there is passed
    /// over.
    ///
    /// # Errors
    /// The broker cannot be asked, or refuses; the error names what it refused.
    pub async fn erase(&self, mdts: &[MdtName], groups: &[String]) -> Result<(), SinkError> {
        let (config, shared) = (&self.shared.config, &self.shared);
        // The directory is written last when a topic is made, so it may not know yet what is there already.
        let (mut queues, mut exchanges) = (BTreeSet::new(), BTreeSet::from([config.exchange(None)]));
        for mdt in mdts {
            let topic = config.topic_name(mdt, None);
            for group in groups {
                let (_, shards) = config.kind_of(group);
                queues.extend(group_queues(&topic, group, shards));
                exchanges.extend((shards > 0).then(|| group_queue(&topic, group)));
            }
            queues.extend([config.state_queue(mdt), config.view_queue(mdt), config.answer_queue(mdt)]);
        }
        let directory = shared.directory().await?;
        for (topic, entry) in directory.topics.iter().filter(|(_, entry)| mdts.contains(&entry.mdt)) {
            exchanges.insert(config.exchange(entry.feed.as_deref()));
            for (group, member) in &entry.groups {
                queues.extend(group_queues(topic, group, member.shards));
                exchanges.extend((member.shards > 0).then(|| group_queue(topic, group)));
            }
        }
        queues.extend(SchemaVersion::ALL.map(|version| config.schema_queue(fingerprint(version))));
        exchanges.extend([config.answer_exchange(), config.own_prefix.clone()]);
        for queue in &queues {
            shared.delete_queue(queue).await?;
        }
        for exchange in &exchanges {
            shared.delete_exchange(exchange).await?;
        }
        // Last, since it tells what there is.
        shared.delete_queue(&config.registry_queue()).await?;
        shared.delete_queue(&config.directory_queue()).await
    }
}

// RabbitMQ answers to both as if it had been there, where the protocol would let it refuse.
impl Shared {
    async fn delete_queue(&self, queue: &str) -> Result<(), SinkError> {
        let channel = self.channel().await?;
        let deleting = channel.queue_delete(short(queue)?, QueueDeleteOptions::default());
        self.within(|| format!("deleting queue {queue}"), deleting).await?;
        close(&channel).await;
        Ok(())
    }

    async fn delete_exchange(&self, exchange: &str) -> Result<(), SinkError> {
        let channel = self.channel().await?;
        let deleting = channel.exchange_delete(short(exchange)?, ExchangeDeleteOptions::default());
        self.within(|| format!("deleting exchange {exchange}"), deleting).await?;
        close(&channel).await;
        Ok(())
    }
}
