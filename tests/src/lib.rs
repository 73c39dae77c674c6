//! The harness of the end-to-end and fault tests: it starts the release binaries, a simulated MDT, Python group members
//! and the judge, and shows what they wrote when a test fails. It decides nothing about a run: the judge does, and it
//! shares no code with clbridge.
//!
//! Everything here is for tests, so what goes wrong is a panic that says what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, clippy::must_use_candidate)]

pub mod binaries;
pub mod bridge;
pub mod broker;
pub mod judge;
pub mod kills;
pub mod members;
pub mod printed;
pub mod process;
pub mod proxy;
pub mod report;
pub mod run;
pub mod scene;
pub mod sim;
pub mod sink;
pub mod times;
pub mod wait;
pub mod watch;

/// Prints a line that the test runner does not swallow: what a fault run did is part of its result.
#[macro_export]
macro_rules! tell {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        // A closed stderr is no reason to fail a test.
        let _ = writeln!(std::io::stderr(), "  {}", format_args!($($what)*));
    }};
}
