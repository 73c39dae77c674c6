//! Rates over the last ten seconds, from counters looked at now and then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);

/// Two counters over time.
#[derive(Debug, Default)]
pub struct Rates {
    seen: VecDeque<(Instant, u64, u64)>,
}

impl Rates {
    /// Takes the counters now and gives their growth a second over the last ten seconds.
    pub fn take(&mut self, now: Instant, a: u64, b: u64) -> (f64, f64) {
        self.seen.push_back((now, a, b));
        while self.seen.len() > 2 && self.seen.get(1).is_some_and(|(t, ..)| now.duration_since(*t) > WINDOW) {
            self.seen.pop_front();
        }
        let Some(&(then, a0, b0)) = self.seen.front() else { return (0.0, 0.0) };
        let s = now.duration_since(then).as_secs_f64();
        if s <= 0.0 {
            return (0.0, 0.0);
        }
        (a.saturating_sub(a0) as f64 / s, b.saturating_sub(b0) as f64 / s)
    }
}
