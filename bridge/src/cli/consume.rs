//! `clbridge consume`: a member of a group, or an ephemeral reader, that prints what it takes.

use std::io::{self, BufWriter};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{MdtSelection, Subscription};
use tokio::signal::unix::{SignalKind, signal};

use crate::assembly;
use crate::config::Config;
use crate::consume::{Format, Output, Selection, consume};
use crate::modules::TypeSet;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The group whose member this is; the broker shares the records out among a group's members
    #[arg(long, required_unless_present = "ephemeral", conflicts_with = "ephemeral")]
    group: Option<String>,
    /// See only what comes from now on, leave nothing behind and hold nothing back
    #[arg(long)]
    ephemeral: bool,
    /// Only this MDT; may be given several times. Every member of a group should name the same
    #[arg(long, value_name = "FS-MDTxxxx")]
    mdt: Vec<MdtName>,
    /// The feed to take. Default: the default feed
    #[arg(long)]
    feed: Option<String>,
    /// Print only these types; MARK is always printed. The others are acknowledged
    #[arg(long, value_name = "CREAT,UNLNK,…", value_delimiter = ',')]
    types: Vec<String>,
    /// In which form
    #[arg(long, value_enum, default_value_t = Format::Lfs)]
    format: Format,
    /// End after this many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// With --ephemeral: wait for transactions, so that nothing is seen that is then taken back
    #[arg(long, requires = "ephemeral")]
    committed: bool,
}

const OUT_BUFFER: usize = 1 << 16;

pub(super) async fn run(args: &Args, config: Arc<Config>) -> anyhow::Result<ExitCode> {
    super::start_log(&config)?;
    let select = Selection {
        types: if args.types.is_empty() { TypeSet::ALL } else { TypeSet::of_names(&args.types).context("--types")? },
        mdts: args.mdt.clone(),
        max: args.max,
    };
    let what = Subscription {
        mdts: if args.mdt.is_empty() { MdtSelection::All } else { MdtSelection::List(args.mdt.clone()) },
        feed: args.feed.clone(),
    };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // A consumer runs anywhere: neither MDTs nor their number matter here.
    let sink = assembly::sink_for(&config, 1)?;
    let group = args.group.clone();
    let uncommitted = !args.committed;
    let mut consumer = tokio::task::spawn_blocking(move || match group {
        Some(group) => sink.consumer(&group, &what),
        None => sink.ephemeral(&what, uncommitted),
    })
    .await??;
    let output = Output::new(args.format, Box::new(BufWriter::with_capacity(OUT_BUFFER, io::stdout())))?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    consume(consumer.as_mut(), output, select, stop).await?;
    // Leaving the group takes a moment and blocks.
    tokio::task::spawn_blocking(move || drop(consumer)).await?;
    Ok(ExitCode::SUCCESS)
}
