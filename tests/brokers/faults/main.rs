//! Faults on real brokers, each judged record by record.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod broker;
mod consumers;
mod groups;
mod kills;
mod mdt_crash;
mod meddling;
mod other_sinks;
mod replicated;
mod rights;
mod takeover;
mod unanswered;
