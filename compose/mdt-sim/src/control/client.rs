//! The client of the control socket.

use std::io::{self, BufRead, BufReader, Write};

use serde_json::Value;

use super::Command;
use crate::addr::{Addr, Stream};
use crate::mdt::{Crash, CrashReport, Stats};
use crate::oracle::Select;
use crate::workload::Plan;

/// A connection to a server's control socket.
#[derive(Debug)]
pub struct Control {
    output: Stream,
    input: BufReader<Stream>,
}

fn unreadable(e: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unreadable answer of mdt-sim: {e}"))
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn connect(addr: &Addr) -> io::Result<Self> {
        let output = addr.connect()?;
        let input = BufReader::new(output.try_clone()?);
        Ok(Self { output, input })
    }

    fn send(&mut self, command: &Command) -> io::Result<()> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.output.write_all(&line)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "mdt-sim closed the control connection"));
        }
        Ok(line)
    }

    fn answer(line: &str) -> io::Result<Value> {
        let mut answer: Value = serde_json::from_str(line).map_err(unreadable)?;
        if answer["ok"] == Value::Bool(true) {
            return Ok(answer["result"].take());
        }
        Err(io::Error::other(answer["error"].as_str().unwrap_or("mdt-sim refused without a reason").to_owned()))
    }

    /// Sends a command and waits for its result (by MDT name where it concerns several).
    ///
    /// # Errors
    /// What the server says, those of the connection.
    pub fn call(&mut self, command: &Command) -> io::Result<Value> {
        self.send(command)?;
        Self::answer(&self.line()?)
    }

    /// Figures of one MDT.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub fn stats(&mut self, mdt: &str) -> io::Result<Stats> {
        let mut result = self.call(&Command::Stats { mdt: Some(mdt.to_owned()) })?;
        serde_json::from_value(result[mdt].take()).map_err(unreadable)
    }

    /// The text of `changelog_users` of one MDT.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub fn users(&mut self, mdt: &str) -> io::Result<String> {
        let result = self.call(&Command::Users { mdt: Some(mdt.to_owned()), form: None })?;
        result[mdt]["text"].as_str().map(str::to_owned).ok_or_else(|| unreadable("no text"))
    }

    /// Registers a user on one MDT; returns `clN` or `clN-NAME`.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub fn register(&mut self, mdt: &str, name: Option<&str>, mask: Option<&str>) -> io::Result<String> {
        let result = self.call(&Command::Register {
            mdt: Some(mdt.to_owned()),
            name: name.map(str::to_owned),
            mask: mask.map(str::to_owned),
        })?;
        result[mdt].as_str().map(str::to_owned).ok_or_else(|| unreadable("no user"))
    }

    /// Crashes one MDT; returns when it is back.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub fn crash(&mut self, mdt: &str, how: Crash) -> io::Result<CrashReport> {
        let mut result = self.call(&Command::Crash { mdt: Some(mdt.to_owned()), how })?;
        serde_json::from_value(result[mdt].take()).map_err(unreadable)
    }

    /// Plays a workload on all MDTs; `wait` returns when it is done.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub fn emit(&mut self, plan: Plan, wait: bool) -> io::Result<Value> {
        self.call(&Command::Emit { plan, wait })
    }

    /// Streams the oracle log as JSON lines; returns their number.
    ///
    /// # Errors
    /// As [`Control::call`], and those of `each`.
    pub fn oracle(
        &mut self,
        mdt: Option<&str>,
        select: Select,
        mut each: impl FnMut(&str) -> io::Result<()>,
    ) -> io::Result<u64> {
        self.send(&Command::Oracle { mdt: mdt.map(str::to_owned), select })?;
        loop {
            let line = self.line()?;
            let line = line.trim_end();
            if line.starts_with(r#"{"ok":"#) {
                let answer: Value = serde_json::from_str(line).map_err(unreadable)?;
                Self::answer(line)?;
                return answer["lines"].as_u64().ok_or_else(|| unreadable("no count"));
            }
            each(line)?;
        }
    }
}
