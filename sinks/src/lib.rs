//! Brokers, seen from both sides: what the bridge needs from a broker (publish, recover, observe groups, trim) and
//! what a consumer needs (take records, acknowledge them).
//!
//! The traits in [`traits`] and their doc comments *are* the contract: every broker module passes the same contract
//! tests, and differences exist only as declared [`Capabilities`]. There is one folder a broker, each with the same
//! files (`config`, `topology`, `publish`, `recover`, `progress`, `consume`). No broker module knows another.
//!
//! Two words are kept apart everywhere: a message is *accepted* when the broker's client has a copy of it, and
//! *durable* when the broker has confirmed it. Nothing here may ever report durable, or acknowledged, what it does
//! not know to be.

#[cfg(feature = "amqp")]
pub mod amqp;
pub mod error;
#[cfg(feature = "files")]
pub mod files;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
pub mod record;
pub mod registry;
pub mod retraction;
pub mod state;
pub mod topic;
pub mod traits;

pub use error::{Refused, SinkError};
pub use registry::{GroupSpec, MdtSelection, Policy, Registry, StartAt};
pub use state::{GroupState, Mark, Owner, Retraction, State, TopicState};
pub use topic::{Head, Position, Stored, Topic, TopicIx, TopicSpec};
pub use traits::{
    Batch, Broker, Capabilities, Consumed, Consumer, Durable, GroupInfo, GroupObserver, Message, Offsets, Positions,
    Progress, Publisher, Recovered, Sink, Subscription, TopicProgress,
};
