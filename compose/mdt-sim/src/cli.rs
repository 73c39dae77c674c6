//! `mdt-sim serve` and the commands that talk to its control socket.
//! Results are JSON on stdout, so that scripts can read them; messages go to stderr.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use serde_json::json;

use crate::addr::Addr;
use crate::control::Command;
use crate::control::client::Control;
use crate::generation::{self, Generation};
use crate::mask;
use crate::mdt::{Crash, FaultOn, Length, Malformed, MdtConfig};
use crate::oracle::Select;
use crate::server::{Config, Server, UserSpec};
use crate::users::{GcLimits, UsersForm};
use crate::workload::{Plan, Source};

#[derive(Debug, Parser)]
#[command(
    name = "mdt-sim",
    version,
    about = "A simulated Lustre MDT: a stand-in for /dev/changelog-*"
)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Args)]
struct Target {
    /// Control address of the server.
    #[arg(long, env = "MDT_SIM_CONTROL", default_value = "127.0.0.1:7071")]
    control: Addr,
    /// The MDT, FS-MDT0000 (default: all).
    #[arg(long)]
    mdt: Option<String>,
}

#[derive(Debug, Args)]
struct Serve {
    /// Folder of journals and oracle logs.
    #[arg(long)]
    dir: PathBuf,
    /// An MDT's device name; give it as often as there are MDTs.
    #[arg(long = "mdt", default_value = "lustre-MDT0000")]
    mdts: Vec<String>,
    /// Where devices are served: HOST:PORT on loopback or unix:/PATH.
    #[arg(long, default_value = "127.0.0.1:7070")]
    listen: Vec<Addr>,
    /// Where commands are taken.
    #[arg(long, default_value = "127.0.0.1:7071")]
    control: Vec<Addr>,
    /// Milliseconds between commits; 0: only on command.
    #[arg(long, default_value_t = 5000)]
    commit_interval_ms: u64,
    /// Mebibytes of records kept in memory for each MDT.
    #[arg(long, default_value_t = 64)]
    window_mb: usize,
    /// Which Lustre to be: 2.0, 2.4, 2.7, 2.11 or 2.16.
    #[arg(long, default_value = "2.16", value_parser = generation::parse)]
    generation: Generation,
    /// Nanoseconds that skipping an uncleared record costs an open that seeks.
    #[arg(long, default_value_t = 0)]
    seek_cost_ns: u64,
    /// Register a user on each new MDT: empty, NAME, or NAME=MASK, =MASK.
    #[arg(long, num_args = 0..=1, default_missing_value = "")]
    register: Vec<String>,
    /// Make commits wait for the disk.
    #[arg(long)]
    fsync: bool,
    /// Make a directory's activity into records of the first MDT.
    #[arg(long)]
    watch: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Emit {
    #[command(flatten)]
    target: Target,
    /// Records to log, over all MDTs; 0: until `emit-stop`.
    #[arg(long, default_value_t = 0)]
    total: u64,
    /// Records a second; 0: as fast as it goes.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Records a second during a burst.
    #[arg(long, default_value_t = 0)]
    burst_rate: u64,
    /// A burst begins so often.
    #[arg(long, default_value_t = 0)]
    burst_every_ms: u64,
    /// A burst lasts so long.
    #[arg(long, default_value_t = 0)]
    burst_ms: u64,
    /// The same seed plays the same operations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Files that exist at a time, at most.
    #[arg(long, default_value_t = 50_000)]
    max_files: usize,
    /// Return at once.
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Serve simulated MDTs until SIGTERM or SIGINT; prints one JSON line with its addresses when it is ready.
    Serve(Serve),
    /// Play a workload.
    Emit(Emit),
    /// End the workloads.
    EmitStop(Target),
    /// Log the records of a capture file (.bin, .bin.gz), which the server reads.
    Replay {
        #[command(flatten)]
        target: Target,
        /// The file.
        file: PathBuf,
        /// With its own indexes and times.
        #[arg(long)]
        keep: bool,
        /// How often, with new indexes and times.
        #[arg(long, default_value_t = 1)]
        loops: u64,
        /// Records a second; 0: as fast as it goes.
        #[arg(long, default_value_t = 0)]
        rate: u64,
    },
    /// Make a directory's activity into records.
    Watch {
        #[command(flatten)]
        target: Target,
        /// The directory, on the server's machine.
        dir: PathBuf,
    },
    /// Print changelog_users.
    Users {
        #[command(flatten)]
        target: Target,
        /// In the form of another Lustre.
        #[arg(long)]
        form: Option<UsersForm>,
    },
    /// changelog_register.
    Register {
        #[command(flatten)]
        target: Target,
        /// Name of the user.
        #[arg(short = 'u', long)]
        name: Option<String>,
        /// Its own mask, as in CREAT,UNLNK.
        #[arg(short, long)]
        mask: Option<String>,
    },
    /// changelog_deregister.
    Deregister {
        #[command(flatten)]
        target: Target,
        /// cl1, cl2-NAME or NAME.
        user: String,
        /// As the server itself does to idle users.
        #[arg(long)]
        forced: bool,
    },
    /// changelog_mask.
    Mask {
        #[command(flatten)]
        target: Target,
        /// ALL or names.
        mask: String,
        /// As with -P: a restart keeps it.
        #[arg(long)]
        keep: bool,
    },
    /// Print figures.
    Stats(Target),
    /// Print the names of the MDTs.
    Mdts(Target),
    /// Commit now.
    Commit(Target),
    /// Set the time between commits.
    CommitInterval {
        #[command(flatten)]
        target: Target,
        /// Milliseconds; 0: only on command.
        ms: u64,
    },
    /// Crash: what was not committed is taken back, its indexes are used again.
    Crash {
        #[command(flatten)]
        target: Target,
        /// Seconds until the MDT is back.
        #[arg(long, default_value_t = 0.0)]
        during_down: f64,
        /// Evict the clients.
        #[arg(long)]
        evict: bool,
        /// Share of the lost records that come back with a new time, 0 to 1.
        #[arg(long, default_value_t = 0.5)]
        replay: f64,
        /// How long the new log is.
        #[arg(long, default_value = "equal")]
        length: Length,
    },
    /// An orderly restart: reads and clears wait.
    Down {
        #[command(flatten)]
        target: Target,
        /// Seconds until the MDT is back.
        seconds: f64,
        /// Evict the clients.
        #[arg(long)]
        evict: bool,
    },
    /// Make the next calls fail.
    Fault {
        #[command(flatten)]
        target: Target,
        /// EIO, EAGAIN, ENODEV, ENOENT, EINVAL, EINPROGRESS or a number.
        #[arg(value_parser = errno)]
        errno: i32,
        /// Which calls.
        #[arg(long, default_value = "read")]
        on: FaultOn,
        /// How many; else until reset-faults.
        #[arg(long)]
        times: Option<u64>,
    },
    /// Slow reads.
    Slow {
        #[command(flatten)]
        target: Target,
        /// Milliseconds added to each read.
        #[arg(long, default_value_t = 0)]
        delay_ms: u64,
        /// Most records in a read; 0: no limit.
        #[arg(long, default_value_t = 0)]
        records: u32,
    },
    /// Serve a record malformed.
    Malform {
        #[command(flatten)]
        target: Target,
        /// Its index.
        index: u64,
        /// What is wrong with it.
        #[arg(long, default_value = "length")]
        how: Malformed,
    },
    /// Take all faults away.
    ResetFaults(Target),
    /// Cut connections.
    Disconnect(Target),
    /// A gap: records up to this index are gone, cleared or not.
    Purge {
        #[command(flatten)]
        target: Target,
        /// The last index that is gone.
        upto: u64,
    },
    /// The log begins anew, from index 1.
    Reset {
        #[command(flatten)]
        target: Target,
        /// Keep the users, at index 0.
        #[arg(long)]
        keep_users: bool,
    },
    /// When idle users are removed by force.
    Gc {
        #[command(flatten)]
        target: Target,
        /// changelog_max_idle_time, seconds.
        #[arg(long, default_value_t = GcLimits::default().max_idle_s)]
        max_idle_s: u64,
        /// changelog_max_idle_indexes.
        #[arg(long, default_value_t = GcLimits::default().max_idle_indexes)]
        max_idle_indexes: u64,
        /// changelog_min_gc_interval, seconds.
        #[arg(long, default_value_t = GcLimits::default().min_interval_s)]
        min_interval_s: u64,
    },
    /// Make users look idle for longer.
    AgeUsers {
        #[command(flatten)]
        target: Target,
        /// By so many seconds.
        seconds: u64,
    },
    /// Print the oracle log as JSON lines, from the server or from its folder.
    Oracle {
        #[command(flatten)]
        target: Target,
        /// Only records that were never taken back.
        #[arg(long, conflicts_with = "select")]
        surviving: bool,
        /// What to print.
        #[arg(long, default_value = "all")]
        select: Select,
        /// Read the files of this server folder instead of asking a server.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

fn errno(text: &str) -> Result<i32, String> {
    Ok(match text {
        "EIO" => libc::EIO,
        "EAGAIN" => libc::EAGAIN,
        "ENODEV" => libc::ENODEV,
        "ENOENT" => libc::ENOENT,
        "EINVAL" => libc::EINVAL,
        "EINPROGRESS" => libc::EINPROGRESS,
        number => number
            .parse()
            .map_err(|_| format!("`{number}` is no errno that mdt-sim knows"))?,
    })
}

/// Runs the command line of this process.
///
/// # Errors
/// What went wrong, for people.
pub fn run() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MDT_SIM_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    match Cli::parse().command {
        Sub::Serve(serve) => run_server(&serve),
        Sub::Oracle {
            target,
            surviving,
            select,
            dir,
        } => {
            let select = if surviving { Select::Surviving } else { select };
            print_oracle(&target, select, dir)
        }
        Sub::Users { target, form } => {
            let mut control = Control::connect(&target.control)?;
            let result = control.call(&Command::Users {
                mdt: target.mdt,
                form,
            })?;
            for (mdt, users) in result.as_object().into_iter().flatten() {
                print!(
                    "mdd.{mdt}.changelog_users=\n{}",
                    users["text"].as_str().unwrap_or_default()
                );
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
            (
                e.target.control,
                Command::Emit {
                    plan,
                    wait: !e.detach,
                },
            )
        }
        Sub::EmitStop(t) => (t.control, Command::EmitStop),
        Sub::Replay {
            target: t,
            file,
            keep,
            loops,
            rate,
        } => {
            let file = file
                .canonicalize()
                .with_context(|| format!("capture {}", file.display()))?;
            (
                t.control,
                Command::Replay {
                    mdt: t.mdt,
                    file,
                    keep,
                    loops: Some(loops),
                    rate: Some(rate),
                },
            )
        }
        Sub::Watch { target: t, dir } => {
            let dir = dir
                .canonicalize()
                .with_context(|| format!("directory {}", dir.display()))?;
            (t.control, Command::Watch { mdt: t.mdt, dir })
        }
        Sub::Register {
            target: t,
            name,
            mask,
        } => (
            t.control,
            Command::Register {
                mdt: t.mdt,
                name,
                mask,
            },
        ),
        Sub::Deregister {
            target: t,
            user,
            forced,
        } => (
            t.control,
            Command::Deregister {
                mdt: t.mdt,
                user,
                forced,
            },
        ),
        Sub::Mask {
            target: t,
            mask,
            keep,
        } => (
            t.control,
            Command::Mask {
                mdt: t.mdt,
                mask,
                keep,
            },
        ),
        Sub::Stats(t) => (t.control, Command::Stats { mdt: t.mdt }),
        Sub::Mdts(t) => (t.control, Command::Mdts),
        Sub::Commit(t) => (t.control, Command::Commit { mdt: t.mdt }),
        Sub::CommitInterval { target: t, ms } => {
            (t.control, Command::CommitInterval { mdt: t.mdt, ms })
        }
        Sub::Crash {
            target: t,
            during_down,
            evict,
            replay,
            length,
        } => (
            t.control,
            Command::Crash {
                mdt: t.mdt,
                how: Crash {
                    down_s: during_down,
                    evict,
                    replay,
                    length,
                },
            },
        ),
        Sub::Down {
            target: t,
            seconds,
            evict,
        } => (
            t.control,
            Command::Down {
                mdt: t.mdt,
                seconds,
                evict,
            },
        ),
        Sub::Fault {
            target: t,
            errno,
            on,
            times,
        } => (
            t.control,
            Command::Fault {
                mdt: t.mdt,
                on,
                errno,
                times,
            },
        ),
        Sub::Slow {
            target: t,
            delay_ms,
            records,
        } => (
            t.control,
            Command::Slow {
                mdt: t.mdt,
                delay_ms,
                records,
            },
        ),
        Sub::Malform {
            target: t,
            index,
            how,
        } => (
            t.control,
            Command::Malform {
                mdt: t.mdt,
                index,
                how,
            },
        ),
        Sub::ResetFaults(t) => (t.control, Command::ResetFaults { mdt: t.mdt }),
        Sub::Disconnect(t) => (t.control, Command::Disconnect { mdt: t.mdt }),
        Sub::Purge { target: t, upto } => (t.control, Command::Purge { mdt: t.mdt, upto }),
        Sub::Reset {
            target: t,
            keep_users,
        } => (
            t.control,
            Command::Reset {
                mdt: t.mdt,
                keep_users,
            },
        ),
        Sub::Gc {
            target: t,
            max_idle_s,
            max_idle_indexes,
            min_interval_s,
        } => (
            t.control,
            Command::Gc {
                mdt: t.mdt,
                limits: GcLimits {
                    max_idle_s,
                    max_idle_indexes,
                    min_interval_s,
                },
            },
        ),
        Sub::AgeUsers { target: t, seconds } => (
            t.control,
            Command::AgeUsers {
                mdt: t.mdt,
                seconds,
            },
        ),
        Sub::Serve(_) | Sub::Users { .. } | Sub::Oracle { .. } => {
            bail!("this command sends no request")
        }
    })
}

fn print_oracle(target: &Target, select: Select, dir: Option<PathBuf>) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match dir {
        None => {
            Control::connect(&target.control)?.oracle(target.mdt.as_deref(), select, |line| {
                writeln!(out, "{line}")
            })?;
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
                bail!(
                    "{} holds no oracle log of {}",
                    dir.display(),
                    target.mdt.as_deref().unwrap_or("any MDT")
                );
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
    Ok(UserSpec {
        name: (!name.is_empty()).then(|| name.to_owned()),
        mask: own,
    })
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
        register: serve
            .register
            .iter()
            .map(|u| user(u))
            .collect::<Result<_, _>>()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
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
