//! The reader's clock, as a trait so that tests decide what time it is.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A clock that never goes back, and can wait.
pub trait Clock: Send {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
    /// Returns after `time`.
    fn sleep(&self, time: Duration);
}

/// The system's boot-time clock, which also counts while the machine is suspended: an MDT may crash meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Duration {
        // Every Linux since 2.6.39 has this clock and reading it cannot fail otherwise; zero would only hide pauses.
        #[expect(clippy::expect_used)]
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
        Duration::from(now)
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
