//! The few calls of librdkafka that the `rdkafka` crate does not offer, each behind a safe function: producing by
//! whole batches, taking delivery reports from the event queue, and the newer Admin calls.
//!
//! All `unsafe` of the Kafka module is here and nothing else is. Pointers never leave this folder.

mod admin;
mod arena;
mod error;
mod event;
mod partitions;
mod producer;
mod text;

pub(super) use admin::{Admin, Described, Where};
pub(super) use arena::Arena;
pub(super) use error::NativeError;
pub(super) use partitions::{Found, Place, positions};
pub(super) use producer::{Producer, Report};
