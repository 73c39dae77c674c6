//! `clbridge demo`: the whole way of a record on one machine, with things going wrong, and a verdict.
//!
//! Simulated MDTs, a place where records go, the bridge, members that are processes of their own; one of them is killed,
//! an MDT crashes; then everything has to be cleared, and is judged record by record. It uses the bridge as `run` does and
//! has no way into it: what it knows of it is `status`. All sinks are shown and judged by the same code; what differs is
//! what each one declares.

pub mod mdts;
pub mod member;
pub mod names;
pub mod place;
pub mod screen;
mod stage;
pub mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clbridge_sinks::Capabilities;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use mdts::{Mdts, Workload};
use place::{Place, Show};
use screen::Screen;
use stage::Stage;
use verdict::Verdict;

/// The persistent groups and how many members each has.
const GROUPS: [(&str, usize); 2] = [("robinhood", 3), ("lake", 1)];
/// Records over both MDTs that the mock cluster surely holds: it drops beyond 5 MiB a partition, and 15,000 records
/// of an MDT over four partitions take about 1 MiB each at their longest usual size.
const MOCK_TOTAL: u64 = 30_000;
/// How long the workload goes on, seconds.
const GENERATE_S: u64 = 16;
/// How long a directory is watched, seconds.
const WATCH_S: u64 = 20;

/// The members' configuration, in the run's folder.
const MEMBERS: &str = "members.toml";

/// What can be chosen.
#[derive(Clone, Default)]
pub struct Options {
    /// The sink that is shown.
    pub sink: Show,
    /// Address of a real broker. Kafka without one is a mock cluster.
    pub broker: Option<String>,
    /// A real directory instead of the generator.
    pub watch: Option<PathBuf>,
    /// How long the workload goes on.
    pub seconds: Option<u64>,
}

impl Options {
    fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.watch.is_some() { WATCH_S } else { GENERATE_S }).max(1)
    }

    /// Records a second over both MDTs that the members keep up with on a small machine.
    fn rate(&self) -> u64 {
        match self.sink {
            Show::Kafka | Show::Files => 2_400,
            Show::Nats => 2_000,
            Show::Amqp => 1_000,
        }
    }

    fn workload(&self) -> Workload {
        match &self.watch {
            Some(dir) => Workload::Watched(dir.clone()),
            None if self.sink == Show::Kafka && self.broker.is_none() => {
                Workload::Generated { rate: self.rate().min(MOCK_TOTAL / self.seconds()).max(1), total: MOCK_TOTAL }
            }
            None => Workload::Generated { rate: self.rate(), total: 0 },
        }
    }
}

/// Runs the demonstration. Exit status 0 if the verdict is good, else 1.
///
/// # Errors
/// It could not be carried out.
pub async fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let dir = tempfile::Builder::new().prefix("clbridge-demo-").tempdir()?;
    log_to(&dir.path().join("bridge.log"))?;
    let mut screen = Screen::new();
    let outcome = play(options, dir.path(), &mut screen).await;
    let good = matches!(&outcome, Ok(verdict) if verdict.problems.is_empty());
    if !good {
        // The members' configuration has the broker's address, which may hold a password.
        let _ = std::fs::remove_file(dir.path().join(MEMBERS));
        screen.say(&format!("The logs of the bridge and of the members are in {}", dir.keep().display()))?;
    }
    let seconds = screen.elapsed().as_secs_f64();
    let verdict = outcome?;
    if good {
        screen.say(&format!("GOOD: every surviving record reached every persistent group, nothing was cleared early, nothing is left ({seconds:.1} s)"))?;
        return Ok(ExitCode::SUCCESS);
    }
    screen.say(&format!("WRONG ({seconds:.1} s):"))?;
    for problem in &verdict.problems {
        screen.say(&format!("  {problem}"))?;
    }
    Ok(ExitCode::FAILURE)
}

/// The bridge says on its log what it does; the screen is for the story.
fn log_to(file: &Path) -> anyhow::Result<()> {
    let file = std::fs::File::create(file)?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .with_writer(Arc::new(file))
        .with_ansi(false)
        .try_init()
        .map_err(|e| anyhow::anyhow!("logging cannot be started: {e}"))
}

async fn play(options: &Options, dir: &Path, screen: &mut Screen) -> anyhow::Result<Verdict> {
    let interrupted = interruptions()?;
    let mdts = Arc::new(Mdts::start(dir).context("starting the simulated MDTs")?);
    let shown = (options.sink, options.broker.as_deref());
    let place = Place::open(shown, dir, (mdts.names(), mdts.address()), &GROUPS.map(|(name, _)| name)).await?;
    let what = if options.sink == Show::Files { "a folder" } else { "a broker" };
    screen.say(&format!(
        "clbridge demo: two simulated MDTs, {what}, a bridge, two persistent groups and an ephemeral reader."
    ))?;
    for line in place.introduction() {
        screen.say(&line)?;
    }
    place.reach().await?;

    // From here on something may have been made there, and whatever comes, nothing of it stays.
    let acted = act(options, dir, screen, interrupted, &place, mdts).await;
    if let Err(e) = place.tidy().await {
        screen
            .say(&format!("  Left in the broker, under names that begin with `{}`: {e:#}", place.names().prefix()))?;
    }
    acted
}

/// Everything between the first thing that is made in the broker and the verdict.
async fn act(
    options: &Options,
    dir: &Path,
    screen: &mut Screen,
    interrupted: watch::Receiver<bool>,
    place: &Place,
    mdts: Arc<Mdts>,
) -> anyhow::Result<Verdict> {
    let mut stage = Stage::set(screen, place, mdts, interrupted).await?;
    let played = stage.play(options, dir).await;
    // Members and bridge leave in order, also when the rest has failed.
    let left = stage.leave().await;
    let log_starts = played?;
    let evidence = left?.evidence(place, log_starts).await?;
    let verdict = verdict::judge(&evidence);
    tell(screen, &verdict, place.sink().capabilities())?;
    Ok(verdict)
}

/// True once Ctrl-C or SIGTERM came.
fn interruptions() -> anyhow::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell.send_replace(true);
        // Kept, so that whoever asks later is told too.
        tell.closed().await;
    });
    Ok(told)
}

/// Different for every run on a broker: the time in milliseconds and the process, of whose id Linux uses 22 bits, in at most
/// 16 characters.
fn run_id() -> String {
    let milliseconds = mdt_sim::mdt::wall_ns() / 1_000_000;
    format!("{:x}", milliseconds << 22 | u64::from(std::process::id() & 0x3f_ffff))
}

/// The figures behind the verdict.
fn tell(screen: &mut Screen, verdict: &Verdict, sink: Capabilities) -> anyhow::Result<()> {
    screen.say("")?;
    screen.say("Verdict, record by record, against what the simulated MDTs say happened:")?;
    for m in &verdict.mdts {
        screen.say(&format!(
            "  {}: {} records emitted, {} taken back by a crash, {} stand; {} clears carried out, {} refused",
            m.name, m.emitted, m.taken_back, m.surviving, m.clears, m.refused
        ))?;
    }
    for g in &verdict.groups {
        let order = if g.in_order { "order judged" } else { "shared by its members in any order" };
        screen.say(&format!(
            "  {}: wrote out {} different records, {} of them retracted since; {} came more than once; {order}",
            g.name, g.records, g.void, g.repeated
        ))?;
    }
    if !sink.exactly_once {
        let declared = if sink.read_back {
            "a crash of the bridge, of which there was none, may publish records twice"
        } else {
            "a start publishes once more, behind a retraction, what came after State was written, and after an MDT crash what was not yet stable"
        };
        let again: Vec<_> = verdict.groups.iter().map(|g| format!("{} {}", g.name, g.again)).collect();
        screen.say(&format!("  This sink declares: {declared}. Here, of what stands: {}", again.join(", ")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_s_id_fits_into_every_name() {
        let id = run_id();
        assert!((1..=16).contains(&id.len()) && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
    }

    #[test]
    fn the_mock_broker_is_given_no_more_than_it_holds() {
        for seconds in [1, 16, 3600] {
            let options = Options { seconds: Some(seconds), ..Options::default() };
            match options.workload() {
                Workload::Generated { rate, total } => {
                    assert!(total == MOCK_TOTAL && rate * seconds <= total.max(seconds))
                }
                Workload::Watched(_) => panic!("nothing is watched"),
            }
        }
    }
}
