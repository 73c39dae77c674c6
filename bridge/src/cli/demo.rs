//! `clbridge demo`: see it work, on any machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use crate::demo::place::Show;
use crate::demo::{self, Options};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where records go
    #[arg(long, value_enum, default_value_t = Show::Kafka)]
    sink: Show,
    /// A real broker: HOST:PORT, for RabbitMQ also amqp://USER:PASSWORD@HOST:PORT/VHOST. All names there begin with
    /// `clb-demo-` and are deleted at the end
    #[arg(long, value_name = "ADDRESS")]
    broker: Option<String>,
    /// Make records of what happens in this directory instead of playing a file system
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,
    /// How long the workload goes on. Default: 16, with --watch 20
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Err(why) = args.sink.check(args.broker.as_deref()) {
        super::Cli::command().error(ErrorKind::ArgumentConflict, why).exit();
    }
    let Args { sink, broker, watch, seconds } = args;
    demo::run(&Options { sink: *sink, broker: broker.clone(), watch: watch.clone(), seconds: *seconds }).await
}
