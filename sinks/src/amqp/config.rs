//! What an operator sets for RabbitMQ.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use serde::{Deserialize, Serialize};

use crate::error::SinkError;

/// The AMQP sink's settings. Times are in milliseconds, sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AmqpConfig {
    /// `amqp://USER@HOST:PORT/VHOST`, or `amqps://…` for TLS; `%2f` is the virtual host `/`.
    pub uri: String,
    /// A file that holds the password of the user in `uri`.
    pub password_file: Option<String>,
    /// A PEM file with the authorities that may have signed the server's certificate; `None`: the system's own.
    pub ca_file: Option<String>,
    /// A PEM file with this client's certificate, with `key_file`.
    pub cert_file: Option<String>,
    /// A PEM file with this client's private key (PKCS#8).
    pub key_file: Option<String>,
    /// Log in by the client's certificate alone (SASL EXTERNAL).
    pub external: bool,
    /// What the names of the exchanges and queues of records begin with: exchange `PREFIX[.FEED]`, queue
    /// `PREFIX.FS-MDT0000[.FEED]:GROUP`.
    pub prefix: String,
    /// What the names of the bridge's own exchanges and queues begin with: State, registry, schemas, answers.
    pub own_prefix: String,
    /// Most messages of one MDT on their way, 1 to 65,536.
    pub window: u32,
    /// Bound of the memory for records on their way, for each MDT, at least 1 MiB: payload, key and 700 bytes a message.
    pub memory_bytes: usize,
    /// Most records of one MDT that are published and that State does not tell of yet, 1,000 to 10,000,000: a start
    /// publishes them again. State is written at least every `clear.state_fresh`, and as soon as the publisher waits
    /// for it.
    pub most_repeated: u32,
    /// Records in one message, 1 to 10,000; above 1 all groups have to unpack them.
    pub records_per_message: u32,
    /// Groups whose members cannot answer: the broker's confirm that their queue has a record is their
    /// acknowledgement.
    pub confirm_groups: Vec<String>,
    /// Groups whose records are spread over this many queues by key, each with one active member, so that the order
    /// of an object's records is kept with several members; 2 to 256.
    pub shards: BTreeMap<String, u32>,
    /// Records that a member of a group is sent before it has answered earlier ones, 1 to 65,535.
    pub prefetch: u16,
    /// How often the broker may return a record to its queue before it drops it, at least 1,000,000. RabbitMQ 4 drops
    /// after 20 where nothing is said.
    pub delivery_limit: u32,
    /// Copies of each queue that is created (`x-quorum-initial-group-size`); `None`: the broker's default, and then a
    /// group's `release` policy is refused.
    pub replicas: Option<u32>,
    /// The connection is given up when the broker is silent for twice this time, 1,000 to 300,000 ms.
    pub heartbeat_ms: u32,
    /// Longest time that one request to the broker may take before it counts as unavailable, at least 1,000 ms.
    pub request_timeout_ms: u32,
    /// The connection is given up when the broker confirms nothing of what it was sent for this time and does not say
    /// that it is blocked, 1,000 to 86,400,000 ms: it happens that it forgets a connection's messages and keeps it.
    pub confirm_timeout_ms: u32,
    /// How often answers are written into State while they come, 10 to 10,000 ms.
    pub answers_every_ms: u32,
    /// Name of this bridge, shown as the connections' name.
    pub instance: String,
}

impl Default for AmqpConfig {
    fn default() -> Self {
        Self {
            uri: "amqp://guest:guest@localhost:5672/%2f".to_owned(),
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            external: false,
            prefix: "lustre".to_owned(),
            own_prefix: "clbridge".to_owned(),
            window: 1000,
            memory_bytes: 64 << 20,
            most_repeated: 100_000,
            records_per_message: 1,
            confirm_groups: Vec::new(),
            shards: BTreeMap::new(),
            prefetch: 100,
            delivery_limit: 1_000_000_000,
            replicas: None,
            heartbeat_ms: 10_000,
            request_timeout_ms: 10_000,
            confirm_timeout_ms: 120_000,
            answers_every_ms: 300,
            instance: "clbridge".to_owned(),
        }
    }
}

impl AmqpConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] that names the key, what is wrong with it and what to do.
    pub fn check(&self) -> Result<(), SinkError> {
        for (key, text) in [("prefix", &self.prefix), ("own_prefix", &self.own_prefix), ("uri", &self.uri)] {
            if text.is_empty() {
                return wrong(key, "is empty", "give it a value");
            }
        }
        if self.prefix == self.own_prefix {
            return wrong("own_prefix", "is the prefix of the records too", "give the bridge's own queues another");
        }
        if self.prefix.len() + self.own_prefix.len() > 100 {
            return wrong("prefix", "is too long", "names of queues have at most 255 bytes");
        }
        for (key, value, from, to) in [
            ("window", u64::from(self.window), 1, 65_536),
            ("memory_bytes", self.memory_bytes as u64, 1 << 20, 1 << 40),
            ("most_repeated", u64::from(self.most_repeated), 1_000, 10_000_000),
            ("records_per_message", u64::from(self.records_per_message), 1, 10_000),
            ("prefetch", u64::from(self.prefetch), 1, 65_535),
            ("delivery_limit", u64::from(self.delivery_limit), 1_000_000, u64::from(u32::MAX) / 2),
            ("replicas", u64::from(self.replicas.unwrap_or(1)), 1, 64),
            ("heartbeat_ms", u64::from(self.heartbeat_ms), 1_000, 300_000),
            ("request_timeout_ms", u64::from(self.request_timeout_ms), 1_000, 3_600_000),
            ("confirm_timeout_ms", u64::from(self.confirm_timeout_ms), 1_000, 86_400_000),
            ("answers_every_ms", u64::from(self.answers_every_ms), 10, 10_000),
        ] {
            if !(from..=to).contains(&value) {
                return wrong(key, &format!("is {value}"), &format!("set it between {from} and {to}"));
            }
        }
        if let Some((group, n)) = self.shards.iter().find(|(_, n)| !(2..=256).contains(*n)) {
            return wrong(&format!("shards.{group}"), &format!("is {n}"), "set it between 2 and 256");
        }
        if let Some(group) = self.confirm_groups.iter().find(|g| self.shards.contains_key(*g)) {
            return wrong("confirm_groups", &format!("names {group}, which has shards"), "take it out of one of them");
        }
        if self.records_per_message > 1 && !self.shards.is_empty() {
            return wrong(
                "records_per_message",
                "is above 1 while `shards` spreads records by key",
                "leave it at 1, or remove `shards`",
            );
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return wrong("cert_file", "and key_file go together", "set both or neither");
        }
        if self.external && self.cert_file.is_none() {
            return wrong("external", "needs a client certificate", "set cert_file and key_file");
        }
        let uri = self.parsed()?;
        if uri.query.auth_mechanism.is_some_and(|m| m != SASLMechanism::Plain) {
            return wrong("uri", "names an auth_mechanism", "set external = true for EXTERNAL");
        }
        for (name, given) in [("heartbeat", uri.query.heartbeat.is_some())] {
            if given {
                return wrong("uri", &format!("sets {name}"), "set heartbeat_ms instead");
            }
        }
        if uri.scheme == AMQPScheme::AMQP && (self.ca_file.is_some() || self.cert_file.is_some()) {
            return wrong("uri", "is not TLS, while TLS files are set", "write amqps://");
        }
        Ok(())
    }

    fn parsed(&self) -> Result<AMQPUri, SinkError> {
        self.uri.parse::<AMQPUri>().or_else(|e| {
            // Some of the parser's errors repeat the address, which may hold a password.
            let why = if e.contains(&self.uri) { "is no URL with a host" } else { &e };
            wrong("uri", why, "write amqp://USER@HOST:PORT/VHOST")
        })
    }

    /// The address with everything that is set for it; reads the password.
    pub(super) fn address(&self) -> Result<AMQPUri, SinkError> {
        let mut uri = self.parsed()?;
        if let Some(path) = &self.password_file {
            uri.authority.userinfo.password = read("password_file", path)?.trim_end_matches(['\r', '\n']).to_owned();
        }
        if self.external {
            uri.query.auth_mechanism = Some(SASLMechanism::External);
        }
        uri.query.heartbeat = u16::try_from(self.heartbeat_ms.div_ceil(1000)).ok();
        Ok(uri)
    }

    /// The files for TLS.
    pub(super) fn tls(&self) -> Result<OwnedTLSConfig, SinkError> {
        let cert_chain = self.ca_file.as_ref().map(|path| read("ca_file", path)).transpose()?;
        let identity = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Some(OwnedIdentity::PKCS8 {
                pem: read("cert_file", cert)?.into_bytes(),
                key: read("key_file", key)?.into_bytes(),
            }),
            _ => None,
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }

    /// Where the broker is, for people: without user and password.
    #[must_use]
    pub fn place(&self) -> String {
        self.parsed().map_or_else(
            |_| "the broker".to_owned(),
            |uri| format!("{}:{} vhost {}", uri.authority.host, uri.authority.port, uri.vhost),
        )
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.request_timeout_ms))
    }

    /// How a group's queue is fed and read.
    pub(super) fn kind_of(&self, group: &str) -> (bool, u32) {
        (self.confirm_groups.iter().any(|g| g == group), self.shards.get(group).copied().unwrap_or(0))
    }
}

fn wrong<T>(key: &str, why: &str, hint: &str) -> Result<T, SinkError> {
    Err(SinkError::Mismatch { what: format!("setting amqp.{key}"), why: why.to_owned(), hint: hint.to_owned() })
}

fn read(key: &str, path: &str) -> Result<String, SinkError> {
    std::fs::read_to_string(Path::new(path)).or_else(|e| {
        wrong(
            key,
            &format!("cannot read its file {path}: {e}"),
            "make the file readable for the bridge, or name another",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(change: impl FnOnce(&mut AmqpConfig)) -> String {
        let mut config = AmqpConfig::default();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_possible() {
        AmqpConfig::default().check().unwrap();
    }

    #[test]
    fn a_setting_that_is_not_possible_is_an_error_that_names_its_key() {
        assert!(told(|c| c.window = 0).contains("amqp.window"));
        assert!(told(|c| c.memory_bytes = 10).contains("amqp.memory_bytes"));
        assert!(told(|c| c.most_repeated = 999).contains("amqp.most_repeated"));
        assert!(told(|c| c.delivery_limit = 20).contains("amqp.delivery_limit"));
        assert!(told(|c| c.own_prefix = "lustre".into()).contains("amqp.own_prefix"));
        assert!(told(|c| c.external = true).contains("amqp.external"));
        assert!(told(|c| c.uri = "http://x".into()).contains("amqp.uri"));
        assert!(told(|c| c.uri = "amqp://h/%2f?heartbeat=5".into()).contains("heartbeat_ms"));
        assert!(told(|c| c.ca_file = Some("ca.pem".into())).contains("amqps://"));
        assert!(told(|c| c.shards = [("g".into(), 1)].into()).contains("amqp.shards.g"));
        assert!(
            told(|c| (c.shards, c.records_per_message) = ([("g".into(), 4)].into(), 10))
                .contains("records_per_message")
        );
    }

    #[test]
    fn an_address_is_never_shown_with_its_password() {
        let config = AmqpConfig { uri: "amqps://bridge:s3cret@h:5671/v".into(), ..AmqpConfig::default() };
        assert_eq!(config.place(), "h:5671 vhost v");
        for uri in
            ["bridge:s3cret@h:5671", "http://bridge:s3cret@h/v", "amqp://bridge:s3cret@h:no-port/v", "amqp://s3cret@"]
        {
            let told = told(|c| c.uri = uri.into());
            assert!(told.contains("amqp.uri") && !told.contains("s3cret"), "{told}");
            assert_eq!(AmqpConfig { uri: uri.into(), ..AmqpConfig::default() }.place(), "the broker");
        }
    }

    #[test]
    fn a_password_is_read_from_its_file_without_the_line_end_and_never_shown() {
        let path = std::env::temp_dir().join(format!("clbridge-amqp-secret-{}", std::process::id()));
        std::fs::write(&path, "pa ss\n").unwrap();
        let password_file = Some(path.to_str().unwrap().to_owned());
        let config = AmqpConfig { password_file, uri: "amqp://u@h:1/v".into(), ..AmqpConfig::default() };
        assert_eq!(config.address().unwrap().authority.userinfo.password, "pa ss");
        assert_eq!(config.place(), "h:1 vhost v");
        std::fs::remove_file(&path).unwrap();
        let told = config.address().unwrap_err().to_string();
        assert!(told.contains("password_file") && told.contains(path.to_str().unwrap()), "{told}");
    }
}
