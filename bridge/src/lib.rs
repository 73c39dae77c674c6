//! The bridge: reads changelogs, publishes them, observes groups, clears.

pub mod source;
pub mod status;
