//! The bridge: reads changelogs, publishes them, observes groups, clears.

pub mod assembly;
pub mod cli;
pub mod config;
pub mod consume;
pub mod core;
pub mod demo;
pub mod failpoint;
pub mod heap;
pub mod http;
pub mod membership;
pub mod metrics;
pub mod modules;
pub mod pipeline;
pub mod rates;
pub mod run;
pub mod schema_list;
pub mod source;
pub mod status;
