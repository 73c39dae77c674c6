//! The simulated MDT: a faithful stand-in for `/dev/changelog-*`, with a journal, users, clears, crashes that reuse
//! indexes, and an oracle log that says what really happened.
//!
//! [`server::Server::start`] runs it in-process, `mdt-sim serve` as a command; [`client::Changelog`] is the device,
//! [`control::client::Control`] the administrator. PROTOCOL.md documents both protocols and the oracle's file.

#![forbid(unsafe_code)]

pub mod addr;
pub mod cli;
pub mod client;
pub mod control;
pub mod descriptor;
pub mod generation;
pub mod journal;
pub mod layout;
pub mod mask;
pub mod mdt;
pub mod oracle;
pub mod protocol;
pub mod replay;
pub mod server;
pub mod users;
mod watch;
pub mod workload;
