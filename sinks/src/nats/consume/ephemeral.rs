//! An ephemeral reader: consumers in memory that the server forgets by itself, without acknowledgements.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_trait::async_trait;
use futures_util::stream::{SelectAll, Stream};
use futures_util::{FutureExt, StreamExt};

use super::super::config::NatsConfig;
use super::super::link::Link;
use super::super::{NatsSink, Shared};
use super::{consumed, due, streams};
use crate::error::SinkError;
use crate::traits::{Batch, Consumed, Consumer, Subscription};

/// What comes of the stream of this name; `None` last of all.
type Delivery = (Arc<str>, Option<Result<Consumed, SinkError>>);

/// A reader that sees what comes from its first `next` on.
pub(in crate::nats) struct Ephemeral {
    config: NatsConfig,
    shared: Option<Arc<Shared>>,
    what: Subscription,
    looked: Option<Instant>,
    /// Whether it has looked before: streams that come later are read from their beginning.
    stands: bool,
    attached: BTreeSet<Arc<str>>,
    deliveries: SelectAll<Pin<Box<dyn Stream<Item = Delivery> + Send>>>,
}

impl Ephemeral {
    pub(in crate::nats) fn new(config: &NatsConfig, what: &Subscription) -> Self {
        Self {
            config: config.clone(),
            shared: None,
            what: what.clone(),
            looked: None,
            stands: false,
            attached: BTreeSet::new(),
            deliveries: SelectAll::new(),
        }
    }

    async fn look(&mut self) -> Result<(), SinkError> {
        if !due(&mut self.looked) {
            return Ok(());
        }
        let shared = match &self.shared {
            Some(shared) => Arc::clone(shared),
            None => NatsSink::new(self.config.clone())?.shared,
        };
        self.shared = Some(Arc::clone(&shared));
        let link = shared.link().await?;
        for stream in streams(&shared, &link, &self.what, None).await? {
            if !self.attached.contains(stream.as_str()) {
                self.attach(&link, stream).await?;
            }
        }
        self.stands = true;
        Ok(())
    }

    async fn attach(&mut self, link: &Link, stream: String) -> Result<(), SinkError> {
        let unavailable = |why: String| SinkError::Unavailable { what: format!("reading {stream}"), why };
        let config = pull::OrderedConfig {
            deliver_policy: if self.stands { DeliverPolicy::All } else { DeliverPolicy::New },
            ..pull::OrderedConfig::default()
        };
        let consumer = link.js.create_consumer_on_stream(config, stream.as_str()).await;
        let consumer = consumer.map_err(|e| unavailable(e.to_string()))?;
        let messages = consumer.messages().await.map_err(|e| unavailable(e.to_string()))?;
        let name: Arc<str> = stream.as_str().into();
        self.attached.insert(Arc::clone(&name));
        let records = messages.map(move |message| {
            let gone = |why: String| SinkError::Unavailable { what: format!("reading {stream}"), why };
            let message = message.map_err(|e| gone(e.to_string()))?;
            let sequence = message.info().map_err(|e| gone(e.to_string()))?.stream_sequence;
            consumed(&stream, sequence, &message.subject, &message.payload, message.headers.as_ref())
        });
        let all = records.map(Some).chain(futures_util::stream::iter([None]));
        self.deliveries.push(Box::pin(all.map(move |record| (Arc::clone(&name), record))));
        Ok(())
    }

    fn take(&mut self, (stream, record): Delivery) -> Result<Option<Consumed>, SinkError> {
        match record {
            Some(Ok(record)) => Ok(Some(record)),
            // The client makes the consumer anew; a stream that was deleted ends, and is looked for again.
            Some(Err(SinkError::Unavailable { why, .. })) => {
                tracing::debug!(stream = &*stream, why, "an ephemeral reader broke off");
                Ok(None)
            }
            Some(Err(e)) => Err(e),
            None => {
                self.attached.remove(&stream);
                Ok(None)
            }
        }
    }
}

#[async_trait]
impl Consumer for Ephemeral {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Batch, SinkError> {
        let mut batch = Batch::default();
        let until = Instant::now() + wait;
        loop {
            self.look().await?;
            while batch.records.len() < max
                && let Some(Some(delivery)) = self.deliveries.next().now_or_never()
            {
                batch.records.extend(self.take(delivery)?);
            }
            let left = until.saturating_duration_since(Instant::now());
            if !batch.records.is_empty() || left.is_zero() || max == 0 {
                return Ok(batch);
            }
            let left = left.min(super::LOOK);
            if self.deliveries.is_empty() {
                tokio::time::sleep(left.min(Duration::from_millis(100))).await;
            } else if let Ok(Some(delivery)) = tokio::time::timeout(left, self.deliveries.next()).await {
                batch.records.extend(self.take(delivery)?);
            }
        }
    }

    async fn done(&mut self, _: &Batch) -> Result<(), SinkError> {
        Ok(())
    }
}
