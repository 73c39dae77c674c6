//! The words of the command line; what they do stands in [`super`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::addr::Addr;
use crate::generation::{self, Generation};
use crate::mdt::{FaultOn, Length, Malformed};
use crate::oracle::Select;
use crate::users::{GcLimits, UsersForm};

#[derive(Debug, Parser)]
#[command(name = "mdt-sim", version, about = "A simulated Lustre MDT: a stand-in for /dev/changelog-*")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Sub,
}

#[derive(Debug, Args)]
pub(super) struct Target {
    /// Control address of the server.
    #[arg(long, env = "MDT_SIM_CONTROL", default_value = "127.0.0.1:7071")]
    pub(super) control: Addr,
    /// The MDT, FS-MDT0000 (default: all).
    #[arg(long)]
    pub(super) mdt: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Folder of journals and oracle logs.
    #[arg(long)]
    pub(super) dir: PathBuf,
    /// An MDT's device name; give it as often as there are MDTs.
    #[arg(long = "mdt", default_value = "lustre-MDT0000")]
    pub(super) mdts: Vec<String>,
    /// Where devices are served: HOST:PORT on loopback or unix:/PATH.
    #[arg(long, default_value = "127.0.0.1:7070")]
    pub(super) listen: Vec<Addr>,
    /// Where commands are taken.
    #[arg(long, default_value = "127.0.0.1:7071")]
    pub(super) control: Vec<Addr>,
    /// Milliseconds between commits; 0: only on command.
    #[arg(long, default_value_t = 5000)]
    pub(super) commit_interval_ms: u64,
    /// Mebibytes of records kept in memory for each MDT.
    #[arg(long, default_value_t = 64)]
    pub(super) window_mb: usize,
    /// Which Lustre to be: 2.0, 2.4, 2.7, 2.11 or 2.16.
    #[arg(long, default_value = "2.16", value_parser = generation::parse)]
    pub(super) generation: Generation,
    /// Nanoseconds that skipping an uncleared record costs an open that seeks.
    #[arg(long, default_value_t = 0)]
    pub(super) seek_cost_ns: u64,
    /// Register a user on each new MDT: empty, NAME, or NAME=MASK, =MASK.
    #[arg(long, num_args = 0..=1, default_missing_value = "")]
    pub(super) register: Vec<String>,
    /// Make commits wait for the disk.
    #[arg(long)]
    pub(super) fsync: bool,
    /// Make a directory's activity into records of the first MDT.
    #[arg(long)]
    pub(super) watch: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Emit {
    #[command(flatten)]
    pub(super) target: Target,
    /// Records to log, over all MDTs; 0: until `emit-stop`.
    #[arg(long, default_value_t = 0)]
    pub(super) total: u64,
    /// Records a second; 0: as fast as it goes.
    #[arg(long, default_value_t = 1000)]
    pub(super) rate: u64,
    /// Records a second during a burst.
    #[arg(long, default_value_t = 0)]
    pub(super) burst_rate: u64,
    /// A burst begins so often.
    #[arg(long, default_value_t = 0)]
    pub(super) burst_every_ms: u64,
    /// A burst lasts so long.
    #[arg(long, default_value_t = 0)]
    pub(super) burst_ms: u64,
    /// The same seed plays the same operations.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Files that exist at a time, at most.
    #[arg(long, default_value_t = 50_000)]
    pub(super) max_files: usize,
    /// Return at once.
    #[arg(long)]
    pub(super) detach: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Sub {
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
        number => number.parse().map_err(|_| format!("`{number}` is no errno that mdt-sim knows"))?,
    })
}
