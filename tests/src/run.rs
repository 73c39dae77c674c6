//! A whole run: broker, MDTs, bridge and members together, from the first start to the judge's verdict.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clbridge::status::MdtStatus;

use crate::binaries::root;
use crate::bridge::{Bridge, Options};
use crate::broker::Broker;
use crate::judge::Case;
use crate::members::{Member, python};
use crate::scene::{PLACES, Scene, Turn, Turns};
use crate::sim::Sim;
use crate::sink::Sink;
use crate::watch::Watch;
use crate::{times, wait};

/// Long enough for a busy machine; a healthy run needs a fraction.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Everything that a test has on stage. What is declared first ends first when a test fails.
pub struct Run {
    /// Running members.
    pub members: Vec<Member>,
    /// The bridge.
    pub bridge: Bridge,
    /// The MDTs.
    pub sim: Sim,
    /// Where records go.
    pub broker: Broker,
    /// Names and files.
    pub scene: Scene,
    /// Groups, by their short names, that a pattern brings in.
    pub joined_by_pattern: Vec<&'static str>,
    /// Groups, by their short names, of which the judge knows nothing: the test itself says what they had.
    pub judged_by_test: Vec<&'static str>,
    /// What ended the fault, where it did not end by itself.
    pub ended_by: String,
    /// What was drawn of the fault's variants, where there are any.
    pub drawn: String,
    /// Partitions that keys are spread over, where the test has added more; 0: all.
    pub pinned: u32,
    /// Retractions that a topic must show for the run to prove anything.
    pub retractions: u32,
    before: Option<PathBuf>,
    options: Options,
    joined: u32,
    watch: Option<Watch>,
    /// Whoever has the cluster has it alone.
    cluster: Option<Turn>,
}

/// Nothing can be read back from an exchange: a copy of everything is kept for the judge from before the first record.
fn audit(scene: &Scene, broker: &Broker, options: &Options) {
    let mut command = python();
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(root().join("tests/judge/audit.py"));
    command.args(["--at", broker.at(), "--prefix", scene.name()]);
    for (feed, ..) in &options.feeds {
        command.args(["--feed", feed]);
    }
    let said = command.output().unwrap();
    assert!(said.status.success(), "audit.py: {}", String::from_utf8_lossy(&said.stderr));
}

impl Run {
    /// MDTs and a bridge on the shared broker; the bridge is not started.
    pub fn new(name: &str, mdts: usize, options: &Options) -> Self {
        Self::on(Scene::new(name, options.sink.places()), |scene| Broker::shared(scene, options.sink), mdts, options)
    }

    /// As [`Run::new`], of a run that never rests: it takes the room of two.
    pub fn busy(name: &str, mdts: usize, options: &Options) -> Self {
        let scene = Scene::new(name, 2 * options.sink.places());
        Self::on(scene, |scene| Broker::shared(scene, options.sink), mdts, options)
    }

    /// As [`Run::new`], on a broker of the test's own.
    pub fn on_own_broker(name: &str, settings: &[&str], mdts: usize, options: &Options) -> Self {
        let scene = Scene::new(name, options.sink.places());
        Self::on(scene, |scene| Broker::own(scene, options.sink, settings), mdts, options)
    }

    /// As [`Run::on_own_broker`] and [`Run::busy`].
    pub fn busy_on_own_broker(name: &str, mdts: usize, options: &Options) -> Self {
        let scene = Scene::new(name, 2 * options.sink.places());
        Self::on(scene, |scene| Broker::own(scene, options.sink, &[]), mdts, options)
    }

    /// As [`Run::new`], on the cluster of three, with two copies at least for a record to be durable.
    pub fn on_cluster(name: &str, mdts: usize, options: &Options) -> Self {
        // Before its place among the tests at once: who waits for the cluster keeps nobody else waiting.
        static CLUSTER: Turns = Turns::new();
        let turn = CLUSTER.take(1, 1);
        let mut run = Self::on(Scene::new(name, PLACES), |_| Broker::cluster(), mdts, options);
        run.cluster = Some(turn);
        run
    }

    /// As [`Run::on_own_broker`], on one that asks the bridge who it is, and may refuse.
    pub fn on_secured_broker(name: &str, mdts: usize, options: &Options) -> Self {
        let scene = Scene::new(name, options.sink.places());
        Self::on(scene, Broker::secured, mdts, &Options { secured: true, ..options.clone() })
    }

    fn on(scene: Scene, broker: impl FnOnce(&Scene) -> Broker, mdts: usize, options: &Options) -> Self {
        let broker = broker(&scene);
        if options.sink == Sink::Amqp {
            audit(&scene, &broker, options);
        }
        let sim = Sim::start(&scene, mdts);
        let bridge = Bridge::new(&scene, &sim, &broker, options);
        Self {
            members: Vec::new(),
            bridge,
            sim,
            broker,
            scene,
            joined_by_pattern: Vec::new(),
            judged_by_test: Vec::new(),
            ended_by: String::new(),
            drawn: String::new(),
            pinned: 0,
            retractions: 0,
            before: None,
            options: options.clone(),
            joined: 0,
            watch: None,
            cluster: None,
        }
    }

    /// The full name of a group.
    pub fn group(&self, short: &str) -> String {
        format!("{}-{short}", self.scene.name())
    }

    /// Where the records go.
    pub fn sink(&self) -> Sink {
        self.options.sink
    }

    /// The record topic of an MDT.
    pub fn topic(&self, mdt: &str) -> String {
        self.topic_of(mdt, "")
    }

    /// As [`Run::topic`], in a feed.
    pub fn topic_of(&self, mdt: &str, feed: &str) -> String {
        self.sink().topic(self.scene.name(), mdt, feed)
    }

    /// The record topics of all MDTs in the default feed.
    pub fn topics(&self) -> String {
        self.sim.mdts().iter().map(|m| self.topic(m)).collect::<Vec<_>>().join(",")
    }

    /// The status of all MDTs, once all run.
    pub fn running(&self) -> Vec<MdtStatus> {
        wait::until("every MDT's pipeline runs", PATIENCE, || self.bridge.running(self.sim.mdts().len()))
    }

    /// Another bridge on the same MDTs and broker; it is not started.
    pub fn another(&self, owner: &str, options: &Options) -> Bridge {
        Bridge::named(owner, &self.scene, &self.sim, &self.broker, options)
    }

    /// Another bridge that has the first one's name in State, by mistake.
    pub fn twin(&self, options: &Options) -> Bridge {
        Bridge::new(&self.scene, &self.sim, &self.broker, options)
    }

    /// Starts the bridge and waits until every group has its first positions.
    pub fn start(&mut self) {
        self.bridge.start(None);
        let groups = self.options.groups.len();
        wait::until_true("every group has its first positions", PATIENCE, || {
            self.bridge.running(self.sim.mdts().len()).is_some_and(|mdts| {
                mdts.iter().all(|m| {
                    m.groups.len() == groups
                        && m.groups.iter().all(|g| !g.committed.is_empty() && g.committed.iter().all(Option::is_some))
                })
            })
        });
        self.watch = Some(Watch::start(self.bridge.listen()));
    }

    /// A new member of the group with this short name; returns its place in `members`.
    pub fn join(&mut self, group: &str, more: &[&str]) -> usize {
        self.join_topics(group, &self.topics(), more)
    }

    /// As [`Run::join`], for a list of topics or one regular expression that begins with `^`.
    pub fn join_topics(&mut self, group: &str, topics: &str, more: &[&str]) -> usize {
        self.joined += 1;
        let name = format!("{group}-{}", self.joined);
        let member = Member::start(&self.scene, &self.broker, &self.group(group), &name, topics, more);
        self.members.push(member);
        self.members.len() - 1
    }

    /// What members have said so far is about topics that are now deleted and made again; no member runs.
    pub fn topics_are_new(&mut self) {
        let (now, before) = (self.scene.dir().join("members"), self.scene.dir().join("members-before"));
        std::fs::rename(&now, &before).unwrap();
        std::fs::create_dir(now).unwrap();
        self.before = Some(before);
    }

    /// Types a command that `status` names, `clbridge …`, and remembers that it ended the fault.
    pub fn obey(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words.first(), Some(&"clbridge"), "{command} is no command of clbridge");
        crate::tell!("{command}: {}", self.bridge.says(&words[1..]).trim());
        let name = self.scene.name().to_owned();
        self.ended(&command.replace(&format!("{name}-"), ""));
    }

    /// Remembers what ended the fault.
    pub fn ended(&mut self, by: &str) {
        if !self.ended_by.is_empty() {
            self.ended_by.push_str("; ");
        }
        self.ended_by.push_str(by);
    }

    /// Waits until everything that was logged was cleared.
    pub fn all_cleared(&self) {
        wait::until_true("everything that the MDTs logged was cleared", PATIENCE, || self.sim.backlog() == 0);
    }

    /// Waits until what was cleared exceeds this many records over all MDTs.
    pub fn cleared_beyond(&self, records: u64) {
        wait::until_true("clears go on", PATIENCE, || self.sim.cleared() > records);
    }

    /// Milliseconds from `since` until every MDT has records durable above `before` (by MDT).
    pub fn recovered_ms(&self, since: Instant, before: &[u64]) -> u64 {
        wait::until_true("records become durable again", PATIENCE, || {
            self.bridge
                .running(self.sim.mdts().len())
                .is_some_and(|mdts| mdts.iter().zip(before).all(|(m, before)| m.durable > *before))
        });
        u64::try_from(since.elapsed().as_millis()).unwrap()
    }

    /// What is durable now, by MDT.
    pub fn durable(&self) -> Vec<u64> {
        self.running().iter().map(|m| m.durable).collect()
    }

    /// What is durable by now, as far as that is known: what was before, of a pipeline that has ended and waits for its
    /// broker to begin again.
    pub fn durable_by_now(&self, before: Vec<u64>) -> Vec<u64> {
        let running = self.bridge.running(self.sim.mdts().len());
        running.map_or(before, |mdts| mdts.iter().map(|m| m.durable).collect())
    }

    /// Waits until everything was cleared, ends all processes in good order, and has the run judged.
    pub fn finish(mut self, fault: &str, runs: u32, recovery_ms: u64) {
        self.all_cleared();
        let own = [".", "-", "_"].map(|mark| format!("{}{mark}", self.scene.name()));
        let said = self.watch.take().map(Watch::end).unwrap_or_default();
        let said = said.into_iter().map(|s| own.iter().fold(s, |s, own| s.replace(own, ""))).collect();
        let ended = self.bridge.terminate();
        assert!(ended.success(), "the bridge ended with {ended}");
        for member in std::mem::take(&mut self.members) {
            member.stop();
        }
        self.sim.stop();
        Case { said, ..self.case(fault, runs, recovery_ms) }.judge();
    }

    fn case(&self, fault: &str, runs: u32, recovery_ms: u64) -> Case {
        Case {
            sink: self.sink(),
            at: self.broker.at().to_owned(),
            prefix: self.scene.name().to_owned(),
            oracles: self.sim.mdts().iter().map(|m| (m.clone(), self.sim.oracle(m))).collect(),
            members: self.scene.dir().join("members"),
            groups: (self.options.groups.iter().chain(&self.joined_by_pattern))
                .filter(|group| !self.judged_by_test.contains(group))
                .map(|group| self.group(group))
                .collect(),
            feeds: self.options.feeds.iter().map(|(name, types, _)| format!("{name}={}", types.join(","))).collect(),
            unfinished: Vec::new(),
            released: self.options.released.iter().map(|(name, _)| self.group(name)).collect(),
            before: self.before.clone(),
            retractions: self.retractions,
            most_repeated: self.sink().most_repeated().filter(|_| self.retractions == 0),
            pinned: self.pinned,
            fault: fault.to_owned(),
            runs,
            recovery_ms,
            said: Vec::new(),
            ended_by: self.ended_by.clone(),
            drawn: self.drawn.clone(),
            seed: times::seed(),
        }
    }
}
