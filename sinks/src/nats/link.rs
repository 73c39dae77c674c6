//! A connection, and questions asked over it. What the server says besides (a right that is missing, a connection that
//! broke) is kept, since the question itself then only stays without an answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::config::{NatsConfig, wrong};
use crate::error::SinkError;

/// The oldest server that is known to do what is needed.
const OLDEST: (u64, u64, u64) = (2, 9, 10);
/// A connection without a sign of life for three of these is broken.
const PING: Duration = Duration::from_secs(10);

/// Says what was being done, for an error.
pub(super) type What<'a> = &'a (dyn Fn() -> String + Sync);

/// An answer of the server that says no.
pub(super) type Refusal = jetstream::Error;

/// A connection.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) js: jetstream::Context,
    /// Rises with every lost connection.
    pub(super) lost: watch::Receiver<u64>,
    denied: Arc<Mutex<Option<String>>>,
    version: (u64, u64, u64),
}

impl Link {
    /// Connects.
    pub(super) async fn open(config: &NatsConfig, purpose: &str) -> Result<Self, SinkError> {
        let what = || format!("connecting to NATS at {}", config.place());
        let denied = Arc::new(Mutex::new(None));
        let (count, lost) = watch::channel(0u64);
        let events = Arc::clone(&denied);
        let options = options(config)
            .await?
            .name(format!("{} {purpose}", config.instance))
            .ping_interval(PING)
            .connection_timeout(config.request_timeout())
            .request_timeout(Some(config.request_timeout()))
            .max_reconnects(None)
            .event_callback(move |event| {
                match &event {
                    Event::Disconnected => count.send_modify(|n| *n += 1),
                    Event::ServerError(ServerError::Other(text)) if text.to_lowercase().contains("permissions") => {
                        *events.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
                    }
                    _ => {}
                }
                tracing::debug!(%event, "NATS");
                std::future::ready(())
            });
        let servers: Vec<&str> = config.server_list().collect();
        let client = options.connect(servers).await.map_err(|e| match e.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                SinkError::Unauthorised { what: what(), why: e.to_string() }
            }
            ConnectErrorKind::ServerParse => wrong("servers", e.to_string(), "use HOST:PORT, separated by commas"),
            _ => SinkError::Unavailable { what: what(), why: chain(&e) },
        })?;
        let info = client.server_info();
        let version = parse_version(&info.version);
        if version < OLDEST {
            return Err(SinkError::Mismatch {
                what: format!("NATS server {}", info.server_name),
                why: format!("has version {}", info.version),
                hint: "2.9.10 is the oldest that is known to do what is needed".to_owned(),
            });
        }
        let mut js = jetstream::new(client.clone());
        js.set_timeout(config.request_timeout());
        Ok(Self { client, js, lost, denied, version })
    }

    /// Whether the server has at least this version.
    pub(super) fn has(&self, major: u64, minor: u64) -> bool {
        self.version >= (major, minor, 0)
    }

    /// Its version, for messages.
    pub(super) fn version(&self) -> String {
        self.client.server_info().version
    }

    /// Asks the JetStream API; the inner error is the server's own no.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        what: What<'_>,
        subject: &str,
        body: &impl Serialize,
    ) -> Result<Result<T, Refusal>, SinkError> {
        // Twice, since a server that was just restarted, or a new leader, may not know yet what it has.
        let mut again = true;
        loop {
            let answer: Result<Response<T>, _> = self.js.request(subject.to_owned(), body).await;
            return match answer {
                Ok(Response::Ok(t)) => Ok(Ok(t)),
                Ok(Response::Err { error }) if passing(&error) => {
                    if std::mem::take(&mut again) {
                        tokio::time::sleep(Duration::from_millis(250)).await;
                        continue;
                    }
                    Err(SinkError::Unavailable { what: what(), why: error.to_string() })
                }
                Ok(Response::Err { error }) => Ok(Err(error)),
                Err(e) => Err(self.unanswered(what(), &e, e.kind() == RequestErrorKind::TimedOut)),
            };
        }
    }

    /// As [`Link::ask`], where a no of the server is an error.
    pub(super) async fn must<T: DeserializeOwned>(
        &self,
        what: What<'_>,
        subject: &str,
        body: &impl Serialize,
    ) -> Result<T, SinkError> {
        self.ask(what, subject, body).await?.map_err(|e| refused(what(), &e))
    }

    /// Sorts an error of the client. A right that is missing is told beside the question, which then times out.
    pub(super) fn unanswered(&self, what: String, e: &dyn std::error::Error, timed_out: bool) -> SinkError {
        let denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner).take();
        match denied {
            Some(why) if timed_out => SinkError::Unauthorised { what, why },
            _ => SinkError::Unavailable { what, why: chain(e) },
        }
    }
}

/// A no that is none a moment later.
fn passing(e: &Refusal) -> bool {
    e.code() == 503
        || matches!(
            e.error_code(),
            ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER | ErrorCode::STREAM_OFFLINE
        )
}

/// Sorts a no of the server.
pub(super) fn refused(what: String, e: &Refusal) -> SinkError {
    match e.error_code() {
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => SinkError::Mismatch {
            what,
            why: e.to_string(),
            hint: "enable JetStream on the server and for this account".to_owned(),
        },
        _ => SinkError::Unavailable { what, why: e.to_string() },
    }
}

/// An error with what caused it.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let said = c.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = c.source();
    }
    text
}

fn parse_version(text: &str) -> (u64, u64, u64) {
    let mut parts = text.split(['.', '-', '+']).map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

async fn options(config: &NatsConfig) -> Result<ConnectOptions, SinkError> {
    let read = |key: &str, path: &std::path::Path| {
        std::fs::read_to_string(path).map(|t| t.trim().to_owned()).map_err(|e| {
            wrong(
                key,
                format!("cannot read its file {}: {e}", path.display()),
                "make the file readable for the bridge, or name another",
            )
        })
    };
    let mut o = ConnectOptions::new();
    if let Some(user) = &config.user {
        let password = match (&config.password, &config.password_file) {
            (Some(password), _) => password.clone(),
            (None, Some(path)) => read("password_file", path)?,
            (None, None) => String::new(),
        };
        o = o.user_and_password(user.clone(), password);
    }
    if let Some(token) = &config.token {
        o = o.token(token.clone());
    } else if let Some(path) = &config.token_file {
        o = o.token(read("token_file", path)?);
    }
    if let Some(path) = &config.nkey_file {
        o = o.nkey(read("nkey_file", path)?);
    }
    if let Some(path) = &config.credentials_file {
        // The client knows the seed by the line behind it, with its end.
        o = o.credentials(&(read("credentials_file", path)? + "\n")).map_err(|e| {
            wrong("credentials_file", format!("{} is not one: {e}", path.display()), "make it by `nsc generate creds`")
        })?;
    }
    if let Some(path) = &config.tls_ca {
        read("tls_ca", path)?;
        o = o.add_root_certificates(path.clone());
    }
    if let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) {
        read("tls_cert", cert)?;
        read("tls_key", key)?;
        o = o.add_client_certificate(cert.clone(), key.clone());
    }
    Ok(o.require_tls(config.tls_ca.is_some() || config.tls_cert.is_some()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What `Link::open` says of a server that cannot be had.
    async fn told(servers: String) -> String {
        let config = NatsConfig { servers, request_timeout_ms: 1_000, ..NatsConfig::default() };
        Link::open(&config, "test").await.err().unwrap().to_string()
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_named_without_the_password_in_its_address() {
        // A port that was free a moment ago: nothing answers there.
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = held.local_addr().unwrap();
        drop(held);
        let told = told(format!("nats://bridge:s3cret@{at}")).await;
        assert!(told.contains(&at.to_string()) && !told.contains("s3cret") && !told.contains("bridge:"), "{told}");
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_understood_is_not_shown_with_its_password() {
        let told = told("nats://bridge:s3cret@h:no-port".to_owned()).await;
        assert!(told.contains("nats.servers") && !told.contains("s3cret"), "{told}");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("2.10.3-beta.1"), (2, 10, 3));
        assert!(parse_version("2.9.9") < OLDEST && parse_version("2.15.2") > OLDEST);
        assert_eq!(parse_version("dev"), (0, 0, 0));
    }
}
