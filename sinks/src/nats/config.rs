//! What an operator sets for NATS JetStream. Impossible values are errors here, never surprises later.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clbridge_schemas::lustre::RecordType;
use serde::{Deserialize, Serialize};

use crate::error::SinkError;

/// The NATS sink's settings. Times are in milliseconds, sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsConfig {
    /// `HOST:PORT` or `nats://HOST:PORT` of one or more servers, separated by commas.
    pub servers: String,
    /// What the names of record streams (`PREFIX_FS-MDT0000[_FEED]`) and subjects (`PREFIX.FEED.FS.MDT0000.…`) begin
    /// with: one token of `A-Z a-z 0-9 _ -`.
    pub prefix: String,
    /// What the names of clbridge's own buckets and streams begin with: likewise.
    pub own_prefix: String,
    /// Copies of every stream that is created, 1 to 5: 3 in a cluster.
    pub replicas: u32,
    /// Limit of a record stream that is created: full, it refuses, and the reading stops. 0: none.
    pub max_bytes: u64,
    /// Groups in which one object's records go to one member at a time, separated by commas; `*`: all. Their streams
    /// have a consumer a partition, of which one member at a time is served. Needs server 2.11.
    pub ordered_groups: String,
    /// Types that the server hands to a group, by group: names separated by commas. MARK is always among them.
    pub group_types: BTreeMap<String, String>,
    /// How long a member may work on a record before another one gets it, 1,000 to 3,600,000 ms.
    pub ack_wait_ms: u32,
    /// Records that a group may hold unacknowledged, 1,000 to 1,000,000.
    pub max_ack_pending: u32,
    /// Messages on their way without an answer, 200 to 50,000.
    pub window: u32,
    /// Bound of the memory for records on their way, for each MDT, at least 1 MiB.
    pub memory_bytes: usize,
    /// Longest time that one request may take before the server counts as unavailable, at least 1,000 ms.
    pub request_timeout_ms: u32,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// Token.
    pub token: Option<String>,
    /// File that holds the token.
    pub token_file: Option<PathBuf>,
    /// Credentials file (`.creds`: a JWT and its seed).
    pub credentials_file: Option<PathBuf>,
    /// File that holds an NKey's seed.
    pub nkey_file: Option<PathBuf>,
    /// Certificate authorities, PEM; with any of the `tls_` keys the connection must be encrypted.
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub tls_cert: Option<PathBuf>,
    /// The key of the client's certificate, PEM.
    pub tls_key: Option<PathBuf>,
    /// Name of this bridge, shown by the server.
    pub instance: String,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            servers: "localhost:4222".to_owned(),
            prefix: "lustre".to_owned(),
            own_prefix: "clbridge".to_owned(),
            replicas: 1,
            max_bytes: 0,
            ordered_groups: String::new(),
            group_types: BTreeMap::new(),
            ack_wait_ms: 30_000,
            max_ack_pending: 10_000,
            window: 4_000,
            memory_bytes: 64 << 20,
            request_timeout_ms: 10_000,
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            credentials_file: None,
            nkey_file: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            instance: "clbridge".to_owned(),
        }
    }
}

/// Says which setting is wrong, why, and what to do.
pub(super) fn wrong(key: &str, why: impl Into<String>, hint: impl Into<String>) -> SinkError {
    SinkError::Mismatch { what: format!("setting nats.{key}"), why: why.into(), hint: hint.into() }
}

impl NatsConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] that names the key, what is wrong with it and what to do.
    pub fn check(&self) -> Result<(), SinkError> {
        if self.server_list().next().is_none() {
            return Err(wrong("servers", "is empty", "name at least one server"));
        }
        for (key, text) in [("prefix", &self.prefix), ("own_prefix", &self.own_prefix)] {
            if !is_token(text) {
                return Err(wrong(key, format!("is \"{text}\""), "use 1 to 32 of the characters A-Z a-z 0-9 _ -"));
            }
        }
        if self.prefix == self.own_prefix {
            return Err(wrong("own_prefix", "is the same as nats.prefix", "give it another value"));
        }
        for (key, value, from, to) in [
            ("replicas", u64::from(self.replicas), 1, 5),
            ("max_bytes", self.max_bytes, 0, i64::MAX as u64),
            ("ack_wait_ms", u64::from(self.ack_wait_ms), 1_000, 3_600_000),
            ("max_ack_pending", u64::from(self.max_ack_pending), 1_000, 1_000_000),
            ("window", u64::from(self.window), 200, 50_000),
            ("memory_bytes", self.memory_bytes as u64, 1 << 20, 1 << 40),
            ("request_timeout_ms", u64::from(self.request_timeout_ms), 1_000, 3_600_000),
        ] {
            if !(from..=to).contains(&value) {
                return Err(wrong(key, format!("is {value}"), format!("set it between {from} and {to}")));
            }
        }
        self.check_credentials()?;
        for group in self.group_types.keys() {
            self.types_of(group)?;
        }
        Ok(())
    }

    fn check_credentials(&self) -> Result<(), SinkError> {
        let ways = [
            ("user", self.user.is_some()),
            ("token", self.token.is_some() || self.token_file.is_some()),
            ("credentials_file", self.credentials_file.is_some()),
            ("nkey_file", self.nkey_file.is_some()),
        ];
        let mut given = ways.iter().filter(|(_, given)| *given);
        if let (Some((one, _)), Some((other, _))) = (given.next(), given.next()) {
            return Err(wrong(other, format!("is set beside nats.{one}"), "use one way to authenticate"));
        }
        let pairs = [
            ("password_file", self.password_file.is_some(), "password", self.password.is_some()),
            ("token_file", self.token_file.is_some(), "token", self.token.is_some()),
        ];
        for (key, given, other, also) in pairs {
            if given && also {
                return Err(wrong(key, format!("is set beside nats.{other}"), "remove one of them"));
            }
        }
        if self.user.is_none() && (self.password.is_some() || self.password_file.is_some()) {
            return Err(wrong("user", "is missing", "set it beside the password"));
        }
        if self.user.is_some() && self.password.is_none() && self.password_file.is_none() {
            return Err(wrong("password_file", "is missing", "set it, or nats.password, beside nats.user"));
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => Err(wrong("tls_key", "is missing", "set it beside nats.tls_cert")),
            (None, Some(_)) => Err(wrong("tls_cert", "is missing", "set it beside nats.tls_key")),
            _ => Ok(()),
        }
    }

    /// Where the servers are, for people: what stands before an `@` in an address (user, password, token) is left out.
    #[must_use]
    pub fn place(&self) -> String {
        self.server_list().map(without_login).collect::<Vec<_>>().join(", ")
    }

    /// The servers, one by one.
    pub(super) fn server_list(&self) -> impl Iterator<Item = &str> {
        items(&self.servers)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.request_timeout_ms))
    }

    pub(super) fn ack_wait(&self) -> Duration {
        Duration::from_millis(u64::from(self.ack_wait_ms))
    }

    /// Whether one object's records go to one member of this group at a time.
    pub(super) fn is_ordered(&self, group: &str) -> bool {
        items(&self.ordered_groups).any(|g| g == group || g == "*")
    }

    /// The types that the server hands to this group, MARK among them; `None`: all.
    pub(super) fn types_of(&self, group: &str) -> Result<Option<Vec<&'static str>>, SinkError> {
        let Some(text) = self.group_types.get(group) else { return Ok(None) };
        let mut names = vec!["MARK"];
        for name in items(text) {
            let known = RecordType::from_name(name).and_then(RecordType::name);
            let known = known.ok_or_else(|| {
                wrong(
                    &format!("group_types.{group}"),
                    format!("names the unknown type {name}"),
                    "use names such as CREAT",
                )
            })?;
            names.push(known);
        }
        names.sort_unstable();
        names.dedup();
        Ok(Some(names))
    }
}

/// An address without who logs in there. A password that should have been percent-encoded may hold anything, an `@` too.
fn without_login(server: &str) -> String {
    let Some((login, address)) = server.rsplit_once('@') else { return server.to_owned() };
    let scheme = ["nats://", "tls://", "ws://", "wss://"].into_iter().find(|scheme| login.starts_with(scheme));
    format!("{}{address}", scheme.unwrap_or_default())
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|s| !s.is_empty())
}

fn is_token(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(change: impl FnOnce(&mut NatsConfig)) -> String {
        let mut c = NatsConfig::default();
        change(&mut c);
        c.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_possible() {
        NatsConfig::default().check().unwrap();
    }

    #[test]
    fn an_impossible_value_is_an_error_that_names_its_key() {
        for (key, told) in [
            ("servers", refused(|c| c.servers = " ,".into())),
            ("prefix", refused(|c| c.prefix = "a.b".into())),
            ("own_prefix", refused(|c| c.own_prefix = c.prefix.clone())),
            ("replicas", refused(|c| c.replicas = 6)),
            ("window", refused(|c| c.window = 1)),
            ("memory_bytes", refused(|c| c.memory_bytes = 10)),
            ("max_ack_pending", refused(|c| c.max_ack_pending = 1)),
            ("ack_wait_ms", refused(|c| c.ack_wait_ms = 0)),
            ("tls_key", refused(|c| c.tls_cert = Some("x".into()))),
            ("user", refused(|c| c.password = Some("x".into()))),
            ("password_file", refused(|c| c.user = Some("x".into()))),
            ("group_types.lake", refused(|c| drop(c.group_types.insert("lake".into(), "CREAT,NOPE".into())))),
        ] {
            assert!(told.contains(&format!("nats.{key}:")), "{key}: {told}");
        }
    }

    #[test]
    fn a_place_shows_no_user_password_or_token() {
        for (servers, shown) in [
            ("h1:4222, nats://h2:4223", "h1:4222, nats://h2:4223"),
            ("nats://bridge:s3cret@h:4222", "nats://h:4222"),
            ("tls://s3cret@h1:4222,bridge:s3cret@h2:4222", "tls://h1:4222, h2:4222"),
            ("nats://bridge:s3@cret/s3cret@h:4222", "nats://h:4222"),
            ("bridge:s3cret://s3cret@h", "h"),
        ] {
            let place = NatsConfig { servers: servers.into(), ..NatsConfig::default() }.place();
            assert_eq!(place, shown, "{servers}");
        }
    }

    #[test]
    fn two_ways_to_authenticate_are_an_error() {
        let told = refused(|c| {
            c.token = Some("t".into());
            c.nkey_file = Some("f".into());
        });
        assert!(told.contains("nats.token") && told.contains("nats.nkey_file"), "{told}");
    }

    #[test]
    fn a_group_s_types_always_include_the_marks() {
        let c = NatsConfig {
            group_types: BTreeMap::from([("lake".to_owned(), "UNLNK, CREAT,CREAT".to_owned())]),
            ordered_groups: "lake, other".to_owned(),
            ..NatsConfig::default()
        };
        c.check().unwrap();
        assert_eq!(c.types_of("lake").unwrap().unwrap(), ["CREAT", "MARK", "UNLNK"]);
        assert_eq!(c.types_of("robinhood").unwrap(), None);
        assert!(c.is_ordered("other") && !c.is_ordered("robinhood"));
    }
}
