//! A queue of one message: a value that several may read and change, one after the other.
//!
//! It is a quorum queue with `x-max-length=1`, `x-overflow=drop-head` and `x-single-active-consumer`. Whoever is the
//! active consumer has the message and is alone with it; it is given back by closing the channel, and changed by
//! publishing the new value behind it, waiting for the confirm, and acknowledging the old one. Who dies in between
//! leaves both, of which the broker drops the older. Nobody publishes into it who does not have its message, but for an
//! empty first one, which is put there under a lock when nobody can have it; so what is there is never lost, and no
//! change by a second writer either.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};
use tokio::runtime::Handle;

use super::Shared;
use super::link::{PERSISTENT, close, locked, not_found, short, sort};
use crate::error::SinkError;

/// How long one waits in line before it is looked whether there is anything to wait for.
const IN_LINE: Duration = Duration::from_secs(1);

/// A channel that has, or is about to get, what others wait for. It is closed wherever its owner is given up, also in the
/// middle of a request, by a task of its own: else the broker would believe that somebody has the message for as long as the
/// connection lives.
struct Lent {
    channel: Channel,
    /// A queue that is to go with it.
    lock: Option<ShortString>,
}

impl Lent {
    /// Gives back what it has, and waits until the broker has it.
    async fn close(mut self) {
        give_back(&self.channel, self.lock.take()).await;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Without a runtime the connection is about to end too.
        if let (true, Ok(runtime)) = (self.channel.status().connected(), Handle::try_current()) {
            let (channel, lock) = (self.channel.clone(), self.lock.take());
            runtime.spawn(async move { give_back(&channel, lock).await });
        }
    }
}

async fn give_back(channel: &Channel, lock: Option<ShortString>) {
    if let Some(lock) = lock {
        // Where this fails the connection is lost, and the queue with it, since it is the connection's own.
        let delete = channel.queue_delete(lock, QueueDeleteOptions::default());
        let _ = tokio::time::timeout(IN_LINE, delete).await;
    }
    close(channel).await;
}

/// The message of a cell: nobody else has it while this is held. It goes back when this is dropped.
pub(super) struct Held {
    queue: String,
    lent: Lent,
    /// Kept, since the broker takes the message back when it ends.
    _consumer: Consumer,
    delivery: Delivery,
}

impl Held {
    /// The value; empty if none was ever written.
    pub(super) fn value(&self) -> &[u8] {
        &self.delivery.data
    }

    /// Gives the message back as it is.
    pub(super) async fn release(self) {
        self.lent.close().await;
    }
}

impl Shared {
    /// The arguments of a queue of one message.
    pub(super) fn cell_arguments(&self) -> FieldTable {
        let mut arguments = self.quorum_arguments();
        arguments
            .insert("x-max-length".into(), AMQPValue::LongInt(1))
            .insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()))
            .insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        arguments
    }

    /// Makes a cell if it is not there, with its empty first message.
    pub(super) async fn make_cell(&self, queue: &str) -> Result<(), SinkError> {
        let what = || format!("making queue {queue}");
        let channel = self.channel().await?;
        let declare = channel.queue_declare(short(queue)?, QueueDeclareOptions::durable(), self.cell_arguments());
        let declared = self.within(what, declare).await?;
        close(&channel).await;
        if declared.message_count() == 0 && declared.consumer_count() == 0 {
            self.put_first(queue).await?;
        }
        Ok(())
    }

    /// Puts the empty first message into a cell that has none. Under a lock: only then it is sure that what nobody has
    /// is not there.
    async fn put_first(&self, queue: &str) -> Result<(), SinkError> {
        let what = || format!("making queue {queue}");
        let _here = self.making.lock().await;
        let lock = format!("{}.lock.{queue}", self.config.own_prefix);
        let until = Instant::now() + self.config.request_timeout();
        let lent = loop {
            let lent = Lent { channel: self.confirming_channel().await?, lock: Some(short(&lock)?) };
            let exclusive = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
            match lent.channel.queue_declare(short(&lock)?, exclusive, FieldTable::default()).await {
                Ok(_) => break lent,
                Err(e) if locked(&e) && Instant::now() < until => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(e) => return Err(sort(what(), &e)),
            }
        };
        let passive = QueueDeclareOptions::durable().passive();
        let declare = lent.channel.queue_declare(short(queue)?, passive, FieldTable::default());
        let now = self.within(what, declare).await?;
        let put = if now.message_count() == 0 && now.consumer_count() == 0 {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            self.publish_one(&lent.channel, ("", queue), b"", properties).await.map(|_| ())
        } else {
            Ok(())
        };
        lent.close().await;
        put
    }

    /// Takes the message of a cell, waiting for whoever has it; `None` if the cell does not exist or is empty.
    pub(super) async fn take(&self, queue: &str) -> Result<Option<Held>, SinkError> {
        let what = || format!("reading queue {queue}");
        let until = Instant::now() + self.config.request_timeout();
        loop {
            let lent = Lent { channel: self.confirming_channel().await?, lock: None };
            let channel = &lent.channel;
            let passive = QueueDeclareOptions::durable().passive();
            let declared = channel.queue_declare(short(queue)?, passive, FieldTable::default()).await;
            let there = match declared {
                Ok(q) => q.message_count() > 0 || q.consumer_count() > 0,
                Err(e) if not_found(&e) => return Ok(None),
                Err(e) => return Err(sort(what(), &e)),
            };
            if !there {
                lent.close().await;
                return Ok(None);
            }
            self.within(what, channel.basic_qos(8, BasicQosOptions::default())).await?;
            let consume =
                channel.basic_consume(short(queue)?, "".into(), BasicConsumeOptions::default(), FieldTable::default());
            let mut consumer = self.within(what, consume).await?;
            match tokio::time::timeout(IN_LINE, consumer.next()).await {
                Ok(Some(Ok(delivery))) => {
                    return Ok(Some(Held { queue: queue.to_owned(), lent, _consumer: consumer, delivery }));
                }
                Ok(Some(Err(e))) => return Err(sort(what(), &e)),
                Ok(None) | Err(_) => lent.close().await,
            }
            if Instant::now() > until {
                return Err(SinkError::Unavailable { what: what(), why: "somebody else holds its message".to_owned() });
            }
        }
    }

    /// The value of a cell; `None` if none was ever written.
    pub(super) async fn read(&self, queue: &str) -> Result<Option<Vec<u8>>, SinkError> {
        let Some(held) = self.take(queue).await? else { return Ok(None) };
        let value = held.value().to_vec();
        held.release().await;
        Ok((!value.is_empty()).then_some(value))
    }

    /// Writes a new value in place of the one that is held.
    pub(super) async fn put(&self, held: Held, value: &[u8]) -> Result<(), SinkError> {
        let what = || format!("writing queue {}", held.queue);
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        if !self.publish_one(&held.lent.channel, ("", &held.queue), value, properties).await? {
            return Err(SinkError::Unavailable { what: what(), why: "the queue was deleted".to_owned() });
        }
        self.within(what, held.delivery.acker.ack(BasicAckOptions::default())).await?;
        held.release().await;
        Ok(())
    }
}
