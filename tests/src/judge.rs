//! Calls the judge, which reads topics, oracle logs and members' logs, and appends a row to `target/report/faults.json`.

use std::path::PathBuf;

use crate::binaries::{root, up};
use crate::sink::Sink;

/// What the judge has to know of a run.
#[derive(Clone, Default)]
pub struct Case {
    /// Where records went.
    pub sink: Sink,
    /// Where the broker is, or the folder.
    pub at: String,
    /// What the names of record topics begin with.
    pub prefix: String,
    /// (MDT, oracle log).
    pub oracles: Vec<(String, PathBuf)>,
    /// Members' logs.
    pub members: PathBuf,
    /// Persistent groups, `NAME` or `NAME@FEED`.
    pub groups: Vec<String>,
    /// Further feeds, `NAME=TYPE,TYPE`.
    pub feeds: Vec<String>,
    /// Groups that need not have finished.
    pub unfinished: Vec<String>,
    /// Name of the fault in the report.
    pub fault: String,
    /// How often the fault was injected.
    pub runs: u32,
    /// The longest time from a fault to the first record durable behind it, milliseconds.
    pub recovery_ms: u64,
    /// What `status` said of it, in its own short names.
    pub said: Vec<String>,
    /// What ended it, where it did not end by itself.
    pub ended_by: String,
    /// What was drawn of the fault's variants, where there are any.
    pub drawn: String,
    /// The seed of what was drawn.
    pub seed: u64,
    /// Groups that a policy may let go.
    pub released: Vec<String>,
    /// Members' logs from before the topics were deleted and made again.
    pub before: Option<PathBuf>,
    /// The least number of retractions that an MDT's topic must show, where anything was taken back.
    pub retractions: u32,
    /// Partitions that keys are spread over, where somebody has added more; 0: all.
    pub pinned: u32,
}

impl Case {
    /// Judges.
    ///
    /// # Panics
    /// When an invariant is broken or the run proves nothing.
    pub fn judge(&self) {
        let mut command = up();
        command.arg("python").arg(root().join("tests/judge/judge.py"));
        command.args(["--sink", self.sink.name(), "--at", &self.at, "--prefix", &self.prefix]);
        for (mdt, file) in &self.oracles {
            command.arg("--oracle").arg(format!("{mdt}={}", file.display()));
        }
        command.arg("--members").arg(&self.members);
        for group in &self.groups {
            command.args(["--group", group]);
        }
        for group in &self.released {
            command.args(["--released", group]);
        }
        if let Some(before) = &self.before {
            command.arg("--before").arg(before);
        }
        command.args(["--retractions", &self.retractions.to_string()]);
        if self.pinned > 0 {
            command.args(["--pinned", &self.pinned.to_string()]);
        }
        for feed in &self.feeds {
            command.args(["--feed", feed]);
        }
        for group in &self.unfinished {
            command.args(["--unfinished", group]);
        }
        command.args(["--fault", &self.fault, "--runs", &self.runs.to_string()]);
        command.args(["--recovery-ms", &self.recovery_ms.to_string()]);
        for word in &self.said {
            command.args(["--said", word]);
        }
        command.args(["--ended-by", &self.ended_by, "--drawn", &self.drawn, "--seed", &self.seed.to_string()]);
        let said = command.output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        for line in text.lines() {
            crate::tell!("{line}");
        }
        assert!(said.status.success(), "the judge ({}): {text} {}", said.status, String::from_utf8_lossy(&said.stderr));
    }
}
