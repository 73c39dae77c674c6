//! Members of groups: Python processes with a client that is not ours, which say what they do before they do it.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::binaries::{root, up};
use crate::broker::Broker;
use crate::process::Process;
use crate::scene::Scene;

/// A running member.
pub struct Member {
    name: String,
    process: Process,
}

/// Python with clients of all brokers.
pub fn python() -> Command {
    // Under `tests/up run` the interpreter is known; `tests/up python` becomes it, so the process id is the member's.
    std::env::var_os("CLB_PYTHON").map_or_else(
        || {
            let mut command = up();
            command.arg("python");
            command
        },
        Command::new,
    )
}

impl Member {
    /// A member `name` of `group` that takes `topics`.
    pub fn start(scene: &Scene, broker: &Broker, group: &str, name: &str, topics: &str, more: &[&str]) -> Self {
        let mut command = python();
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(root().join("tests/judge/member.py"))
            .args([
                "--sink",
                broker.sink().kind(),
                "--at",
                broker.at(),
                "--group",
                group,
                "--member",
                name,
                "--topics",
                topics,
            ])
            .arg("--log")
            .arg(scene.dir().join("members").join(format!("{name}.jsonl")))
            .args(["--session-ms", "6000", "--commit-ms", "50"])
            .args(more);
        let process = Process::start(name, command, &scene.log(name));
        Self { name: name.to_owned(), process }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `kill -9`.
    pub fn kill9(self) {
        self.process.kill9();
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// Commits and leaves.
    pub fn stop(mut self) {
        assert!(self.process.ended().is_none(), "member {} has ended by itself", self.name);
        let status = self.process.terminate(Duration::from_secs(30));
        assert!(status.success(), "member {} ended with {status}", self.name);
    }
}
