//! The simulated MDTs of the demonstration, what happens on them, and how one of them crashes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use mdt_sim::addr::Addr;
use mdt_sim::mdt::{Crash, CrashReport, Length, MdtConfig, Stats};
use mdt_sim::oracle::{Entries, Entry};
use mdt_sim::server::{Config, Server, UserSpec};
use mdt_sim::workload::{self, Plan, Source};

use super::verdict::MdtEvidence;

/// Time between two commits.
const COMMIT: Duration = Duration::from_millis(200);
/// As long as it is waited for a good moment for a crash: what is published then is longer in danger, also where publishing
/// is slow. It is still twice in the time after which the bridge takes a record for stable.
const COMMIT_BEFORE_A_CRASH: Duration = Duration::from_millis(500);
/// How long a crashed MDT is away, seconds. No MDT restarts within two seconds, and the bridge trusts in that (a pause
/// or a jump of time is how it notices a crash), so the demonstration must not ask for what cannot happen.
const AWAY_S: f64 = 2.5;

/// What makes the records.
#[derive(Clone, Debug)]
pub enum Workload {
    /// A played file system: this many records a second over both MDTs, and no more than so many.
    #[allow(missing_docs)]
    Generated { rate: u64, total: u64 },
    /// The activity in a real directory.
    Watched(PathBuf),
}

/// The simulated MDTs. They end with it.
pub struct Mdts {
    server: Server,
    names: Vec<MdtName>,
    data: Addr,
}

impl Mdts {
    /// Two MDTs in `dir`, each with the changelog user `cl1`, served at a Unix socket.
    ///
    /// # Errors
    /// Those of the disk and the socket.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let names: Vec<MdtName> = ["demo-MDT0000".parse()?, "demo-MDT0001".parse()?].to_vec();
        let mdt =
            |name: &MdtName| MdtConfig { commit_interval: COMMIT, ..MdtConfig::new(name.as_str(), dir.join("mdts")) };
        let data = Addr::Unix(dir.join("changelog"));
        std::fs::create_dir_all(dir.join("mdts"))?;
        let server = Server::start(&Config {
            mdts: names.iter().map(mdt).collect(),
            listen: vec![data.clone()],
            control: Vec::new(),
            register: vec![UserSpec { name: None, mask: None }],
        })?;
        Ok(Self { server, names, data })
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> &[MdtName] {
        &self.names
    }

    /// Where their changelogs are served.
    #[must_use]
    pub fn address(&self) -> &Addr {
        &self.data
    }

    /// Figures of one of them.
    #[must_use]
    pub fn stats(&self, mdt: &MdtName) -> Option<Stats> {
        self.server.mdt(mdt.as_str()).map(|m| m.stats())
    }

    /// Lets records come. A watched directory is the first MDT's.
    ///
    /// # Errors
    /// No thread to be had, or no such directory.
    pub fn work(&self, workload: &Workload) -> io::Result<()> {
        let source = match workload {
            Workload::Generated { rate, total } => Source::Plan(Plan { rate: *rate, total: *total, ..Plan::default() }),
            Workload::Watched(dir) => {
                if !std::fs::metadata(dir)?.is_dir() {
                    return Err(io::Error::new(
                        io::ErrorKind::NotADirectory,
                        format!("{} is no directory", dir.display()),
                    ));
                }
                Source::Watch(dir.clone())
            }
        };
        self.server.jobs().start(source, self.server.mdts().cloned().collect())
    }

    /// Whether records still come.
    #[must_use]
    pub fn working(&self) -> bool {
        self.server.jobs().running()
    }

    /// No more records come.
    pub fn rest(&self) {
        self.server.jobs().end();
    }

    /// Whether everything that was recorded was cleared.
    #[must_use]
    pub fn all_cleared(&self) -> bool {
        self.names.iter().all(|name| self.backlog(name) == 0)
    }

    /// Records that the changelog of one of them still holds.
    #[must_use]
    pub fn backlog(&self, mdt: &MdtName) -> u64 {
        self.stats(mdt).map_or(0, |s| s.last_index.saturating_sub(s.cleared.unwrap_or(0)))
    }

    /// One of them commits less often, until it crashes.
    pub fn is_going_to_crash(&self, mdt: &MdtName) {
        if let Some(mdt) = self.server.mdt(mdt.as_str()) {
            mdt.set_commit_interval(COMMIT_BEFORE_A_CRASH);
        }
    }

    /// Whether a crash now would take back at least `worth` records, half of them `published` (up to this index)
    /// already.
    #[must_use]
    pub fn worth_a_crash(&self, mdt: &MdtName, published: u64, worth: u64) -> bool {
        self.stats(mdt)
            .is_some_and(|s| s.last_index >= s.committed_index + worth && published >= s.committed_index + worth / 2)
    }

    /// Crashes one of them; returns when it is back. `invent`: half of what was lost is followed by records of other
    /// operations under the same indexes; else all that was lost is replayed, with new times. `worth` as in
    /// [`Mdts::worth_a_crash`], looked at once more: on a busy machine the moment may pass before this is called.
    /// `None`: there was nothing that a crash could take back, or not as much. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn crash(&self, name: &MdtName, invent: bool, worth: Option<(u64, u64)>) -> io::Result<Option<CrashReport>> {
        let Some(mdt) = self.server.mdt(name.as_str()) else { return Ok(None) };
        let stats = mdt.stats();
        let worthwhile = worth.is_none_or(|(published, worth)| self.worth_a_crash(name, published, worth));
        if stats.last_index == stats.committed_index || !worthwhile {
            return Ok(None);
        }
        let replay = if invent { 0.5 } else { 1.0 };
        let how = Crash { down_s: AWAY_S, evict: false, replay, length: Length::Equal };
        let names: Vec<String> = self.names.iter().map(|name| name.as_str().to_owned()).collect();
        let report = mdt.crash(&how, |count| workload::fresh(&names, name.as_str(), count))?;
        mdt.set_commit_interval(COMMIT);
        Ok(Some(report))
    }

    /// Stops them and hands out what happened on each. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn stop(self) -> io::Result<Vec<MdtEvidence>> {
        let known: Vec<_> = self
            .names
            .iter()
            .filter_map(|name| {
                Some((name.clone(), self.backlog(name), self.server.mdt(name.as_str())?.oracle_path().to_owned()))
            })
            .collect();
        self.server.stop()?;
        known
            .into_iter()
            .map(|(name, backlog, path)| {
                Ok(MdtEvidence { name: name.as_str().to_owned(), history: history(&path)?, backlog })
            })
            .collect()
    }
}

fn history(path: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Entries::open(path)?;
    let mut history = Vec::new();
    while let Some(entry) = entries.next()? {
        history.push(entry);
    }
    Ok(history)
}
