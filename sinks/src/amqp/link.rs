//! Connections and channels, and what an error on one of them means.

use std::future::Future;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Error as LapinError, ErrorKind};

use super::Shared;
use crate::error::SinkError;

/// How long a message that was refused waits for its next attempt.
const REFUSED: Duration = Duration::from_millis(50);
/// A persistent message.
pub(super) const PERSISTENT: u8 = 2;

impl Shared {
    /// A new connection; `purpose` stands in its name.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, SinkError> {
        let what = || format!("connecting to {}", self.config.place());
        let (uri, tls): (AMQPUri, OwnedTLSConfig) = (self.config.address()?, self.config.tls()?);
        let name = format!("{} {purpose}", self.config.instance);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime().map_err(|e| sort(what(), &e))?;
        let connecting = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        self.within(what, connecting).await
    }

    /// Waits for an answer of the broker no longer than the request timeout.
    pub(super) async fn within<T>(
        &self,
        what: impl Fn() -> String,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, SinkError> {
        within(self.config.request_timeout(), what, answer).await
    }

    /// A channel of the connection that short requests share, which is made anew when it was lost.
    pub(super) async fn channel(&self) -> Result<Channel, SinkError> {
        let what = || "opening a channel".to_owned();
        let mut desk = self.desk.lock().await;
        if let Some(connection) = desk.as_ref().filter(|c| c.status().connected()) {
            match self.within(what, connection.create_channel()).await {
                Err(_) if !connection.status().connected() => {}
                answer => return answer,
            }
        }
        let connection = self.connect("requests").await?;
        let channel = self.within(what, connection.create_channel()).await;
        *desk = Some(connection);
        channel
    }

    /// As [`Shared::channel`], on which the broker confirms what is published.
    pub(super) async fn confirming_channel(&self) -> Result<Channel, SinkError> {
        let channel = self.channel().await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        self.within(|| "asking for confirms".to_owned(), select).await?;
        Ok(channel)
    }

    /// Publishes one message and waits until the broker has confirmed it. False if no queue took it. It may go out more
    /// than once: RabbitMQ shows a quorum queue that somebody else is just making before it can take anything, and refuses
    /// what is published to it until then.
    pub(super) async fn publish_one(
        &self,
        channel: &Channel,
        (exchange, key): (&str, &str),
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<bool, SinkError> {
        let what = || format!("publishing to {key}");
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (to, by) = (short(exchange)?, short(key)?);
        let until = Instant::now() + self.config.request_timeout();
        loop {
            let publish = channel.basic_publish(to.clone(), by.clone(), options, body, properties.clone());
            match self.within(what, async { publish.await?.await }).await? {
                Confirmation::Ack(None) => return Ok(true),
                Confirmation::Ack(Some(_)) => return Ok(false),
                Confirmation::Nack(_) if Instant::now() < until => tokio::time::sleep(REFUSED).await,
                Confirmation::Nack(_) | Confirmation::NotRequested => {
                    let why = "the broker refused the message".to_owned();
                    return Err(SinkError::Unavailable { what: what(), why });
                }
            }
        }
    }
}

/// Waits for an answer of the broker.
pub(super) async fn within<T>(
    longest: Duration,
    what: impl Fn() -> String,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, SinkError> {
    match tokio::time::timeout(longest, answer).await {
        Ok(answer) => answer.map_err(|e| sort(what(), &e)),
        Err(_) => Err(SinkError::Unavailable {
            what: what(),
            why: format!("the broker gave no answer within {} s", longest.as_secs()),
        }),
    }
}

/// Closes a channel and waits until the broker has taken back what it had given it. A channel that the broker has
/// closed needs no closing, and one whose connection is lost is closed with it.
pub(super) async fn close(channel: &Channel) {
    let closing = channel.close(200, ShortString::default());
    let _ = tokio::time::timeout(Duration::from_secs(5), closing).await;
}

/// A name for the protocol, which has at most 255 bytes.
pub(super) fn short(text: &str) -> Result<ShortString, SinkError> {
    ShortString::try_new(text).map_err(|e| SinkError::Mismatch {
        what: format!("name {text}"),
        why: e.to_string(),
        hint: "choose shorter names for the prefix, the feed or the group".to_owned(),
    })
}

/// The broker's own code of an error that closed a channel.
fn soft(e: &LapinError) -> Option<AMQPSoftError> {
    match e.kind() {
        ErrorKind::ProtocolError(e) => match e.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft.clone()),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// What was asked for does not exist.
pub(super) fn not_found(e: &LapinError) -> bool {
    soft(e) == Some(AMQPSoftError::NOTFOUND)
}

/// Another connection has it for itself.
pub(super) fn locked(e: &LapinError) -> bool {
    soft(e) == Some(AMQPSoftError::RESOURCELOCKED)
}

/// Sorts an error by what the caller has to do about it.
pub(super) fn sort(what: impl Into<String>, e: &LapinError) -> SinkError {
    let (what, why) = (what.into(), e.to_string());
    let refused_login = matches!(e.kind(), ErrorKind::ProtocolError(e)
        if matches!(e.kind(), AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)));
    match soft(e) {
        Some(AMQPSoftError::ACCESSREFUSED) => SinkError::Unauthorised { what, why },
        None if refused_login => SinkError::Unauthorised { what, why },
        Some(AMQPSoftError::PRECONDITIONFAILED) => SinkError::Mismatch {
            what,
            why,
            hint: "it was not made by clbridge as it is now: see docs/brokers/amqp.md, \"When a queue is not what it \
                   must be\""
                .to_owned(),
        },
        _ => SinkError::Unavailable { what, why },
    }
}
