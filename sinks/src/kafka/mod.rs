//! Apache Kafka.
//!
//! A sealed batch and State are one transaction of the MDT's own producer, whose `transactional.id` is the fence.
//! What the broker was seen to do, and why things are done as they are, is in `docs/brokers/kafka.md`.
//! This module never knows another broker, and never takes an offset, a topic or a group for what it was without
//! having looked.

mod commit;
mod config;
mod consume;
mod context;
mod native;
mod progress;
mod publish;
mod read;
mod recover;
mod registry;
mod slot;
mod topology;
mod write;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clbridge_schemas::ids::{MdtName, RecordId};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use tokio::runtime::Handle;

pub use config::{Delivery, KafkaConfig};

use crate::error::SinkError;
use crate::registry::StartAt;
use crate::state::State;
use crate::topic::{Position, Stored, Topic, TopicSpec};
use crate::traits::{Broker, Capabilities, Consumer, Positions, Recovered, Sink, Subscription};
use context::Quiet;
use native::{Admin, NativeError};

/// A Kafka cluster: sink, observer of groups, and maker of consumers. Cheap to clone.
#[derive(Clone)]
pub struct KafkaSink {
    shared: Arc<Shared>,
}

/// What all uses of the cluster share. Its functions block and are called on tokio's blocking threads.
struct Shared {
    config: KafkaConfig,
    /// The client of the older Admin calls; made anew when an answer did not come.
    admin: Mutex<Arc<AdminClient<Quiet>>>,
    /// The client of the newer Admin calls; made anew when it has an old idea of where a coordinator or a leader is.
    asker: Mutex<Option<Arc<Admin>>>,
    /// One reader for all reading at positions; whoever needs it while it is lent makes another.
    reader: Mutex<Option<read::Reader>>,
}

impl KafkaSink {
    /// A sink for the cluster that `config` names. Nothing is asked of the broker yet.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] for a setting that is not possible, named.
    pub fn new(config: KafkaConfig) -> Result<Self, SinkError> {
        config.check()?;
        let admin = Mutex::new(admin_of(&config)?);
        Ok(Self { shared: Arc::new(Shared { config, admin, asker: Mutex::new(None), reader: Mutex::new(None) }) })
    }

    /// The settings that it was made with.
    #[must_use]
    pub fn config(&self) -> &KafkaConfig {
        &self.shared.config
    }

    /// Runs `f` where blocking is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Shared) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || f(&shared)).await
    }
}

fn admin_of(config: &KafkaConfig) -> Result<Arc<AdminClient<Quiet>>, SinkError> {
    config.client()?.create_with_context(Quiet).map(Arc::new).map_err(|e| client_error(config, &e))
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
                what: "kafka".to_owned(),
                why: format!("the runtime is shutting down: {e}"),
            }),
        },
    }
}

impl Shared {
    /// Asks by one of the newer Admin calls, again while a coordinator or a leader is moving.
    fn ask<T>(
        &self,
        what: impl Fn() -> String,
        call: impl Fn(&Admin) -> Result<T, NativeError>,
    ) -> Result<T, SinkError> {
        self.try_ask(call)?.map_err(|e| sort(what(), &e))
    }

    /// As `ask`, for who looks at the error. A handle keeps a coordinator that it once found for minutes, dead or not:
    /// after an answer that did not come the next question is asked by a new one.
    fn try_ask<T>(&self, call: impl Fn(&Admin) -> Result<T, NativeError>) -> Result<Result<T, NativeError>, SinkError> {
        let mut again = false;
        let began = Instant::now();
        loop {
            let asker = self.asker(again)?;
            match call(&asker) {
                // A question may take the whole time itself, and who asks has other things to do.
                Err(e) if began.elapsed() < MOVING.min(self.config.request_timeout()) && moves(e.code) => {
                    again = true;
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(e) => {
                    if silent(e.code) {
                        self.forget_asker(&asker);
                    }
                    return Ok(Err(e));
                }
                answer => return Ok(answer),
            }
        }
    }

    fn admin(&self) -> Arc<AdminClient<Quiet>> {
        Arc::clone(&self.admin.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks by one of the crate's Admin calls; the caller is on a thread that may block. They go to the broker that was
    /// last told to be the controller, which a handle believes for minutes, dead or not: after an answer that did not
    /// come the next question is asked by a new one.
    fn wait<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(&AdminClient<Quiet>, &AdminOptions) -> KafkaResult<T>,
    ) -> Result<T, SinkError> {
        let (asked, longest) = (self.admin(), Some(self.config.request_timeout()));
        let options = AdminOptions::new().request_timeout(longest).operation_timeout(longest);
        let answer = Handle::current().block_on(call(&asked, &options));
        if let Err(KafkaError::AdminOp(code)) = &answer
            && silent(*code)
        {
            let new = admin_of(&self.config)?;
            let mut admin = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&admin, &asked) {
                *admin = new;
            }
        }
        answer.map_err(|e| sort_kafka(what, e))
    }

    /// The next question is asked by another handle, unless that is so already.
    fn forget_asker(&self, asked: &Arc<Admin>) {
        let mut asker = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        asker.take_if(|now| Arc::ptr_eq(now, asked));
    }

    fn asker(&self, anew: bool) -> Result<Arc<Admin>, SinkError> {
        let mut asker = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = asker.as_ref().filter(|_| !anew) {
            return Ok(Arc::clone(asker));
        }
        let made = Admin::new(&self.config.reader(true)?, self.config.request_timeout_ms);
        let made = Arc::new(made.map_err(|e| client_error(&self.config, &e))?);
        *asker = Some(Arc::clone(&made));
        Ok(made)
    }
}

/// How long a moving coordinator or leader is followed within one call.
const MOVING: Duration = Duration::from_secs(3);

fn moves(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::FencedLeaderEpoch
            | RDKafkaErrorCode::UnknownLeaderEpoch
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::OffsetNotAvailable
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
    )
}

/// Nobody answered.
fn silent(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::TimedOutQueue
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Authentication
    )
}

impl Broker for KafkaSink {
    fn consumer(&self, group: &str, what: &Subscription) -> Result<Box<dyn Consumer>, SinkError> {
        Ok(Box::new(consume::Member::new(&self.shared.config, group, what)?))
    }

    fn ephemeral(&self, what: &Subscription, uncommitted: bool) -> Result<Box<dyn Consumer>, SinkError> {
        Ok(Box::new(consume::Ephemeral::new(&self.shared.config, what, uncommitted)?))
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn capabilities(&self) -> Capabilities {
        let transactional = self.shared.config.delivery == Delivery::Transactional;
        Capabilities {
            atomic_state: transactional,
            read_back: true,
            exactly_once: transactional,
            partitioned: true,
            positions: Positions::Offsets,
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
        // The records come over a channel since `each` cannot leave this task.
        let (tx, mut rx) = tokio::sync::mpsc::channel(1024);
        let topic = topic.clone();
        let reading = self
            .blocking(move |s| s.read_back(&topic, incarnation, above, &mut |stored| tx.blocking_send(stored).is_ok()));
        let taking = async {
            while let Some(stored) = rx.recv().await {
                each(stored);
            }
        };
        let (result, ()) = tokio::join!(reading, taking);
        result
    }

    async fn trim(&self, topic: &Topic, below: &[u64], keep: Duration) -> Result<Vec<u64>, SinkError> {
        let (topic, below) = (topic.clone(), below.to_vec());
        self.blocking(move |s| s.trim(&topic, &below, keep)).await
    }

    async fn publish_schema(&self, fingerprint: [u8; 8], json: &str) -> Result<(), SinkError> {
        let key: String = fingerprint.iter().map(|b| format!("{b:02x}")).collect();
        let json = json.to_owned();
        self.blocking(move |s| {
            s.make_compacted(&s.config.schema_topic)?;
            s.write(&s.config.schema_topic, &[(key.as_bytes(), json.as_bytes())]).map(|_| ())
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
        self.blocking(move |s| {
            let repair = s.make_repair_topic(&topic, &group)?;
            // Before the records, else its running members would stand in front of a topic without a position.
            let first = s.register(&group, &repair, StartAt::Oldest)?;
            if first.iter().any(Option::is_none) {
                return Err(SinkError::Mismatch {
                    what: format!("group {group}"),
                    why: format!("has live members and no position in {}, which holds records", repair.name),
                    hint: "stop the group's members and repeat the command".to_owned(),
                });
            }
            let pairs: Vec<(&[u8], &[u8])> = records.iter().map(|(_, k, p)| (k.as_slice(), p.as_slice())).collect();
            let end = match s.write(&repair.name, &pairs)? {
                Some(last) => last + 1,
                None => s.ends(&repair)?[0],
            };
            Ok((repair, vec![end]))
        })
        .await
    }
}

/// Sorts an error by what the caller has to do about it.
fn sort(what: impl Into<String>, e: &NativeError) -> SinkError {
    use RDKafkaErrorCode as C;
    let (what, why) = (what.into(), e.text.clone());
    match e.code {
        C::Fenced | C::ProducerFenced | C::InvalidProducerEpoch | C::TransactionCoordinatorFenced => {
            SinkError::Fenced { what, owner: None }
        }
        C::TopicAuthorizationFailed
        | C::GroupAuthorizationFailed
        | C::ClusterAuthorizationFailed
        | C::TransactionalIdAuthorizationFailed
        | C::SaslAuthenticationFailed
        | C::Authentication => SinkError::Unauthorised { what, why },
        C::MessageSizeTooLarge | C::InvalidMessageSize => SinkError::Mismatch {
            what,
            why,
            hint: "raise the topic's max.message.bytes above kafka.batch_bytes, or lower that".to_owned(),
        },
        _ => SinkError::Unavailable { what, why },
    }
}

/// As [`sort`], for errors of the crate.
fn sort_kafka(what: impl Into<String>, e: KafkaError) -> SinkError {
    sort(what, &NativeError::from(e))
}

/// A client that cannot even be made is a matter of settings: TLS files, SASL mechanisms.
fn client_error(config: &KafkaConfig, e: &KafkaError) -> SinkError {
    SinkError::Mismatch {
        what: format!("Kafka client for {}", config.bootstrap_servers),
        why: e.to_string(),
        hint: "correct the settings under kafka.librdkafka".to_owned(),
    }
}
