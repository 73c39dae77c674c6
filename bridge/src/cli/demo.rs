//! `clbridge demo`: see it work, on any machine.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::demo::{self, Options};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Use this Kafka instead of a mock broker; the names of all topics and groups begin with `clbridge-demo-`
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,
    /// Make records of what happens in this directory instead of playing a file system
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,
    /// How long the workload goes on. Default: 16, with --watch 20
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    demo::run(&Options { broker: args.broker.clone(), watch: args.watch.clone(), seconds: args.seconds }).await
}
