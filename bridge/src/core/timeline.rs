//! When records came, remembered sparsely: turns an index into an age and an age into an index.

use std::collections::VecDeque;

use super::Now;
use super::thinning::thin;

const MAX_POINTS: usize = 2048;

/// Pairs of (index, time read), both rising.
#[derive(Debug, Default)]
pub struct Timeline {
    points: VecDeque<(u64, Now)>,
}

impl Timeline {
    /// Everything up to `index` was read by `now`.
    pub fn push(&mut self, index: u64, now: Now) {
        if self.points.back().is_some_and(|(i, at)| *i >= index || *at > now) {
            return;
        }
        self.points.push_back((index, now));
        thin(&mut self.points, MAX_POINTS);
    }

    /// Time since the first record behind `index` was read; zero if there is none.
    #[must_use]
    pub fn age_behind(&self, index: u64, now: Now) -> Now {
        let at = self.points.partition_point(|(i, _)| *i <= index);
        self.points.get(at).map_or(Now::ZERO, |(_, t)| now.saturating_sub(*t))
    }

    /// The highest index of which everything is at least `age` old; 0 if none.
    #[must_use]
    pub fn older_than(&self, age: Now, now: Now) -> u64 {
        let at = self.points.partition_point(|(_, t)| now.saturating_sub(*t) >= age);
        at.checked_sub(1).and_then(|i| self.points.get(i)).map_or(0, |(i, _)| *i)
    }

    /// Forgets what is at or below `index`, but for the nearest point.
    pub fn forget(&mut self, index: u64) {
        while self.points.get(1).is_some_and(|(i, _)| *i <= index) {
            self.points.pop_front();
        }
    }
}
