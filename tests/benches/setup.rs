//! What all measurements share: where the programs are, the simulated MDT, the bridge.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mdt_sim::addr::Addr;
use mdt_sim::control::client::Control;
use serde_json::Value;

use crate::process::{Process, line};

/// The MDT that is simulated.
pub const MDT: &str = "lustre-MDT0000";
/// Partitions of record topics: the bridge's default.
pub const PARTITIONS: u32 = 8;
/// Bytes of payload and key at which a batch is sealed: the bridge's default.
pub const SEAL_BYTES: usize = 4 << 20;
/// Age of its first record, milliseconds: the bridge's default.
pub const SEAL_MS: u64 = 50;

/// The benchmark's environment.
pub struct Bench {
    /// Runs of which a median is taken.
    pub runs: usize,
    /// Records of a run that measures rates.
    pub records: u64,
    /// Seconds of a run that measures latencies.
    pub seconds: u64,
    /// The folder of cargo's binaries.
    pub programs: PathBuf,
    /// The folder of cargo's examples.
    pub examples: PathBuf,
    /// Journals and configuration files; removed at the end.
    pub dir: tempfile::TempDir,
}

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

impl Bench {
    /// Reads the variables.
    pub fn from_environment() -> Result<Self> {
        let examples = std::env::current_exe()?.parent().context("no folder of examples")?.to_owned();
        Ok(Self {
            runs: usize::try_from(number("BENCH_RUNS", 3)?)?.max(1),
            records: number("BENCH_RECORDS", 600_000)?.max(10_000),
            seconds: number("BENCH_SECONDS", 10)?.max(3),
            programs: examples.parent().context("no folder of binaries")?.to_owned(),
            examples,
            dir: tempfile::tempdir()?,
        })
    }

    /// Where a server is, by the variable of `tests/up run`.
    pub fn server(&self, variable: &str) -> Result<String> {
        std::env::var(variable)
            .with_context(|| format!("{variable} is not set: `tests/up run -- …` starts a server and sets it"))
    }

    /// A name for topics that no earlier benchmark on this broker has used.
    pub fn named(&self, what: &str) -> String {
        format!("bench{}-{what}", std::process::id())
    }

    /// `target/report`.
    pub fn report(&self) -> PathBuf {
        self.programs.parent().unwrap_or(Path::new(".")).join("report")
    }

    /// A simulated MDT in a process of its own, with a registered user and nothing logged.
    pub fn mdt_sim(&self, name: &str) -> Result<Sim> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir)?;
        let data = format!("unix:{}", dir.join("data").display());
        let mut process = Process::start(
            &self.programs.join("mdt-sim"),
            &[
                "serve",
                "--mdt",
                MDT,
                "--register",
                "--dir",
                &dir.display().to_string(),
                "--listen",
                &data,
                "--control",
                "127.0.0.1:0",
                "--commit-interval-ms",
                "200",
                // All that is logged stays in memory: the disk is not what is measured.
                "--window-mb",
                "1024",
            ],
        )?;
        let said: Value = serde_json::from_str(&line(&mut process.output)?)?;
        let control = said["control"][0].as_str().context("mdt-sim tells no control address")?.parse()?;
        Ok(Sim { process, data: data.parse()?, control })
    }

    /// A bridge of this name, taking `sim`'s records, with one persistent group; `table` is its sink's. Everything else
    /// is the default.
    pub fn bridge(&self, sim: &Sim, name: &str, table: &str) -> Result<Bridge> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = self.dir.path().join(format!("{name}.toml"));
        std::fs::write(
            &config,
            format!(
                "instance = \"{name}\"\n\
                 [source]\nkind = \"sim\"\naddress = \"{}\"\nuser = \"cl1\"\nmdts = [\"{MDT}\"]\n\
                 [feed]\npartitions = {PARTITIONS}\n\
                 [groups.bench]\n\
                 {table}\
                 [http]\nlisten = \"127.0.0.1:{port}\"\n\
                 [log]\nfilter = \"warn,lapin=off\"\n",
                sim.data
            ),
        )?;
        let process =
            Process::start(&self.programs.join("clbridge"), &["run", "--config", &config.display().to_string()])?;
        Ok(Bridge { process, url: format!("http://127.0.0.1:{port}/status"), agent: ureq::Agent::new_with_defaults() })
    }
}

/// A simulated MDT that runs.
pub struct Sim {
    /// Ends with it.
    #[expect(dead_code, reason = "kept so that the process ends when this is dropped")]
    process: Process,
    /// Where its device is.
    pub data: Addr,
    control: Addr,
}

impl Sim {
    /// A connection for commands.
    pub fn control(&self) -> Result<Control> {
        Ok(Control::connect(&self.control)?)
    }

    /// The newest index.
    pub fn last_index(&self) -> Result<u64> {
        Ok(self.control()?.stats(MDT)?.last_index)
    }
}

/// A bridge that runs.
pub struct Bridge {
    /// Its process.
    pub process: Process,
    url: String,
    agent: ureq::Agent,
}

impl Bridge {
    /// What `/status` says of the MDT; nothing until the bridge answers.
    pub fn status(&mut self) -> Result<Option<Value>> {
        if let Some(status) = self.process.ended()? {
            anyhow::bail!("the bridge ended: {status}");
        }
        let Ok(mut answer) = self.agent.get(&self.url).call() else { return Ok(None) };
        let mut said: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
        let mdt = said.pointer_mut("/mdts/0").map(Value::take).unwrap_or_default();
        anyhow::ensure!(mdt["phase"]["phase"] != "stopped", "the bridge has stopped: {}", mdt["phase"]);
        Ok((!mdt.is_null()).then_some(mdt))
    }
}
