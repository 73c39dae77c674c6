//! Files as a ground for the contract. What happens behind the sink's back is done to the files themselves.

use std::path::PathBuf;
use std::process::Command;

use async_trait::async_trait;
use clbridge_sinks::files::{Codec, FilesConfig, FilesSink};
use clbridge_sinks::{Broker as _, Consumer, GroupObserver, MdtSelection, Position, Sink, Subscription, Topic};

use crate::ground::{Ground, variable};

/// A folder of its own, and settings under which there are many small files.
pub struct Files {
    pub dir: tempfile::TempDir,
    /// Another folder instead.
    pub at: Option<PathBuf>,
    pub codec: Codec,
    pub block_bytes: u32,
    pub rotate_bytes: u64,
    pub rotate_after_ms: u64,
    pub memory: usize,
}

impl Files {
    pub fn new(codec: Codec) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            at: None,
            codec,
            block_bytes: 1 << 10,
            rotate_bytes: 4 << 10,
            rotate_after_ms: 3_600_000,
            memory: 32 << 20,
        }
    }

    fn root(&self) -> &std::path::Path {
        self.at.as_deref().unwrap_or(self.dir.path())
    }

    pub fn config(&self) -> FilesConfig {
        FilesConfig {
            dir: self.root().to_owned(),
            codec: self.codec,
            block_bytes: self.block_bytes,
            rotate_bytes: self.rotate_bytes,
            rotate_after_ms: self.rotate_after_ms,
            memory_bytes: self.memory,
            ..FilesConfig::default()
        }
    }

    pub fn make(&self) -> FilesSink {
        FilesSink::new(self.config()).unwrap()
    }

    /// The topic's files, in order.
    pub fn files(&self, topic: &Topic) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = std::fs::read_dir(self.root().join(&topic.name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().contains(".avro"))
            .collect();
        all.sort();
        all
    }
}

/// The position of a file's first record.
pub fn first_of(path: &std::path::Path) -> u64 {
    path.file_name().unwrap().to_str().unwrap()[..20].parse().unwrap()
}

#[async_trait]
impl Ground for Files {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.make())
    }

    fn observer(&self) -> Box<dyn GroupObserver> {
        Box::new(self.make())
    }

    fn member(&self, group: &str, mdts: MdtSelection) -> Box<dyn Consumer> {
        self.make().consumer(group, &Subscription { mdts, feed: None }).unwrap()
    }

    fn ephemeral(&self, mdts: MdtSelection) -> Box<dyn Consumer> {
        self.make().ephemeral(&Subscription { mdts, feed: None }, true).unwrap()
    }

    fn memory(&self) -> usize {
        self.memory
    }

    async fn delete(&self, topic: &Topic, recreate: bool) {
        std::fs::remove_dir_all(self.root().join(&topic.name)).unwrap();
        if recreate {
            let spec = crate::ground::spec(&topic.mdt, topic.feed.as_deref());
            self.sink().prepare(&[spec], None).await.unwrap();
        }
    }

    async fn widen(&self, _topic: &Topic) {
        unreachable!("a topic has one partition");
    }

    async fn set_retention(&self, _topic: &Topic) -> Option<&'static str> {
        None
    }

    async fn evict(&self, topic: &Topic, _partition: u32, below: u64) {
        let files = self.files(topic);
        assert!(files.len() > 1, "one file cannot be deleted in part");
        for file in files.iter().take(files.len() - 1).filter(|file| first_of(file) < below) {
            std::fs::remove_file(file).unwrap();
        }
    }

    async fn schema(&self, fingerprint: [u8; 8]) -> Option<String> {
        let name: String = fingerprint.iter().map(|b| format!("{b:02x}")).collect();
        std::fs::read_to_string(self.config().schemas_dir().join(format!("{name}.avsc"))).ok()
    }

    async fn retraction_headers(&self, topic: &Topic) -> Vec<(Position, String)> {
        // fastavro, which shares no line with what wrote them.
        let reader = r#"
import pathlib, sys, fastavro
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.avro*")):
    with open(path, "rb") as file:
        reader = fastavro.reader(file)
        for at, _ in enumerate(reader, int(path.name[:20])):
            if "clb-retracts" in reader.metadata:
                print(at, reader.metadata["clb-retracts"])
"#;
        let folder = self.root().join(&topic.name);
        let said = Command::new(variable("CLB_PYTHON")).args(["-c", reader]).arg(folder).output().unwrap();
        assert!(said.status.success(), "fastavro: {}", String::from_utf8_lossy(&said.stderr));
        let lines = String::from_utf8(said.stdout).unwrap();
        let headed = lines.lines().map(|line| {
            let (offset, value) = line.split_once(' ').unwrap();
            (Position { partition: 0, offset: offset.parse().unwrap() }, value.to_owned())
        });
        headed.collect()
    }

    fn untouchable(&self) -> Option<String> {
        Some("there is no broker that could be stalled or killed".to_owned())
    }

    fn stall(&self) {
        unreachable!("there is no broker");
    }

    fn go_on(&self) {
        unreachable!("there is no broker");
    }

    fn kill_and_restart(&self) {
        unreachable!("there is no broker");
    }
}
