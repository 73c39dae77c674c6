//! What is seen while it runs: a block that is drawn over itself on a terminal, else a plain line a second.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::status::BridgeStatus;

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(1);

/// One group, as far as its members' processes are concerned.
#[derive(Debug)]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// The id that `status` has it under.
    pub id: String,
    /// Members that live.
    pub members: usize,
    /// Lines written.
    pub written: usize,
}

/// One moment.
#[derive(Debug)]
pub struct Frame {
    /// What the bridge says.
    pub status: BridgeStatus,
    /// Newest index on each MDT, in the order of `status`.
    pub emitted: Vec<u64>,
    /// Persistent groups.
    pub groups: Vec<GroupView>,
    /// Lines that the ephemeral reader wrote.
    pub ephemeral: usize,
}

impl Frame {
    /// Records published and not acknowledged by a group, over all MDTs.
    fn lag(&self, group: &GroupView) -> u64 {
        self.status.mdts.iter().flat_map(|m| &m.groups).filter(|g| g.name == group.id).map(|g| g.lag_records).sum()
    }

    fn block(&self, at: Duration) -> Vec<String> {
        let mut lines = vec![String::new()];
        lines.push(format!(
            "{:5.1} s          emitted      read/s  published     stable    cleared   cleared/s  incarnation",
            at.as_secs_f64()
        ));
        for (m, emitted) in self.status.mdts.iter().zip(&self.emitted) {
            lines.push(format!(
                "{:<14} {emitted:>10} {:>11.0} {:>10} {:>10} {:>10} {:>11.0} {:>12}",
                m.mdt.as_str(),
                m.read_per_s,
                m.published,
                m.stable,
                m.cleared,
                m.cleared_per_s,
                m.incarnation
            ));
        }
        for group in &self.groups {
            let lag = self.lag(group);
            lines.push(format!(
                "{:<14} {:>10} written   {:>10} lag   {} living members",
                group.name, group.written, lag, group.members
            ));
        }
        lines.push(format!("{:<14} {:>10} written   holds nothing back", "ephemeral", self.ephemeral));
        lines
    }

    fn line(&self, at: Duration) -> String {
        let mut line = format!("{:4.0} s", at.as_secs_f64());
        for (m, emitted) in self.status.mdts.iter().zip(&self.emitted) {
            // Writing to a String cannot fail.
            let _ = write!(
                line,
                " | {} emitted {emitted} ({:.0}/s) cleared {} ({:.0}/s)",
                m.mdt.as_str(),
                m.read_per_s,
                m.cleared,
                m.cleared_per_s
            );
        }
        for group in &self.groups {
            let _ = write!(line, " | {} lag {}", group.name, self.lag(group));
        }
        let _ = write!(line, " | ephemeral {}", self.ephemeral);
        line
    }
}

/// Standard output.
pub struct Screen {
    terminal: bool,
    started: Instant,
    /// Lines of the block that stands at the bottom.
    drawn: usize,
    plain: Option<Instant>,
}

impl Screen {
    /// Time counts from now.
    #[must_use]
    pub fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), started: Instant::now(), drawn: 0, plain: None }
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A line that stays.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        let erase = self.erase();
        self.drawn = 0;
        let mut out = io::stdout().lock();
        writeln!(out, "{erase}{text}")?;
        out.flush()
    }

    /// A line that stays, with the time before it.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn event(&mut self, text: &str) -> io::Result<()> {
        self.say(&format!("{:5.1} s  * {text}", self.elapsed().as_secs_f64()))
    }

    /// Shows how things stand.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn show(&mut self, frame: &Frame) -> io::Result<()> {
        if !self.terminal {
            if self.plain.is_none_or(|at| at.elapsed() >= PLAIN_EVERY) {
                self.plain = Some(Instant::now());
                self.say(&frame.line(self.elapsed()))?;
            }
            return Ok(());
        }
        let block = frame.block(self.elapsed());
        let erase = self.erase();
        self.drawn = block.len();
        let mut out = io::stdout().lock();
        writeln!(out, "{erase}{}", block.join("\n"))?;
        out.flush()
    }

    /// Goes up to the first line of the block and erases all from there on (ECMA-48: CPL, ED).
    fn erase(&self) -> String {
        if self.drawn == 0 { String::new() } else { format!("\x1b[{}F\x1b[J", self.drawn) }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}
