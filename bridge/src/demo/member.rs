//! Members of groups: processes of their own (`clbridge consume`), so that one can be killed, and what they write.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use mdt_sim::mdt::wall_ns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::verdict::{Content, What, Written};

/// How long a member may take to leave its group.
const LEAVING: Duration = Duration::from_secs(5);

/// A running `clbridge consume`.
pub struct Member {
    /// Its place in the group, from 1.
    pub number: usize,
    child: Child,
    taken: Arc<Mutex<Taken>>,
    reader: Option<JoinHandle<()>>,
    /// Set once it was killed or stopped by us.
    over: bool,
}

#[derive(Default)]
struct Taken {
    lines: Vec<Written>,
    /// The first line that could not be understood.
    error: Option<String>,
}

impl Member {
    /// Starts a member of `group`, or an ephemeral reader, with the configuration `config`. Its log goes to a file in
    /// `dir`.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(group: Option<&str>, number: usize, config: &Path, dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{}-{number}.log", group.unwrap_or("ephemeral")));
        let mut command = Command::new(std::env::current_exe().context("finding this program's own file")?);
        command.arg("--config").arg(config).args(["consume", "--format", "json"]);
        match group {
            Some(group) => command.args(["--group", group]),
            None => command.arg("--ephemeral"),
        };
        // The configuration is the one given here, whatever this process was given.
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("CLBRIDGE_")) {
            command.env_remove(name);
        }
        // A process group of its own: Ctrl-C is for the demonstration, which then ends its members in order.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(log)?);
        die_with_parent(&mut command);
        let mut child = command.spawn().context("starting a member")?;
        let output = child.stdout.take().context("a member without output")?;
        let taken = Arc::new(Mutex::new(Taken::default()));
        let reader = std::thread::Builder::new().name(format!("member-{number}")).spawn({
            let taken = taken.clone();
            move || take(output, &taken)
        })?;
        Ok(Self { number, child, taken, reader: Some(reader), over: false })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lines that it has written.
    #[must_use]
    pub fn count(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).lines.len()
    }

    /// Whether it was ended by us.
    #[must_use]
    pub fn over(&self) -> bool {
        self.over
    }

    /// Kills it as `kill -9` does.
    ///
    /// # Errors
    /// It had ended already.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.over = true;
        anyhow::ensure!(self.child.try_wait()?.is_none(), "member {} had ended already", self.number);
        self.child.kill()?;
        Ok(())
    }

    /// Asks it to leave; [`Member::finish`] waits for it.
    pub fn ask_to_leave(&self) {
        if !self.over {
            // It may have ended by itself, which `finish` finds out.
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        }
    }

    /// Waits until it has ended, and hands out all that it wrote. Blocks.
    ///
    /// # Errors
    /// It ended badly, or wrote what is no record.
    pub fn finish(mut self) -> anyhow::Result<Vec<Written>> {
        let until = Instant::now() + LEAVING;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > until => {
                    self.child.kill()?;
                    self.child.wait()?;
                    return Err(anyhow!("did not leave its group within {LEAVING:?}"));
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| anyhow!("the thread that read its output panicked"))?;
        }
        anyhow::ensure!(
            status.success() || status.signal() == Some(Signal::SIGKILL as i32) && self.over,
            "ended with {status}"
        );
        let taken = std::mem::take(&mut *self.taken.lock().unwrap_or_else(PoisonError::into_inner));
        match taken.error {
            Some(error) => Err(anyhow!("wrote what is no record: {error}")),
            None => Ok(taken.lines),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Reached with a living child only when the demonstration failed half-way.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A member that outlived a killed demonstration would wait for a broker that is gone.
fn die_with_parent(command: &mut Command) {
    let set = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    // SAFETY: the closure runs in the child between fork and exec and makes one system call (prctl), which is
    // async-signal-safe; it touches no memory, lock or descriptor of the parent.
    unsafe {
        command.pre_exec(set);
    }
}

/// Takes what a member writes until it ends. A last line without its end was cut off by a kill: it was not yet handed
/// over, so nothing in it was acknowledged.
fn take(mut output: ChildStdout, taken: &Mutex<Taken>) {
    let mut buffer = vec![0; 64 << 10];
    let mut rest = Vec::new();
    loop {
        let got = match output.read(&mut buffer) {
            Ok(0) => return,
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                taken.lock().unwrap_or_else(PoisonError::into_inner).error.get_or_insert(e.to_string());
                return;
            }
        };
        // Before the lines are looked at: what is in the buffer had been written by now.
        let at_ns = wall_ns();
        rest.extend_from_slice(&buffer[..got]);
        let Some(end) = rest.iter().rposition(|b| *b == b'\n') else { continue };
        let read: Vec<_> = rest[..end].split(|b| *b == b'\n').map(|line| parse(line, at_ns)).collect();
        rest.drain(..=end);
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        for line in read {
            match line {
                Ok(line) => taken.lines.push(line),
                Err(error) => drop(taken.error.get_or_insert(error)),
            }
        }
    }
}

/// The fields that the verdict needs of a line of `consume --format json`.
#[derive(Deserialize)]
struct JsonLine {
    mdt: String,
    incarnation: u32,
    index: u64,
    type_code: u32,
    time: String,
    #[serde(default)]
    tfid: String,
    /// The renamed object's, of a rename.
    sfid: Option<String>,
    retracts: Option<Retracts>,
}

#[derive(Deserialize)]
struct Retracts {
    incarnation: u32,
    from: u64,
    to: u64,
}

fn parse(line: &[u8], at_ns: u64) -> Result<Written, String> {
    let l: JsonLine = serde_json::from_slice(line).map_err(|e| format!("{e} in {}", String::from_utf8_lossy(line)))?;
    let object = l.sfid.unwrap_or_else(|| l.tfid.clone());
    let what = match l.retracts {
        Some(Retracts { incarnation, from, to }) => What::Retraction { incarnation, from, to },
        None => What::Record(Content { kind: l.type_code, time: l.time, tfid: l.tfid }),
    };
    Ok(Written { at_ns, mdt: l.mdt, incarnation: l.incarnation, index: l.index, object, what })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_and_a_retraction_are_told_apart() {
        let record = br#"{"mdt":"demo-MDT0000","incarnation":1,"index":7,"type":"CREAT","type_code":1,"time":"2026-01-02T03:04:05.000000006Z","flags":0,"tfid":"[0x400:0x1:0x0]","name":"f"}"#;
        let written = parse(record, 5).unwrap();
        assert_eq!((written.index, written.incarnation, written.at_ns), (7, 1, 5));
        assert_eq!(written.object, "[0x400:0x1:0x0]");
        assert!(matches!(written.what, What::Record(c) if c.kind == 1 && c.tfid == "[0x400:0x1:0x0]"));
        let mark = br#"{"mdt":"demo-MDT0000","incarnation":2,"index":8,"type":"MARK","type_code":0,"time":"2026-01-02T03:04:05.000000006Z","flags":0,"retracts":{"incarnation":1,"from":8,"to":9}}"#;
        assert!(matches!(parse(mark, 5).unwrap().what, What::Retraction { incarnation: 1, from: 8, to: 9 }));
    }

    #[test]
    fn a_rename_is_a_record_of_the_renamed_object() {
        let rename = br#"{"mdt":"demo-MDT0000","incarnation":1,"index":7,"type":"RENME","type_code":8,"time":"2026-01-02T03:04:05.000000006Z","flags":0,"tfid":"[0x0:0x0:0x0]","sfid":"[0x400:0x2:0x0]"}"#;
        let written = parse(rename, 5).unwrap();
        assert_eq!(written.object, "[0x400:0x2:0x0]");
        assert!(matches!(written.what, What::Record(c) if c.tfid == "[0x0:0x0:0x0]"));
    }

    #[test]
    fn what_is_no_record_is_an_error_that_shows_it() {
        assert!(parse(b"{\"mdt\":1}", 0).unwrap_err().contains("{\"mdt\":1}"));
    }
}
