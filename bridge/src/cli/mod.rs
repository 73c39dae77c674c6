//! The command line: one file a command. What a command does is in the library behind it; here are its words.
//!
//! Results go to standard output, everything else to standard error. Exit status: 0 done, 1 not done (with the reason),
//! 2 the command line itself is wrong.

mod broker;
mod check;
mod consume;
mod decode;
mod demo;
mod groups;
mod position;
mod reset;
mod run;
mod schemas;
mod status;
mod table;
#[cfg(test)]
pub(crate) mod testing;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::config::{Config, LogFormat};

/// Where the configuration is looked for if none is named.
const DEFAULT_CONFIG: &str = "/etc/clbridge/clbridge.toml";

/// Publishes Lustre changelogs to a message broker, and clears what every group has acknowledged.
#[derive(Debug, Parser)]
#[command(name = "clbridge", version, about, max_term_width = 100)]
pub struct Cli {
    /// Configuration file, TOML; may be given several times, a later one over an earlier one.
    /// Default: /etc/clbridge/clbridge.toml if it exists. CLBRIDGE_… variables override every key.
    #[arg(short, long, global = true, env = "CLBRIDGE_CONFIG", value_name = "FILE", value_delimiter = ':')]
    config: Vec<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the bridge until SIGTERM or SIGINT
    Run(run::Args),
    /// Validate the configuration, try the connections, print what is still to be typed on the MDS
    Check(check::Args),
    /// Show the running bridge's MDTs and groups
    Status(status::Args),
    /// Add, remove, list, accept or repair persistent groups
    #[command(subcommand)]
    Groups(groups::Command),
    /// Take records as a member of a group and print them
    Consume(consume::Args),
    /// Print the records in a file of changelog bytes as `lfs changelog` does
    Decode(decode::Args),
    /// Show where a record lies and which groups have read it
    Where(position::Args),
    /// List the Avro schemas, or print one
    Schemas(schemas::Args),
    /// Begin a stopped MDT anew, at its oldest record, as a new incarnation
    Reset(reset::Args),
    /// See it work, on any sink: simulated MDTs, groups, a kill, a crash, a verdict
    Demo(demo::Args),
}

impl Cli {
    fn config(&self) -> anyhow::Result<Arc<Config>> {
        let files = if self.config.is_empty() && Path::new(DEFAULT_CONFIG).exists() {
            vec![PathBuf::from(DEFAULT_CONFIG)]
        } else {
            self.config.clone()
        };
        Ok(Arc::new(Config::load(&files, environment())?))
    }
}

/// The variables that are text; a name or value that is not cannot be one of ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("clbridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Decode(args) => decode::run(args),
        Command::Schemas(args) => schemas::run(args),
        Command::Status(args) => status::run(args, || cli.config()),
        Command::Run(args) => block_on(run::run(args, cli.config()?)),
        Command::Check(args) => block_on(check::run(args, cli.config()?)),
        Command::Groups(command) => block_on(groups::run(command, cli.config()?)),
        Command::Consume(args) => block_on(consume::run(args, cli.config()?)),
        Command::Where(args) => block_on(position::run(args, cli.config()?)),
        Command::Reset(args) => block_on(reset::run(args, cli.config()?)),
        Command::Demo(args) => block_on(demo::run(args)),
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A broker client's thread may be in a call that takes its time-out; nobody waits for its answer any more.
    runtime.shutdown_background();
    result
}

/// Logs go to standard error.
fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(&config.log.filter).context("configuration key `log.filter`")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|e| anyhow::anyhow!("logging cannot be started: {e}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
