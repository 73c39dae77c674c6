//! `mdt-sim serve` and the commands that talk to its control socket.
//! Results are JSON on stdout, so that scripts can read them; messages go to stderr.

mod args;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use serde_json::json;

use crate::addr::Addr;
use crate::control::Command;
use crate::control::client::Control;
use crate::mask;
use crate::mdt::{Crash, MdtConfig};
use crate::oracle::Select;
use crate::server::{Config, Server, UserSpec};
use crate::users::GcLimits;
use crate::workload::{Plan, Source};
use args::{Cli, Serve, Sub, Target};

/// Runs the command line of this process.
///
/// # Errors
/// What went wrong, for people.
pub fn run() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("MDT_SIM_LOG").unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();
    match Cli::parse().command {
        Sub::Serve(serve) => run_server(&serve),
        Sub::Oracle { target, surviving, select, dir } => {
            let select = if surviving { Select::Surviving } else { select };
            print_oracle(&target, select, dir)
        }
        Sub::Users { target, form } => {
            let mut control = Control::connect(&target.control)?;
            let result = control.call(&Command::Users { mdt: target.mdt, form })?;
            for (mdt, users) in result.as_object().into_iter().flatten() {
                print!("mdd.{mdt}.changelog_users=\n{}", users["text"].as_str().unwrap_or_default());
            }
            Ok(())
        }
        other => {
            let (control, command) = request(other)?;
            let result = Control::connect(&control)?.call(&command)?;
            if !result.is_null() {
                println!("{result}");
            }
            Ok(())
        }
    }
}

fn request(sub: Sub) -> anyhow::Result<(Addr, Command)> {
    Ok(match sub {
        Sub::Emit(e) => {
            if e.target.mdt.is_some() {
                bail!("emit plays a workload over all MDTs; leave --mdt out");
            }
            let plan = Plan {
                total: e.total,
                rate: e.rate,
                burst_rate: e.burst_rate,
                burst_every_ms: e.burst_every_ms,
                burst_ms: e.burst_ms,
                seed: e.seed,
                max_files: e.max_files,
            };
            (e.target.control, Command::Emit { plan, wait: !e.detach })
        }
        Sub::EmitStop(t) => (t.control, Command::EmitStop),
        Sub::Replay { target: t, file, keep, loops, rate } => {
            let file = file.canonicalize().with_context(|| format!("capture {}", file.display()))?;
            (t.control, Command::Replay { mdt: t.mdt, file, keep, loops: Some(loops), rate: Some(rate) })
        }
        Sub::Watch { target: t, dir } => {
            let dir = dir.canonicalize().with_context(|| format!("directory {}", dir.display()))?;
            (t.control, Command::Watch { mdt: t.mdt, dir })
        }
        Sub::Register { target: t, name, mask } => (t.control, Command::Register { mdt: t.mdt, name, mask }),
        Sub::Deregister { target: t, user, forced } => (t.control, Command::Deregister { mdt: t.mdt, user, forced }),
        Sub::Mask { target: t, mask, keep } => (t.control, Command::Mask { mdt: t.mdt, mask, keep }),
        Sub::Stats(t) => (t.control, Command::Stats { mdt: t.mdt }),
        Sub::Mdts(t) => (t.control, Command::Mdts),
        Sub::Commit(t) => (t.control, Command::Commit { mdt: t.mdt }),
        Sub::CommitInterval { target: t, ms } => (t.control, Command::CommitInterval { mdt: t.mdt, ms }),
        Sub::Crash { target: t, during_down, evict, replay, length } => {
            (t.control, Command::Crash { mdt: t.mdt, how: Crash { down_s: during_down, evict, replay, length } })
        }
        Sub::Down { target: t, seconds, evict } => (t.control, Command::Down { mdt: t.mdt, seconds, evict }),
        Sub::Fault { target: t, errno, on, times } => (t.control, Command::Fault { mdt: t.mdt, on, errno, times }),
        Sub::Slow { target: t, delay_ms, records } => (t.control, Command::Slow { mdt: t.mdt, delay_ms, records }),
        Sub::Malform { target: t, index, how } => (t.control, Command::Malform { mdt: t.mdt, index, how }),
        Sub::ResetFaults(t) => (t.control, Command::ResetFaults { mdt: t.mdt }),
        Sub::Disconnect(t) => (t.control, Command::Disconnect { mdt: t.mdt }),
        Sub::Purge { target: t, upto } => (t.control, Command::Purge { mdt: t.mdt, upto }),
        Sub::Reset { target: t, keep_users } => (t.control, Command::Reset { mdt: t.mdt, keep_users }),
        Sub::Gc { target: t, max_idle_s, max_idle_indexes, min_interval_s } => {
            (t.control, Command::Gc { mdt: t.mdt, limits: GcLimits { max_idle_s, max_idle_indexes, min_interval_s } })
        }
        Sub::AgeUsers { target: t, seconds } => (t.control, Command::AgeUsers { mdt: t.mdt, seconds }),
        Sub::Serve(_) | Sub::Users { .. } | Sub::Oracle { .. } => {
            bail!("this command sends no request")
        }
    })
}

fn print_oracle(target: &Target, select: Select, dir: Option<PathBuf>) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match dir {
        None => {
            Control::connect(&target.control)?.oracle(target.mdt.as_deref(), select, |line| writeln!(out, "{line}"))?;
        }
        Some(dir) => {
            let mut found = 0;
            let mut entries: Vec<_> = std::fs::read_dir(&dir)
                .with_context(|| format!("server folder {}", dir.display()))?
                .collect::<Result<_, _>>()?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = entry.path().join("oracle");
                if path.is_file() && target.mdt.as_deref().is_none_or(|m| m == name) {
                    found += 1;
                    crate::oracle::export(&path, &name, select, |line| writeln!(out, "{line}"))?;
                }
            }
            if found == 0 {
                bail!("{} holds no oracle log of {}", dir.display(), target.mdt.as_deref().unwrap_or("any MDT"));
            }
        }
    }
    out.flush()?;
    Ok(())
}

fn user(text: &str) -> anyhow::Result<UserSpec> {
    let (name, own) = match text.split_once('=') {
        Some((name, own)) => (name, Some(mask::parse(own).map_err(anyhow::Error::msg)?)),
        None => (text, None),
    };
    Ok(UserSpec { name: (!name.is_empty()).then(|| name.to_owned()), mask: own })
}

fn run_server(serve: &Serve) -> anyhow::Result<()> {
    let mdts = serve
        .mdts
        .iter()
        .map(|name| MdtConfig {
            commit_interval: Duration::from_millis(serve.commit_interval_ms),
            window: serve.window_mb << 20,
            fsync: serve.fsync,
            generation: serve.generation,
            seek_cost: Duration::from_nanos(serve.seek_cost_ns),
            ..MdtConfig::new(name, &serve.dir)
        })
        .collect();
    let config = Config {
        mdts,
        listen: serve.listen.clone(),
        control: serve.control.clone(),
        register: serve.register.iter().map(|u| user(u)).collect::<Result<_, _>>()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        // Before anything is said to be ready: whoever reads that line may send a signal at once.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let server = Server::start(&config)?;
        if let (Some(dir), Some(first)) = (&serve.watch, serve.mdts.first().and_then(|m| server.mdt(m))) {
            server.jobs().start(Source::Watch(dir.clone()), vec![first.clone()])?;
        }
        let text = |addrs: &[Addr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        println!("{}", json!({"data": text(server.data_addrs()), "control": text(server.control_addrs()), "pid": std::process::id()}));
        std::io::stdout().flush()?;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        server.stop()?;
        anyhow::Ok(())
    })
}
