//! The stage of one test: a folder for everything that it writes, names of its own on the shared broker, and its turn:
//! most of a test is waiting, so some run at once, but no more than a small machine bears.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::binaries;

/// Places for tests at once, as a small machine bears them: one that wants the machine for itself takes them all.
pub const PLACES: usize = 4;

static STAGES: Turns = Turns::new();

/// Places that tests take; who takes more than one waits until all of them are free at once.
pub struct Turns {
    taken: Mutex<usize>,
    left: Condvar,
}

impl Turns {
    /// Nobody has it yet.
    pub const fn new() -> Self {
        Self { taken: Mutex::new(0), left: Condvar::new() }
    }

    /// Waits until `wanted` of `places` are free, and takes them.
    pub fn take(&'static self, wanted: usize, places: usize) -> Turn {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |taken: &mut usize| *taken + wanted > places;
        let mut taken = self.left.wait_while(taken, full).unwrap_or_else(PoisonError::into_inner);
        *taken += wanted;
        Turn { turns: self, taken: wanted }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

/// A turn; it ends with it.
pub struct Turn {
    turns: &'static Turns,
    taken: usize,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.taken;
        self.turns.left.notify_all();
    }
}

/// The stage of one test.
pub struct Scene {
    name: String,
    dir: PathBuf,
    _turn: Turn,
}

impl Scene {
    /// Waits until so many of the [`PLACES`] are free; `name` is a word that names topics and groups.
    pub fn new(name: &str, places: usize) -> Self {
        let turn = STAGES.take(places, PLACES);
        // Kept brokers hold what an earlier run left, and tests begin at the same moment: a name is used once.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let name = format!("{name}-{:x}{:02x}", now & 0xff_ffff, COUNT.fetch_add(1, Ordering::Relaxed) & 0xff);
        let dir = tempfile::Builder::new().prefix("clb-").tempdir().unwrap().keep();
        for sub in ["bin", "logs", "members", "sim"] {
            std::fs::create_dir(dir.join(sub)).unwrap();
        }
        binaries::put_into(&dir.join("bin"));
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

    /// One of its binaries.
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
