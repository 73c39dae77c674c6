//! Files, the embedded default: no broker is needed.
//!
//! A topic is a folder of Avro object container files. What is durable, and State with it, stands in one small file for
//! each MDT that is replaced durably with each batch; what lies behind it in files was never committed. A group's
//! position in a topic is a small file too, whose lock says which member takes the records. What is guaranteed by which
//! mechanism is in `docs/brokers/files.md`. This module never knows another broker.

mod config;
mod consume;
mod container;
mod disk;
mod parts;
mod progress;
mod publish;
mod read;
mod recover;
mod registry;
mod slots;
mod stand;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clbridge_schemas::ids::{MdtName, RecordId};

pub use config::{Codec, FilesConfig};

use crate::error::SinkError;
use crate::state::State;
use crate::topic::{Position, Stored, Topic, TopicSpec};
use crate::traits::{Broker, Capabilities, Consumer, Positions, Recovered, Sink, Subscription};

/// A folder: sink, observer of groups, and maker of consumers. Cheap to clone.
#[derive(Clone)]
pub struct FilesSink {
    shared: Arc<Shared>,
}

/// What all uses of the folder share. Its functions block and are called on tokio's blocking threads.
struct Shared {
    config: FilesConfig,
}

impl FilesSink {
    /// A sink for the folder that `config` names. It is neither looked at nor made yet.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] for a setting that is not possible, named.
    pub fn new(config: FilesConfig) -> Result<Self, SinkError> {
        config.check()?;
        Ok(Self { shared: Arc::new(Shared { config }) })
    }

    /// The settings that it was made with.
    #[must_use]
    pub fn config(&self) -> &FilesConfig {
        &self.shared.config
    }

    async fn blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Shared) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || f(&shared)).await
    }
}

/// Runs `f` on a thread that may block; a panic in it is the caller's.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => Err(SinkError::Unavailable {
                what: "files".to_owned(),
                why: format!("the runtime is shutting down: {e}"),
            }),
        },
    }
}

impl Broker for FilesSink {
    fn consumer(&self, group: &str, what: &Subscription) -> Result<Box<dyn Consumer>, SinkError> {
        config::check_group(group)?;
        Ok(Box::new(consume::Member::new(Arc::clone(&self.shared), group, what)))
    }

    /// Nobody but the writer ever sees what may still be taken back.
    fn ephemeral(&self, what: &Subscription, _uncommitted: bool) -> Result<Box<dyn Consumer>, SinkError> {
        Ok(Box::new(consume::Ephemeral::new(Arc::clone(&self.shared), what)))
    }
}

#[async_trait]
impl Sink for FilesSink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_state: true,
            read_back: true,
            exactly_once: true,
            partitioned: false,
            // Whole files are removed, so a topic can be trimmed at its beginning only.
            positions: Positions::Sequence,
        }
    }

    async fn prepare(&self, want: &[TopicSpec], pinned: Option<&State>) -> Result<Vec<Topic>, SinkError> {
        let (want, pinned) = (want.to_vec(), pinned.cloned());
        self.blocking(move |s| s.prepare(&want, pinned.as_ref())).await
    }

    async fn peek_state(&self, mdt: &MdtName) -> Result<Option<State>, SinkError> {
        let mdt = mdt.clone();
        self.blocking(move |s| s.peek_state(&mdt)).await
    }

    async fn recover(&self, mdt: &MdtName, topics: &[Topic]) -> Result<Recovered, SinkError> {
        let (mdt, topics) = (mdt.clone(), topics.to_vec());
        self.blocking(move |s| s.recover(&mdt, &topics)).await
    }

    async fn read_at(&self, topic: &Topic, at: &[Position]) -> Result<Vec<Option<Stored>>, SinkError> {
        let (topic, at) = (topic.clone(), at.to_vec());
        self.blocking(move |s| s.read_at(&topic, &at)).await
    }

    async fn read_back(
        &self,
        topic: &Topic,
        incarnation: u32,
        above: u64,
        each: &mut (dyn FnMut(Stored) + Send),
    ) -> Result<(), SinkError> {
        let (say, mut said) = tokio::sync::mpsc::channel(1024);
        let topic = topic.clone();
        let reading = self.blocking(move |s| {
            s.read_back(&topic, incarnation, above, &mut |record| say.blocking_send(record).is_ok())
        });
        let taking = async {
            while let Some(record) = said.recv().await {
                each(record);
            }
        };
        tokio::join!(reading, taking).0
    }

    async fn trim(&self, topic: &Topic, below: &[u64], keep: Duration) -> Result<Vec<u64>, SinkError> {
        let (topic, below) = (topic.clone(), below.iter().copied().min().unwrap_or(0));
        self.blocking(move |s| s.trim(&topic, below, keep)).await.map(|low| vec![low])
    }

    async fn publish_schema(&self, fingerprint: [u8; 8], json: &str) -> Result<(), SinkError> {
        let (name, json) = (fingerprint.iter().map(|b| format!("{b:02x}")).collect::<String>(), json.to_owned());
        self.blocking(move |s| {
            let dir = s.config.schemas_dir();
            disk::make_dir(&dir)?;
            let path = dir.join(format!("{name}.avsc"));
            if disk::read(&path)?.is_some_and(|there| there == json.as_bytes()) {
                return Ok(());
            }
            disk::replace(&path, json.as_bytes())
        })
        .await
    }

    async fn repair(
        &self,
        topic: &Topic,
        group: &str,
        records: &[(RecordId, Vec<u8>, Vec<u8>)],
    ) -> Result<(Topic, Vec<u64>), SinkError> {
        let (topic, group, records) = (topic.clone(), group.to_owned(), records.to_vec());
        self.blocking(move |s| s.repair(&topic, &group, &records)).await
    }
}
