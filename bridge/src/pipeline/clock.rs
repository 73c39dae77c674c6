//! The two clocks: boot time for decisions, wall time for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::core::Now;

/// Time since boot, suspended time included: a machine that slept must find its State stale.
#[must_use]
pub fn now() -> Now {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Wall clock, nanoseconds since the epoch.
#[must_use]
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
