//! The bridge: reads changelogs, publishes them, observes groups, clears.

pub mod core;
pub mod source;
pub mod status;
