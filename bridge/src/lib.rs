//! The bridge: reads changelogs, publishes them, observes groups, clears.

pub mod core;
pub mod failpoint;
pub mod modules;
pub mod pipeline;
pub mod rates;
pub mod run;
pub mod source;
pub mod status;
