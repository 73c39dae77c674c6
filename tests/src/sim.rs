//! The simulated MDTs of a test, in a process of their own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use mdt_sim::addr::Addr;
use mdt_sim::control::client::Control;
use mdt_sim::mdt::{Crash, CrashReport, Stats};
use mdt_sim::workload::Plan;

use crate::process::Process;
use crate::scene::Scene;
use crate::wait;

/// How often the simulated MDTs commit, milliseconds: a fifth of the bridge's `clear.min_age` in these tests.
pub const COMMIT_MS: u64 = 200;

/// A running `mdt-sim serve`.
pub struct Sim {
    process: Option<Process>,
    dir: PathBuf,
    control: Addr,
    data: String,
    mdts: Vec<String>,
}

impl Sim {
    /// Serves `count` MDTs, each with the changelog user `cl1`.
    pub fn start(scene: &Scene, count: usize) -> Self {
        let dir = scene.dir().join("sim");
        let address = |name: &str| format!("unix:{}", dir.join(name).display());
        let (data, control) = (address("data"), address("control").parse().unwrap());
        let mut sim = Self { process: None, dir, control, data, mdts: Vec::new() };
        sim.serve(scene, count);
        sim
    }

    /// Ends the server and starts it again with `count` MDTs: those that it had, and new ones.
    pub fn restart_with(&mut self, scene: &Scene, count: usize) {
        self.stop();
        self.serve(scene, count);
    }

    fn serve(&mut self, scene: &Scene, count: usize) {
        self.mdts = (0..count).map(|n| format!("lustre-MDT{n:04x}")).collect();
        let mut command = Command::new(scene.bin("mdt-sim"));
        command.arg("serve").arg("--dir").arg(&self.dir).args(["--listen", &self.data, "--register"]);
        command.args(["--control", &self.control.to_string(), "--commit-interval-ms", &COMMIT_MS.to_string()]);
        for mdt in &self.mdts {
            command.args(["--mdt", mdt]);
        }
        self.process = Some(Process::start("mdt-sim", command, &scene.log("mdt-sim")));
        wait::until_true("mdt-sim takes commands", Duration::from_secs(20), || Control::connect(&self.control).is_ok());
    }

    /// Names of the MDTs.
    pub fn mdts(&self) -> &[String] {
        &self.mdts
    }

    /// Where the bridge connects to.
    pub fn address(&self) -> &str {
        &self.data
    }

    /// A connection for commands.
    pub fn control(&self) -> Control {
        Control::connect(&self.control).unwrap()
    }

    fn call(&self, command: serde_json::Value) {
        let command = serde_json::from_value(command).unwrap();
        self.control().call(&command).unwrap();
    }

    /// A workload over all MDTs that goes on until [`Sim::emit_stop`], or for `total` records where that is not 0.
    pub fn emit(&self, total: u64, rate: u64) {
        self.control().emit(Plan { total, rate, max_files: 2000, ..Plan::default() }, false).unwrap();
    }

    /// A workload until [`Sim::emit_stop`], of about `rate` records a second in the mean, a quarter of them in bursts: at a
    /// steady rate a sink on a fast disk never has much on its way.
    pub fn emit_in_bursts(&self, rate: u64) {
        let (burst_every_ms, burst_ms) = (3000, 50);
        let burst_rate = rate / 4 * burst_every_ms / burst_ms;
        let plan =
            Plan { rate: rate * 3 / 4, burst_rate, burst_every_ms, burst_ms, max_files: 2000, ..Plan::default() };
        self.control().emit(plan, false).unwrap();
    }

    /// As [`Sim::emit`], and returns when all is logged.
    pub fn emit_all(&self, total: u64, rate: u64) {
        self.control().emit(Plan { total, rate, max_files: 2000, ..Plan::default() }, true).unwrap();
    }

    /// Ends the workloads.
    pub fn emit_stop(&self) {
        self.call(serde_json::json!({"op": "emit_stop"}));
    }

    /// Figures of one MDT.
    pub fn stats(&self, mdt: &str) -> Stats {
        self.control().stats(mdt).unwrap()
    }

    /// The sum over all MDTs of what was cleared.
    pub fn cleared(&self) -> u64 {
        let mut control = self.control();
        self.mdts.iter().map(|m| control.stats(m).unwrap().cleared.unwrap_or(0)).sum()
    }

    /// What is logged and was not cleared, over all MDTs.
    pub fn backlog(&self) -> u64 {
        let mut control = self.control();
        self.mdts
            .iter()
            .map(|m| {
                let stats = control.stats(m).unwrap();
                stats.last_index.saturating_sub(stats.cleared.unwrap_or(0))
            })
            .sum()
    }

    /// Commits one MDT now.
    pub fn commit(&self, mdt: &str) {
        self.call(serde_json::json!({"op": "commit", "mdt": mdt}));
    }

    /// Milliseconds between commits of one MDT; 0: none. Used only to widen what a crash takes back, by less than
    /// the bridge's `clear.min_age`.
    pub fn commit_interval(&self, mdt: &str, ms: u64) {
        self.call(serde_json::json!({"op": "commit_interval", "mdt": mdt, "ms": ms}));
    }

    /// Replays a file of records, `loops` times with new indexes and times.
    pub fn replay(&self, mdt: &str, file: &std::path::Path, loops: u64, rate: u64) {
        self.call(serde_json::json!({"op": "replay", "mdt": mdt, "file": file, "loops": loops, "rate": rate}));
    }

    /// A crash; returns when the MDT is back.
    pub fn crash(&self, mdt: &str, how: Crash) -> CrashReport {
        self.control().crash(mdt, how).unwrap()
    }

    /// Ends the server; its oracle logs are complete.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            let status = process.terminate(Duration::from_secs(20));
            assert!(status.success(), "mdt-sim ended with {status}");
        }
    }

    /// The oracle log of one MDT.
    pub fn oracle(&self, mdt: &str) -> PathBuf {
        self.dir.join(mdt).join("oracle")
    }
}
