//! The control socket: JSON lines, one command a line, one answer a line (the oracle's export streams its lines).
//! It takes commands from loopback only, and a command that fails says what to do instead of half of what was asked.

pub mod client;
mod commands;

use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::addr::Stream;
use crate::mdt::{Crash, FaultOn, Malformed};
use crate::oracle::Select;
use crate::server::Shared;
use crate::users::{GcLimits, UsersForm};
use crate::workload::Plan;

/// A command. `mdt` left out means every MDT of the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Command {
    /// The names of the MDTs.
    Mdts,
    /// Figures of each.
    #[allow(missing_docs)]
    Stats { mdt: Option<String> },
    /// The text of `changelog_users`, and the users.
    #[allow(missing_docs)]
    Users { mdt: Option<String>, form: Option<UsersForm> },
    /// `changelog_register`.
    #[allow(missing_docs)]
    Register { mdt: Option<String>, name: Option<String>, mask: Option<String> },
    /// `changelog_deregister`; `forced` notes it as the server's own doing.
    #[allow(missing_docs)]
    Deregister {
        mdt: Option<String>,
        user: String,
        #[serde(default)]
        forced: bool,
    },
    /// `changelog_mask`; `keep` as with `-P`.
    #[allow(missing_docs)]
    Mask {
        mdt: Option<String>,
        mask: String,
        #[serde(default)]
        keep: bool,
    },
    /// Commit now.
    #[allow(missing_docs)]
    Commit { mdt: Option<String> },
    /// Time between commits, milliseconds; 0: only on command.
    #[allow(missing_docs)]
    CommitInterval { mdt: Option<String>, ms: u64 },
    /// Plays a workload; `wait` answers when it is done, else at once.
    #[allow(missing_docs)]
    Emit {
        #[serde(default)]
        plan: Plan,
        #[serde(default)]
        wait: bool,
    },
    /// Ends the workloads.
    EmitStop,
    /// Logs a capture's records: `loops` times; with `keep` once, with its own indexes and times.
    #[allow(missing_docs)]
    Replay {
        mdt: Option<String>,
        file: PathBuf,
        #[serde(default)]
        keep: bool,
        loops: Option<u64>,
        rate: Option<u64>,
    },
    /// Makes a directory's activity into records, until the workloads are ended.
    #[allow(missing_docs)]
    Watch { mdt: Option<String>, dir: PathBuf },
    /// A crash that takes back what was not committed.
    #[allow(missing_docs)]
    Crash {
        mdt: Option<String>,
        #[serde(flatten)]
        how: Crash,
    },
    /// An orderly restart.
    #[allow(missing_docs)]
    Down {
        mdt: Option<String>,
        seconds: f64,
        #[serde(default)]
        evict: bool,
    },
    /// Errors for the next calls; without `times` until reset.
    #[allow(missing_docs)]
    Fault { mdt: Option<String>, on: FaultOn, errno: i32, times: Option<u64> },
    /// Slow reads; 0 and 0 ends them.
    #[allow(missing_docs)]
    Slow { mdt: Option<String>, delay_ms: u64, records: u32 },
    /// A record served malformed.
    #[allow(missing_docs)]
    Malform { mdt: Option<String>, index: u64, how: Malformed },
    /// Takes all faults away.
    #[allow(missing_docs)]
    ResetFaults { mdt: Option<String> },
    /// Cuts the connections.
    #[allow(missing_docs)]
    Disconnect { mdt: Option<String> },
    /// A gap: records up to here are gone, cleared or not.
    #[allow(missing_docs)]
    Purge { mdt: Option<String>, upto: u64 },
    /// The log is made anew, from index 1.
    #[allow(missing_docs)]
    Reset { mdt: Option<String>, keep_users: bool },
    /// When idle users are removed by force.
    #[allow(missing_docs)]
    Gc {
        mdt: Option<String>,
        #[serde(flatten)]
        limits: GcLimits,
    },
    /// Makes users look idle for longer.
    #[allow(missing_docs)]
    AgeUsers { mdt: Option<String>, seconds: u64 },
    /// Cost of skipping one uncleared record at a seek, nanoseconds.
    #[allow(missing_docs)]
    SeekCost { mdt: Option<String>, ns: u64 },
    /// The oracle log as JSON lines.
    #[allow(missing_docs)]
    Oracle {
        mdt: Option<String>,
        #[serde(default)]
        select: Select,
    },
}

/// Serves one control connection.
pub(crate) fn serve(shared: &Arc<Shared>, stream: Stream) -> io::Result<()> {
    let id = shared.enter(&stream)?;
    let result = lines(shared, stream);
    shared.leave(id);
    result
}

fn lines(shared: &Arc<Shared>, stream: Stream) -> io::Result<()> {
    let mut output = BufWriter::new(stream.try_clone()?);
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = match serde_json::from_str(&line) {
            Err(e) => refusal(&format!("not a command: {e}")),
            Ok(Command::Oracle { mdt, select }) => {
                match commands::oracle(shared, mdt.as_deref(), select, &mut output) {
                    Ok(lines) => format!(r#"{{"ok":true,"lines":{lines}}}"#),
                    Err(e) => refusal(&e),
                }
            }
            Ok(command) => match commands::execute(shared, command) {
                Ok(result) => format!(r#"{{"ok":true,"result":{result}}}"#),
                Err(e) => refusal(&e),
            },
        };
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

/// `ok` comes first in every answer, so that a reader of a stream knows the last line by its first bytes.
fn refusal(why: &impl ToString) -> String {
    format!(r#"{{"ok":false,"error":{}}}"#, Value::String(why.to_string()))
}
