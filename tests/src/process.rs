//! A process of a test: its output goes to a file of the scene, signals go to its own id, and it ends with the test.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A started process.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    pub fn start(name: &str, command: Command, log: &Path) -> Self {
        Self::printing(name, command, log, log)
    }

    /// As [`Process::start`], with standard output appended to `out`.
    pub fn printing(name: &str, mut command: Command, out: &Path, log: &Path) -> Self {
        let file = |path| OpenOptions::new().create(true).append(true).open(path).unwrap();
        command.stdin(Stdio::null()).stdout(file(out)).stderr(file(log));
        let child = command.spawn().unwrap_or_else(|e| panic!("starting {name} ({command:?}): {e}"));
        Self { name: name.to_owned(), child }
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|e| panic!("{signal} to {} ({pid}): {e}", self.name));
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// `kill -9`; returns when it is gone.
    pub fn kill9(mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
        }
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns how it ended.
    ///
    /// # Panics
    /// When it does not end within `patience`.
    pub fn terminate(mut self, patience: Duration) -> ExitStatus {
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM);
        }
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < end, "{} did not end within {} s of SIGTERM", self.name, patience.as_secs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// A value of /proc/PID/status in KiB, such as `VmHWM`, the most memory that it ever had resident.
    pub fn memory_kib(&self, field: &str) -> u64 {
        self.figure(field)
    }

    /// A number of /proc/PID/status, such as `Threads`.
    pub fn figure(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// User and system time so far, seconds (proc(5): fields 14 and 15 of `stat`, in ticks of a hundredth).
    pub fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name, in brackets, may hold anything.
        let fields = stat.rsplit_once(')').unwrap().1;
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> u64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count() as u64
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Only when a test failed: SIGKILL also ends a stopped process.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
