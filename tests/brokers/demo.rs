//! `clbridge demo` as a user types it, on every sink: it ends well, leaves nothing behind, and says what is wrong with an
//! address. What it leaves is looked for by others' means: librdkafka, NATS's monitoring, RabbitMQ's management.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use clbridge_tests::broker::Broker;
use clbridge_tests::process::Process;
use clbridge_tests::run::PATIENCE;
use clbridge_tests::scene::Scene;
use clbridge_tests::sink::Sink;
use clbridge_tests::{tell, wait};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

/// Long enough for a member to die and be missed, and for an MDT to crash and be back.
const SECONDS: &str = "8";
/// The longest that a demonstration of that many seconds may take on a busy machine.
const LONGEST: Duration = Duration::from_secs(300);

/// A demonstration, with a folder of its own for temporary files.
struct Demo {
    temporary: PathBuf,
    output: PathBuf,
    process: Process,
    scene: Scene,
}

fn command(scene: &Scene, words: &[&str]) -> Command {
    let temporary = scene.dir().join("tmp");
    if !temporary.exists() {
        std::fs::create_dir(&temporary).unwrap();
    }
    let mut command = Command::new(scene.bin("clbridge"));
    command.arg("demo").args(words).env("TMPDIR", temporary);
    command
}

impl Demo {
    fn start(scene: Scene, words: &[&str]) -> Self {
        let (command, output) = (command(&scene, words), scene.log("demo"));
        let process = Process::start("clbridge demo", command, &output);
        Self { temporary: scene.dir().join("tmp"), output, process, scene }
    }

    /// What it has printed so far.
    fn says(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }

    /// The line that it prints with these words, once it does.
    fn line(&mut self, words: &str) -> String {
        wait::until(words, PATIENCE, || {
            let said = self.says();
            assert!(self.process.ended().is_none_or(|status| status.success()), "{said}");
            said.lines().find(|line| line.contains(words)).map(str::to_owned)
        })
    }

    fn ends(&mut self) -> ExitStatus {
        wait::until("the demonstration ends", LONGEST, || self.process.ended())
    }

    /// It ends well, and everything that it exists to show has happened.
    fn ends_well(mut self) -> Scene {
        let status = self.ends();
        let said = self.says();
        assert!(status.success() && said.contains("GOOD: every surviving record"), "{status}: {said}");
        for happened in ["kill -9 of robinhood member", "demo-MDT0001 crashed: it lost"] {
            assert!(said.contains(happened), "not seen: {happened}\n{said}");
        }
        assert!(!said.contains("demo-MDT0001: 0 crashes noticed"), "the crash was not noticed: {said}");
        let verdict: Vec<_> = said.lines().skip_while(|line| !line.starts_with("Verdict")).collect();
        tell!("{}", verdict.join("\n  "));
        self.left_no_file();
        self.scene
    }

    fn left_no_file(&self) {
        let left: Vec<_> = std::fs::read_dir(&self.temporary).unwrap().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// Shows one of the sinks that have a server, and looks there while it runs and afterwards.
fn shown_on(sink: Sink) {
    let scene = Scene::new("demo", 2);
    let broker = Broker::shared(&scene, sink);
    let mut demo = Demo::start(scene, &["--sink", sink.kind(), "--broker", broker.at(), "--seconds", SECONDS]);

    // given that what the run makes can be seen there
    let prefix = demo.line("Every name of this run").split('`').nth(1).unwrap().to_owned();
    assert!(prefix.starts_with("clb-demo-"), "{prefix}");
    wait::until_true("what the run makes can be seen", PATIENCE, || {
        names(&broker).iter().any(|n| n.starts_with(&prefix))
    });

    // when it has ended well
    let scene = demo.ends_well();

    // then nothing of it is left there, and what it printed has no password
    let left = || names(&broker).into_iter().filter(|name| name.starts_with(&prefix)).collect::<Vec<_>>();
    wait::until_true("nothing of the run is left", Duration::from_secs(30), || {
        let left = left();
        if !left.is_empty() {
            tell!("still there: {left:?}");
            std::thread::sleep(Duration::from_millis(500));
        }
        left.is_empty()
    });
    let said = std::fs::read_to_string(scene.log("demo")).unwrap();
    assert!(!said.contains('@'), "an address is shown with its login: {said}");
}

/// The names of everything that a broker has.
fn names(broker: &Broker) -> Vec<String> {
    match broker.sink() {
        Sink::Kafka | Sink::KafkaIdempotent => {
            let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", broker.at()).create().unwrap();
            let topics = client.fetch_metadata(None, PATIENCE).unwrap();
            // A coordinator that was just made loads what it has before it lists groups.
            let groups = wait::until("groups are listed", PATIENCE, || client.fetch_group_list(None, PATIENCE).ok());
            let topics = topics.topics().iter().map(|t| t.name().to_owned());
            topics.chain(groups.groups().iter().map(|g| g.name().to_owned())).collect()
        }
        Sink::Nats => {
            let said = json(&format!("{}/jsz?streams=true&consumers=true", variable("NATS_MONITOR")));
            let mut names = Vec::new();
            for account in said["account_details"].as_array().unwrap() {
                for stream in account["stream_detail"].as_array().into_iter().flatten() {
                    // The bucket of a key-value store is a stream whose name begins so.
                    let name = stream["name"].as_str().unwrap();
                    names.push(name.strip_prefix("KV_").unwrap_or(name).to_owned());
                    let consumers = stream["consumer_detail"].as_array().into_iter().flatten();
                    names.extend(consumers.map(|c| c["name"].as_str().unwrap().to_owned()));
                }
            }
            names
        }
        Sink::Amqp => {
            let list = |what: &str| {
                let said = json(&format!("{}/api/{what}?columns=name", variable("AMQP_MANAGEMENT")));
                let name = |one: &serde_json::Value| one["name"].as_str().unwrap().to_owned();
                said.as_array().unwrap().iter().map(name).collect::<Vec<_>>()
            };
            [list("queues"), list("exchanges")].concat()
        }
        Sink::Files => unreachable!("files have no server"),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this under `tests/up run`"))
}

fn json(url: &str) -> serde_json::Value {
    let said = Command::new("curl").args(["-sS", "-f", url]).output().unwrap();
    assert!(said.status.success(), "curl: {}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

#[test]
fn kafka_is_shown_and_left_as_it_was() {
    shown_on(Sink::Kafka);
}

#[test]
fn nats_is_shown_and_left_as_it_was() {
    shown_on(Sink::Nats);
}

#[test]
fn rabbitmq_is_shown_and_left_as_it_was() {
    shown_on(Sink::Amqp);
}

#[test]
fn files_are_shown_in_a_folder_that_is_named_and_goes_with_the_demonstration() {
    let mut demo = Demo::start(Scene::new("demo", 2), &["--sink", "files", "--seconds", SECONDS]);

    // given the folder that it names, while it runs
    demo.line("until then look into");
    let said = demo.says();
    let folder =
        said.lines().skip_while(|line| !line.contains("until then look into")).nth(1).unwrap().trim().to_owned();
    let has_records = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().contains("demo-MDT0000");
    wait::until_true("records can be seen in the folder", PATIENCE, || {
        std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| has_records(&e))))
    });

    // when it has ended well, then the folder is gone
    drop(demo.ends_well());
    assert!(!PathBuf::from(folder).exists());
}

#[test]
fn the_mock_broker_is_shown_without_any_word() {
    let demo = Demo::start(Scene::new("demo", 2), &["--seconds", SECONDS]);
    let scene = demo.ends_well();
    let said = std::fs::read_to_string(scene.log("demo")).unwrap();
    assert!(said.contains("MOCK CLUSTER"), "{said}");
}

#[test]
fn a_broker_that_does_not_answer_is_named_without_the_password_in_its_address() {
    let scene = Scene::new("demo", 2);
    // A port that was free a moment ago: nothing answers there.
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (sink, address) in [
        ("kafka", at.to_string()),
        ("nats", format!("nats://bridge:s3cret@{at}")),
        ("amqp", format!("amqp://bridge:s3cret@{at}/%2f")),
    ] {
        let said = command(&scene, &["--sink", sink, "--broker", &address]).output().unwrap();
        let (out, err) = texts(&said);
        assert_eq!(said.status.code(), Some(1), "{sink}: {out} {err}");
        assert!(err.contains(&at.to_string()), "{sink}: {err}");
        assert!(!format!("{out}{err}").contains("s3cret"), "{sink}: {out} {err}");
        assert!(!out.contains("the bridge runs"), "{sink}: {out}");
    }
}

#[test]
fn a_sink_without_the_address_that_it_needs_says_what_to_type() {
    let scene = Scene::new("demo", 2);
    for sink in ["nats", "amqp"] {
        let said = command(&scene, &["--sink", sink]).output().unwrap();
        let (_, err) = texts(&said);
        assert_eq!(said.status.code(), Some(2), "{err}");
        assert!(err.contains("--broker HOST:PORT"), "{err}");
        assert!(
            err.contains(&format!("tests/up run --with {sink} -- make demo ARGS='--sink {sink} --broker $$")),
            "{err}"
        );
    }
}

#[test]
fn what_an_interrupted_demonstration_has_made_is_deleted_too() {
    // given a demonstration in full swing
    let scene = Scene::new("demo", 2);
    let broker = Broker::shared(&scene, Sink::Nats);
    let mut demo = Demo::start(scene, &["--sink", "nats", "--broker", broker.at(), "--seconds", "60"]);
    let prefix = demo.line("Every name of this run").split('`').nth(1).unwrap().to_owned();
    demo.line("a played file system writes");
    assert!(names(&broker).iter().any(|name| name.starts_with(&prefix)));

    // when it is interrupted
    demo.process.signal(nix::sys::signal::Signal::SIGINT);
    let status = demo.ends();

    // then it says so and leaves nothing on the server
    let said = demo.says();
    assert!(status.code() == Some(1) && said.contains("interrupted: no verdict"), "{status}: {said}");
    let left: Vec<_> = names(&broker).into_iter().filter(|name| name.starts_with(&prefix)).collect();
    assert!(left.is_empty(), "left behind: {left:?}\n{said}");
}

fn texts(said: &Output) -> (String, String) {
    (String::from_utf8_lossy(&said.stdout).into_owned(), String::from_utf8_lossy(&said.stderr).into_owned())
}
