//! The stage of one test: a folder for everything that it writes, names of its own on the shared broker, and its turn
//! (tests run one after another: each wants the machine for itself).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::binaries;

static TURN: Mutex<()> = Mutex::new(());

/// The stage of one test.
pub struct Scene {
    name: String,
    dir: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Waits for its turn; `name` is a word that names topics and groups.
    pub fn new(name: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Kept brokers hold what an earlier run left, so a name is used once.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let name = format!("{name}-{:x}", now & 0xff_ffff);
        let dir = tempfile::Builder::new().prefix("clb-").tempdir().unwrap().keep();
        for sub in ["bin", "logs", "members", "sim"] {
            std::fs::create_dir(dir.join(sub)).unwrap();
        }
        binaries::copy_to(&dir.join("bin"));
        crate::tell!("{name}: in {}", dir.display());
        Self { name, dir, _turn: turn }
    }

    /// What topics' and groups' names begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One of the copied binaries.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// Where a process writes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    fn tails(&self) -> String {
        let mut out = String::new();
        let mut logs: Vec<_> = std::fs::read_dir(self.dir.join("logs")).unwrap().flatten().map(|e| e.path()).collect();
        logs.sort();
        for log in logs {
            let bytes = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            let _ = writeln!(out, "--- {}", log.display());
            for line in &lines[lines.len().saturating_sub(25)..] {
                let _ = writeln!(out, "{line}");
            }
        }
        out
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::tell!("failed; everything is in {}\n{}", self.dir.display(), self.tails());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
