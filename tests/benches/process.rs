//! Processes that are measured: started here, read in `/proc`, and never left behind.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A program that runs until this is dropped.
pub struct Process {
    child: Child,
    name: String,
    /// Its standard input.
    pub input: ChildStdin,
    /// Its standard output.
    pub output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `program`; its errors go where ours go.
    pub fn start(program: &Path, args: &[&str]) -> Result<Self> {
        let name = program.display().to_string();
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, name, input, output })
    }

    /// Starts this program again, in the role of a child.
    pub fn child(args: &[&str]) -> Result<Self> {
        let mut words = vec!["child"];
        words.extend(args);
        Self::start(&std::env::current_exe()?, &words)
    }

    /// Gives it a line.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").with_context(|| format!("{} takes no more input", self.name))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// User and system time so far, seconds (proc(5): fields 14 and 15 of `stat`, in ticks of a hundredth).
    pub fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in brackets, may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("stat has no name")?;
        let mut times = fields.split_whitespace().skip(11);
        let mut ticks = || -> Result<f64> { Ok(times.next().context("stat is short")?.parse()?) };
        Ok((ticks()? + ticks()?) / 100.0)
    }

    /// Peak resident memory so far, mebibytes.
    pub fn peak_mb(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
    }

    /// Asks it to end by SIGTERM and waits; it must end well.
    pub fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        ensure!(Command::new("kill").arg(&pid).status()?.success(), "no signal to {} ({pid})", self.name);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "{} ended with {status}", self.name);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        anyhow::bail!("{} ({pid}) has not ended a minute after SIGTERM", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next line, without its end.
pub fn line(input: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    ensure!(input.read_line(&mut line)? > 0, "a child ended before its time");
    Ok(line.trim_end().to_owned())
}
