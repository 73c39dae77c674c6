//! Waiting for a condition. The bounds are only there so that a broken run ends; no test asserts how long it took.

use std::time::{Duration, Instant};

/// Asks until `condition` has an answer.
///
/// # Panics
/// When there is none within `patience`.
pub fn until<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(Instant::now() < end, "after {} s still not so: {what}", patience.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As [`until`], for a yes or no.
///
/// # Panics
/// As [`until`].
pub fn until_true(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    until(what, patience, || condition().then_some(()));
}

/// Goes on being so for a while.
///
/// # Panics
/// When it is not so at some moment.
pub fn throughout(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(condition(), "no longer so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
