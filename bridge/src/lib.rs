//! The bridge: reads changelogs, publishes them, observes groups, clears.

pub mod status;
