//! What decides: verdicts, ledger, stability, incarnations, clears. One [`Core`] per MDT.
//!
//! A deterministic state machine: events come in through [`Core::on`], actions go out through
//! [`Core::next_action`], time is an argument. Nothing here may do I/O, read a clock or start a thread; the same code
//! runs under real threads and under the seeded simulation. Its hard invariants are `assert!`s: a bridge that would
//! break one stops before it clears anything.
//!
//! * [`ledger`]: what is published where, what each group has, and so what may be cleared
//! * [`stability`]: what an MDT crash can no longer take back
//! * [`clears`]: when to clear, and how State is written first
//! * [`start`]: what a start makes of State, the topics' tails and the MDT
//! * [`events`]: what comes in, what goes out, and the settings
//! * [`reasons`]: why an MDT or a group is held
//! * [`machine`]: the [`Core`] that joins the rooms

pub mod clears;
pub mod events;
pub mod ledger;
pub mod machine;
#[cfg(feature = "mutations")]
pub mod mutations;
#[cfg(not(feature = "mutations"))]
mod mutations;
pub mod reasons;
pub mod snapshot;
pub mod stability;
pub mod start;
mod thinning;
pub mod timeline;

pub use events::{Action, ClearOutcome, Event, Settings};
pub use ledger::{Clearable, Hold};
pub use machine::Core;
pub use reasons::Reason;
pub use start::{Found, Plan, Start, Step, Stop};

use std::time::Duration;

/// Time since an arbitrary beginning, from a clock that also counts suspended time (`CLOCK_BOOTTIME`).
pub type Now = Duration;
