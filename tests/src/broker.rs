//! The Kafka of a test: the one that `tests/up run` started, or one of its own that it may kill and stop.

use std::path::PathBuf;

use crate::binaries::up;
use crate::scene::Scene;

/// A broker.
pub struct Broker {
    bootstrap: String,
    own: Option<PathBuf>,
}

impl Broker {
    /// The broker in `KAFKA_BOOTSTRAP`.
    ///
    /// # Panics
    /// When the variable is not set.
    pub fn shared() -> Self {
        let bootstrap = std::env::var("KAFKA_BOOTSTRAP").unwrap_or_else(|_| {
            panic!("KAFKA_BOOTSTRAP is not set: run this as `tests/up run -- cargo test --release -p clbridge-tests`")
        });
        Self { bootstrap, own: None }
    }

    /// A broker of this test's own, which it may harm.
    pub fn own(scene: &Scene, settings: &[&str]) -> Self {
        // Below CLB_RUN_DIR `tests/up run` takes it down even when this process is killed.
        let base = std::env::var_os("CLB_RUN_DIR").map_or_else(|| scene.dir().to_owned(), PathBuf::from);
        let dir = base.join(format!("kafka-{}", scene.name()));
        let mut command = up();
        command.args(["kafka", "start", "--heap", "512m"]).arg(&dir);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let said = command.output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success(), "tests/up kafka start: {}", String::from_utf8_lossy(&said.stderr));
        let bootstrap = text.lines().find_map(|l| l.strip_prefix("KAFKA_BOOTSTRAP=")).unwrap().to_owned();
        Self { bootstrap, own: Some(dir) }
    }

    /// `HOST:PORT`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    fn verb(&self, verb: &str) {
        let dir = self.own.as_ref().expect("only a test's own broker may be harmed");
        let said = up().args(["kafka", verb]).arg(dir).output().unwrap();
        assert!(said.status.success(), "tests/up kafka {verb}: {}", String::from_utf8_lossy(&said.stderr));
    }

    /// `kill -9`.
    pub fn kill9(&self) {
        self.verb("kill9");
    }

    /// Starts it again on its data; returns when it serves.
    pub fn restart(&self) {
        self.verb("restart");
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.verb("stop");
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.verb("cont");
    }

    /// One of Kafka's own tools; returns what it printed.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let said = up().args(["tool", name, "--bootstrap-server", &self.bootstrap]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success(), "{name} {arguments:?}: {text} {}", String::from_utf8_lossy(&said.stderr));
        text
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(dir) = &self.own {
            // SIGKILL ends a stopped one too; a clean end would wait for it.
            let _ = up().args(["kafka", "kill9"]).arg(dir).output();
            let _ = up().args(["kafka", "down", "--remove"]).arg(dir).output();
        }
    }
}
