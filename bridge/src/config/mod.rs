//! The configuration: what an operator may choose, with its defaults.
//!
//! It is read once, at the start, and handed down as plain values; the way of a record never looks here. Every key is
//! described in `docs/configuration.md` (a test compares the two). Unknown keys and combinations that make no sense
//! are errors that name the key.

mod check;
mod feeds;
mod groups;
mod load;
mod sink;
mod source;
mod units;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use feeds::{FeedConfig, FramingName};
pub use groups::{GroupConfig, GroupPattern, NamePattern, PolicyConfig};
pub use load::ConfigError;
pub use sink::{Chosen, SinkConfig};
pub use source::{SourceConfig, SourceKind};
pub use units::Bytes;

/// Everything that an operator may choose.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of this bridge, in State and in what a fenced bridge says. Two bridges never share one.
    pub instance: String,
    /// How long a topic keeps records that every group has acknowledged.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// How long another owner's State must stand still before this bridge takes an MDT over.
    #[serde(with = "humantime_serde")]
    pub takeover_after: Duration,
    /// Records on an MDT at which its backlog counts as full, for the forecast in `status`. None: no forecast.
    pub backlog_limit: Option<u64>,
    /// Where records come from.
    pub source: SourceConfig,
    /// When an MDT may forget.
    pub clear: ClearConfig,
    /// The default feed.
    pub feed: FeedConfig,
    /// Further feeds by name.
    pub feeds: BTreeMap<String, FeedConfig>,
    /// Persistent groups by name.
    pub groups: BTreeMap<String, GroupConfig>,
    /// Names of groups that become persistent as soon as they commit.
    pub patterns: Vec<GroupPattern>,
    /// The broker.
    pub sink: SinkConfig,
    /// When a batch is sealed.
    pub batch: BatchConfig,
    /// How much memory the process may take.
    pub memory: MemoryConfig,
    /// How often things are looked at.
    pub poll: PollConfig,
    /// The HTTP server.
    pub http: HttpConfig,
    /// Logs.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: host_name(),
            keep: Duration::from_secs(7 * 24 * 3600),
            takeover_after: Duration::from_secs(10),
            backlog_limit: None,
            source: SourceConfig::default(),
            clear: ClearConfig::default(),
            feed: FeedConfig::default(),
            feeds: BTreeMap::new(),
            groups: BTreeMap::new(),
            patterns: Vec::new(),
            sink: SinkConfig::default(),
            batch: BatchConfig::default(),
            memory: MemoryConfig::default(),
            poll: PollConfig::default(),
            http: HttpConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Config {
    /// Reads `files` in order, a later one over an earlier one, then the variables `CLBRIDGE_…` among `env` over them.
    ///
    /// # Errors
    /// [`ConfigError`], which names the key.
    pub fn load(files: &[PathBuf], env: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        load::load(files, env)
    }

    /// The feed with this name; `None` is the default feed. `None` if there is no such feed.
    #[must_use]
    pub fn feed(&self, name: Option<&str>) -> Option<&FeedConfig> {
        match name {
            None => Some(&self.feed),
            Some(name) => self.feeds.get(name),
        }
    }

    /// All feeds, the default feed first, with their names.
    pub fn all_feeds(&self) -> impl Iterator<Item = (Option<&str>, &FeedConfig)> {
        let named = self.feeds.iter().map(|(name, feed)| (Some(name.as_str()), feed));
        std::iter::once((None, &self.feed)).chain(named)
    }
}

/// The host's name, or `clbridge` where it has none that is text.
fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "clbridge".to_owned())
}

/// When an MDT may forget.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClearConfig {
    /// A record is cleared at the earliest this long after it was read. The MDT must commit at least once in that time.
    #[serde(with = "humantime_serde")]
    pub min_age: Duration,
    /// Records that are cleared together, unless `every` has passed.
    pub batch: u64,
    /// Longest time between two clears while there is something to clear.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// A quiet MDT's last clear is repeated this often, so that the server does not drop the user as idle.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// What is done for an MDT that no persistent group takes.
    pub without_groups: WithoutGroups,
    /// A clear is issued only within this time of State's confirmation.
    #[serde(with = "humantime_serde")]
    pub state_fresh: Duration,
}

/// What is done for an MDT that no persistent group takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WithoutGroups {
    /// Nothing is cleared.
    #[default]
    Hold,
    /// What is durable in the broker may be cleared.
    Durable,
}

impl Default for ClearConfig {
    fn default() -> Self {
        Self {
            min_age: Duration::from_secs(30),
            batch: 10_000,
            every: Duration::from_secs(1),
            heartbeat: Duration::from_secs(3600),
            without_groups: WithoutGroups::Hold,
            state_fresh: Duration::from_secs(2),
        }
    }
}

/// When a batch is sealed: at the first of its limits, or when the input runs dry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// Bytes of payload.
    pub max_bytes: Bytes,
    /// Age of its first record.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { max_bytes: Bytes::mib(4), max_age: Duration::from_millis(50) }
    }
}

/// How much memory the process may take.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// Bytes for records on their way, in buffers of clbridge and of the broker's client, over all MDTs.
    pub limit: Bytes,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { limit: Bytes::mib(256) }
    }
}

/// How often things are looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollConfig {
    /// What groups have committed.
    #[serde(with = "humantime_serde")]
    pub groups: Duration,
    /// Which groups exist (patterns) and their members.
    #[serde(with = "humantime_serde")]
    pub members: Duration,
    /// New MDTs, and the registry of groups.
    #[serde(with = "humantime_serde")]
    pub mdts: Duration,
}

impl Default for PollConfig {
    fn default() -> Self {
        Self { groups: Duration::from_millis(500), members: Duration::from_secs(5), mdts: Duration::from_secs(5) }
    }
}

/// The HTTP server: health, status, metrics, schemas.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port. There is no authentication: anything but loopback should be behind something that has it.
    pub listen: SocketAddr,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9415)) }
    }
}

/// Logs, on standard error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// What is logged (by default not librdkafka's own lines: what matters of them comes back as an error of ours),
    /// in the words of tracing-subscriber's `EnvFilter`, for instance `info,clbridge=debug`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

#[cfg(test)]
mod tests;
