//! The bridge of a test: a configuration file, the process, its status.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use clbridge::status::{BridgeStatus, MdtStatus, Phase};

use crate::broker::{Broker, Secured};
use crate::process::Process;
use crate::scene::Scene;
use crate::sim::{COMMIT_MS, Sim};
use crate::sink::Sink;

/// Partitions of each record topic.
pub const PARTITIONS: u32 = 4;

/// What tests vary.
#[derive(Clone)]
pub struct Options {
    /// Where records go, and in which mode.
    pub sink: Sink,
    /// Persistent groups, by their short names; `GROUP@FEED` takes another feed than the default one.
    pub groups: Vec<&'static str>,
    /// Further feeds: name, types, schema version.
    pub feeds: Vec<(&'static str, &'static [&'static str], u32)>,
    /// When a batch is sealed at the latest; it is sealed after a tenth of it when the input runs dry.
    pub batch_max_age: &'static str,
    /// librdkafka's linger, on Kafka.
    pub linger_ms: u32,
    /// `memory.limit`.
    pub memory: &'static str,
    /// The sink's own bound for an MDT, bytes.
    pub sink_memory: usize,
    /// More lines of the configuration, of the sink's table first, then whole tables.
    pub more: &'static str,
    /// Groups of `groups` that may be let go when they hold back more than so many records.
    pub released: Vec<(&'static str, u64)>,
    /// How long another bridge must be silent before this one takes over.
    pub takeover_after: &'static str,
    /// MDTs that another bridge should have.
    pub standby: Vec<&'static str>,
    /// On a cluster: the bridge reaches it through the proxy.
    pub by_proxy: bool,
    /// On a secured broker: the bridge comes by TLS and says who it is.
    pub secured: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sink: Sink::Kafka,
            groups: vec!["robinhood"],
            feeds: Vec::new(),
            batch_max_age: "50ms",
            linger_ms: 5,
            memory: "128MiB",
            sink_memory: 32 << 20,
            more: "",
            released: Vec::new(),
            takeover_after: "10s",
            standby: Vec::new(),
            by_proxy: false,
            secured: false,
        }
    }
}

/// How to start a bridge, and how to ask it.
pub struct Bridge {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    listen: SocketAddr,
    process: Option<Process>,
}

impl Bridge {
    /// Writes the configuration; nothing is started.
    pub fn new(scene: &Scene, sim: &Sim, broker: &Broker, options: &Options) -> Self {
        Self::named("clbridge", scene, sim, broker, options)
    }

    /// As [`Bridge::new`], one of several on the same MDTs: `owner` is its name in State and in its files' names.
    pub fn named(owner: &str, scene: &Scene, sim: &Sim, broker: &Broker, options: &Options) -> Self {
        let (at, way_in) = way(broker, options);
        // The port is free now; nothing else on this machine is told of it.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let name = scene.name();
        let min_age = COMMIT_MS * 5;
        // The longest that goes with the time after which another bridge may take over.
        let state_fresh = if options.takeover_after == "10s" { "2s" } else { "1s" };
        let Options { sink, batch_max_age, linger_ms, memory, sink_memory, more, takeover_after, standby, .. } =
            options;
        let mut text = format!(
            r#"instance = "{owner}"
takeover_after = "{takeover_after}"

[source]
kind = "sim"
address = "{address}"
standby = {standby:?}

[clear]
min_age = "{min_age}ms"
state_fresh = "{state_fresh}"
batch = 2000
every = "200ms"

[batch]
max_age = "{batch_max_age}"

[memory]
limit = "{memory}"

[poll]
groups = "100ms"
members = "500ms"
mdts = "500ms"

[http]
listen = "{listen}"

[log]
filter = "info,clbridge::pipeline=debug"

[feed]
partitions = {PARTITIONS}

{table}{linger}memory_bytes = {sink_memory}
{more}
{way_in}
"#,
            address = sim.address(),
            table = sink.table(&at, name),
            linger = if sink.kind() == "kafka" { format!("linger_ms = {linger_ms}\n") } else { String::new() },
        );
        for (feed, types, version) in &options.feeds {
            let _ = write!(text, "\n[feeds.{feed}]\ntypes = {types:?}\nschema_version = {version}\npartitions = 2\n");
        }
        for group in &options.groups {
            let (group, feed) = group.split_once('@').map_or((*group, None), |(group, feed)| (group, Some(feed)));
            let _ = write!(text, "\n[groups.{name}-{group}]\nfrom = {:?}\n", sink.first_position());
            if let Some(feed) = feed {
                let _ = writeln!(text, "feed = {feed:?}");
            }
            if let Some((_, backlog)) = options.released.iter().find(|(name, _)| *name == group) {
                let _ = writeln!(text, "policy = {{ release = {{ backlog = {backlog} }} }}");
            }
        }
        let config = scene.dir().join(format!("{owner}.toml"));
        std::fs::write(&config, text).unwrap();
        Self { binary: scene.bin("clbridge"), config, log: scene.log(owner), listen, process: None }
    }

    /// Starts it; with a failpoint (`NAME:COUNT`) it kills itself there.
    pub fn start(&mut self, failpoint: Option<&str>) {
        assert!(self.process.is_none(), "the bridge runs already");
        let mut command = self.prepared(&["run"]);
        if let Some(point) = failpoint {
            command.env("CLBRIDGE_FAILPOINT", point);
        }
        self.process = Some(Process::start("clbridge", command, &self.log));
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the bridge runs")
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        self.process.take().expect("the bridge runs").kill9();
    }

    /// True once it has ended; it can then be started again.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.process.as_mut().is_none_or(|p| p.ended().is_some());
        if ended {
            self.process = None;
        }
        ended
    }

    /// SIGTERM: it drains.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.take().expect("the bridge runs").terminate(Duration::from_secs(30))
    }

    /// What `/status` says, if it answers.
    pub fn status(&self) -> Option<BridgeStatus> {
        ask(self.listen)
    }

    /// Where it serves `/status`.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// What `/status` says of its MDTs, once all of `count` run; else `None`.
    pub fn running(&self, count: usize) -> Option<Vec<MdtStatus>> {
        let mdts = self.status()?.mdts;
        (mdts.len() == count && mdts.iter().all(|m| m.phase == Phase::Running)).then_some(mdts)
    }

    /// A command of `clbridge` with this bridge's configuration, to be started.
    pub fn prepared(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--config").arg(&self.config);
        command
    }

    /// As [`Bridge::prepared`], carried out.
    pub fn command(&self, words: &[&str]) -> Output {
        self.prepared(words).output().unwrap()
    }

    /// As [`Bridge::command`]; returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn says(&self, words: &[&str]) -> String {
        let said = self.command(words);
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success(), "clbridge {words:?}: {text} {}", String::from_utf8_lossy(&said.stderr));
        text
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

/// Where the bridge finds the broker, and the table of librdkafka's settings that it needs for that.
fn way(broker: &Broker, options: &Options) -> (String, String) {
    if options.secured {
        let Secured { bootstrap, ca, user: (name, password) } = broker.way_in();
        let table = format!(
            r#"
[sink.kafka.librdkafka]
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "SCRAM-SHA-512"
"sasl.username" = "{name}"
"sasl.password" = "{password}"
"ssl.ca.location" = "{ca}"
"#
        );
        return (bootstrap.clone(), table);
    }
    let at = if options.by_proxy { broker.bootstrap_by_proxy() } else { broker.at().to_owned() };
    (at, String::new())
}

/// What `/status` says there, if it answers.
pub fn ask(listen: SocketAddr) -> Option<BridgeStatus> {
    let mut stream = TcpStream::connect_timeout(&listen, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}
