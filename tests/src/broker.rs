//! The broker of a test: the one that `tests/up run` started, or one of its own, or a cluster, that it may harm. For files:
//! a folder.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::binaries::up;
use crate::proxy::{Proxy, Traffic};
use crate::scene::Scene;
use crate::sink::Sink;
use crate::wait;

/// Brokers of a cluster.
pub const BROKERS: usize = 3;

/// A broker, or a cluster.
#[derive(Clone)]
pub struct Broker {
    sink: Sink,
    at: String,
    secured: Option<Secured>,
    own: Option<Arc<Own>>,
}

/// The way in of a broker that asks who comes.
#[derive(Clone)]
pub struct Secured {
    /// `HOST:PORT`, TLS and SASL.
    pub bootstrap: String,
    /// Signs the broker's certificate.
    pub ca: String,
    /// Name and password (SCRAM-SHA-512).
    pub user: (String, String),
}

/// What a test may harm.
struct Own {
    /// As `tests/up` calls it.
    kind: &'static str,
    dir: PathBuf,
    /// Brokers of a cluster; 0: a single broker.
    brokers: usize,
    /// Between a cluster and those that come that way.
    proxy: Option<Proxy>,
    /// `tests/up run` takes it down, after the last test.
    shared: bool,
}

/// Runs `tests/up` and returns what it printed.
fn done(said: &Output, what: &str) -> String {
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "tests/up {what}: {text} {}", String::from_utf8_lossy(&said.stderr));
    text
}

/// Below CLB_RUN_DIR `tests/up run` takes it down even when this process is killed.
fn base(otherwise: &Path) -> PathBuf {
    std::env::var_os("CLB_RUN_DIR").map_or_else(|| otherwise.to_owned(), PathBuf::from)
}

impl Broker {
    /// The broker that `tests/up run` started; for files a folder of the scene.
    ///
    /// # Panics
    /// When its variable is not set.
    pub fn shared(scene: &Scene, sink: Sink) -> Self {
        let at = match sink.variable() {
            Some(name) => std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: run this as `tests/up run -- cargo test --release -p clbridge-tests`")
            }),
            None => scene.dir().join("files").display().to_string(),
        };
        Self { sink, at, secured: None, own: None }
    }

    /// A broker of this test's own, which it may harm.
    pub fn own(scene: &Scene, sink: Sink, settings: &[&str]) -> Self {
        if sink == Sink::Files {
            return Self::shared(scene, sink);
        }
        let dir = base(scene.dir()).join(format!("{}-{}", sink.kind(), scene.name()));
        Self::begin(&dir, sink, settings, 0, false)
    }

    /// As [`Broker::own`], with a listener more, that asks who comes and knows rights.
    pub fn secured(scene: &Scene) -> Self {
        let settings = [
            "--sasl-tls",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
            "allow.everyone.if.no.acl.found=true",
            // Who stands connected is asked again so often.
            "connections.max.reauth.ms=2000",
        ];
        Self::own(scene, Sink::Kafka, &settings)
    }

    /// The way in of a [`Broker::secured`].
    pub fn way_in(&self) -> &Secured {
        self.secured.as_ref().expect("a secured broker")
    }

    /// The cluster of three that the tests of a run share; whatever an earlier one left of it is made whole.
    pub fn cluster() -> Self {
        static CLUSTER: OnceLock<Broker> = OnceLock::new();
        let shared = std::env::var_os("CLB_RUN_DIR").is_some();
        let elsewhere = std::env::temp_dir().join(format!("clb-cluster-{}", std::process::id()));
        let cluster = CLUSTER
            .get_or_init(|| Self::begin(&base(&elsewhere).join("kafka-cluster"), Sink::Kafka, &[], BROKERS, shared));
        let cluster = cluster.clone();
        cluster.make_whole();
        cluster
    }

    fn begin(dir: &Path, sink: Sink, settings: &[&str], brokers: usize, shared: bool) -> Self {
        let kind = sink.kind();
        let mut command = up();
        command.args([kind, "start"]).arg(dir);
        if kind == "kafka" {
            command.args(["--quick", "--heap", if brokers == 0 { "512m" } else { "384m" }]);
        }
        if brokers > 0 {
            command.args(["--servers", &brokers.to_string()]);
        }
        for setting in settings {
            match setting.starts_with("--") {
                true => command.arg(setting),
                false => command.args(["--set", setting]),
            };
        }
        // The cluster of an earlier test process of this run goes on.
        if dir.join("cluster.json").exists() {
            command = up();
            command.args([kind, "env"]).arg(dir);
        }
        let text = done(&command.output().unwrap(), &format!("{kind} start"));
        let said = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
        let proxy = said("KAFKA_VIA").map(|ports| Proxy::start(&ports));
        let own = Own { kind, dir: dir.to_owned(), brokers, proxy, shared };
        let secured = said("KAFKA_SASL_SSL").map(|bootstrap| Secured {
            bootstrap,
            ca: said("KAFKA_CA").unwrap(),
            user: (said("KAFKA_USER").unwrap(), said("KAFKA_PASSWORD").unwrap()),
        });
        Self { sink, at: said(sink.variable().unwrap()).unwrap(), secured, own: Some(Arc::new(own)) }
    }

    fn mine(&self) -> &Own {
        self.own.as_ref().expect("only a test's own broker may be harmed")
    }

    /// Which sink it is for.
    pub fn sink(&self) -> Sink {
        self.sink
    }

    /// Where it is: `HOST:PORT` or a URL, of a cluster several with commas between them; of files the folder.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// The way to a cluster that leads through the proxy.
    pub fn bootstrap_by_proxy(&self) -> String {
        self.mine().proxy.as_ref().expect("a cluster has a proxy").bootstrap().to_owned()
    }

    /// What the proxy lets pass from now on.
    pub fn traffic(&self, traffic: Traffic) {
        self.mine().proxy.as_ref().expect("a cluster has a proxy").let_pass(traffic);
    }

    fn verb(&self, verb: &str, node: Option<usize>) {
        let own = self.mine();
        let dir = node.map_or_else(|| own.dir.clone(), |node| own.dir.join(node.to_string()));
        done(&up().args([own.kind, verb]).arg(dir).output().unwrap(), &format!("{} {verb}", own.kind));
    }

    /// `kill -9`, of a cluster all its brokers; of RabbitMQ not before it has written down the names of its queues
    /// (docs/brokers/amqp.md, "Limits").
    pub fn kill9(&self) {
        if self.sink == Sink::Amqp {
            std::thread::sleep(Duration::from_secs(10));
        }
        self.verb("kill", None);
    }

    /// Starts it again on its data; returns when it serves.
    pub fn restart(&self) {
        self.verb("restart", None);
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.verb("stall", None);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.verb("continue", None);
    }

    /// `kill`, `restart`, `stall` or `continue` for one broker of a cluster, from 1.
    pub fn one(&self, node: usize, verb: &str) {
        self.verb(verb, Some(node));
    }

    /// One of Kafka's own tools; returns what it printed.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let said = up().args(["tool", name, "--bootstrap-server", &self.at]).args(arguments).output().unwrap();
        done(&said, &format!("tool {name} {arguments:?}"))
    }

    /// Leader and in-sync followers of a partition, by the brokers' numbers.
    pub fn replicas(&self, topic: &str, partition: u32) -> (usize, Vec<usize>) {
        let text = self.tool("kafka-topics", &["--describe", "--topic", topic]);
        let line = text.lines().find(|l| l.contains(&format!("Partition: {partition}\t"))).expect(&text);
        let field = |name: &str| {
            line.split('\t').find_map(|f| f.trim().strip_prefix(name)).expect("kafka-topics tells it").trim().to_owned()
        };
        let leader = field("Leader:").parse().unwrap();
        let isr = field("Isr:").split(',').map(|n| n.parse().unwrap()).filter(|n| *n != leader).collect();
        (leader, isr)
    }

    /// Waits until no partition of the cluster lacks a copy.
    pub fn in_sync(&self) {
        wait::until_true("every partition is in sync", Duration::from_secs(300), || {
            self.tool("kafka-topics", &["--describe", "--under-replicated-partitions"]).trim().is_empty()
        });
    }

    /// What a failed test left stopped or dead runs again.
    fn make_whole(&self) {
        let own = self.mine();
        self.traffic(Traffic::Passes);
        for node in 1..=own.brokers {
            let dir = own.dir.join(node.to_string());
            // Refused for a dead one, which is started instead.
            if !up().args([own.kind, "continue"]).arg(&dir).output().unwrap().status.success() {
                done(&up().args([own.kind, "restart"]).arg(&dir).output().unwrap(), "restart");
            }
        }
        self.verb("wait", None);
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if !self.shared {
            // SIGKILL ends a stopped one too; a clean end would wait for it.
            let _ = up().args([self.kind, "kill"]).arg(&self.dir).output();
            let _ = up().args([self.kind, "down", "--remove"]).arg(&self.dir).output();
        }
    }
}
