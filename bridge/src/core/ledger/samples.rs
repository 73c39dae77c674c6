//! Which record lies at which position of one partition, remembered sparsely.
//!
//! A point `(offset, index)` says: *the first record at or behind `offset` has this index*. Since indexes rise within
//! a partition, the nearest point at or below a position gives a lower bound for the first record behind it, so a
//! sparse memory errs only towards clearing later. The last record is always known exactly: a group that has passed
//! it is not held back by this partition at all.
//!
//! Indexes here are *effective*: a void record (taken back by an MDT crash) counts as the index where the next
//! incarnation began, see [`super::effective`].

use std::collections::VecDeque;

use crate::core::mutations::{Mutation, wrong};
use crate::core::thinning::thin;

/// Largest number of points a partition keeps; beyond it every second one is forgotten (16 bytes each).
const MAX_POINTS: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Point {
    offset: u64,
    index: u64,
}

/// What is known of the first record at or behind a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstUnread {
    /// There is none: everything in this partition is behind the reader.
    None,
    /// It has exactly this effective index.
    Exactly(u64),
    /// It has this effective index or a higher one.
    AtLeast(u64),
    /// Nothing is known about what lies there.
    Unknown,
}

/// The points of one partition.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    points: VecDeque<Point>,
    /// Offset and effective index of the last durable record, if the partition has one.
    last: Option<Point>,
    /// Records counted while pushing, to estimate lag between points.
    pushed: u64,
}

impl Samples {
    /// The partition as a start finds it: empty, or with a last record.
    #[must_use]
    pub fn with_tail(tail: Option<(u64, u64)>) -> Self {
        let last = tail.map(|(offset, index)| Point { offset, index });
        Self { points: last.into_iter().collect(), last, pushed: 0 }
    }

    /// A record became durable at `offset`. The last record of every batch is reported.
    ///
    /// # Panics
    /// If offset or index goes back: the broker would have lost or swapped records, and every conclusion drawn from
    /// positions would be wrong.
    pub fn push(&mut self, offset: u64, index: u64) {
        if let Some(last) = self.last {
            assert!(offset > last.offset, "a position went back: {offset} behind {}", last.offset);
            assert!(index >= last.index, "an index went back within a partition: {index} behind {}", last.index);
        }
        if self.last.is_none() && wrong(Mutation::EmptyPartitionForgotten) {
            return;
        }
        let point = Point { offset, index };
        self.points.push_back(point);
        self.last = Some(point);
        self.pushed += 1;
        thin(&mut self.points, MAX_POINTS);
    }

    /// The first record at or behind `offset` was read and has this index (a point read of the topic).
    pub fn learn(&mut self, offset: u64, index: u64) {
        let at = self.points.partition_point(|p| p.offset < offset);
        match self.points.get(at) {
            Some(p) if p.offset == offset => {}
            _ => self.points.insert(at, Point { offset, index }),
        }
        thin(&mut self.points, MAX_POINTS);
    }

    /// What lies at or behind `offset`.
    #[must_use]
    pub fn first_at(&self, offset: u64) -> FirstUnread {
        match self.last {
            None => return FirstUnread::None,
            Some(last) if offset > last.offset => return FirstUnread::None,
            Some(last) if offset == last.offset && wrong(Mutation::LastRecordCountsAsRead) => return FirstUnread::None,
            Some(_) => {}
        }
        let behind = self.points.partition_point(|p| p.offset <= offset);
        match behind.checked_sub(1).and_then(|i| self.points.get(i)) {
            None if wrong(Mutation::UnknownIsCaughtUp) => FirstUnread::None,
            None => FirstUnread::Unknown,
            Some(p) if p.offset == offset => FirstUnread::Exactly(p.index),
            Some(p) if wrong(Mutation::UpperBoundBetweenSamples) => {
                FirstUnread::AtLeast(self.points.get(behind).map_or(p.index, |next| next.index))
            }
            Some(p) => FirstUnread::AtLeast(p.index),
        }
    }

    /// A position below which every record has an effective index of at most `index`; never behind the last record.
    #[must_use]
    pub fn offset_up_to(&self, index: u64) -> u64 {
        let behind = self.points.partition_point(|p| p.index <= index);
        behind.checked_sub(1).and_then(|i| self.points.get(i)).map_or(0, |p| p.offset)
    }

    /// Offset of the last durable record.
    #[must_use]
    pub fn last_offset(&self) -> Option<u64> {
        self.last.map(|p| p.offset)
    }

    /// Forgets what no reader will ask for again: points below `offset`, but for the nearest one.
    pub fn forget_below(&mut self, offset: u64) {
        let behind = self.points.partition_point(|p| p.offset <= offset);
        if let Some(n) = behind.checked_sub(1) {
            self.points.drain(..n);
        }
    }

    /// Memory held, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.points.capacity() * size_of::<Point>() + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_partition_holds_nobody_back() {
        assert_eq!(Samples::with_tail(None).first_at(0), FirstUnread::None);
    }

    #[test]
    fn a_position_between_two_points_is_bounded_from_below() {
        let mut s = Samples::default();
        s.push(10, 100);
        s.push(20, 200);
        assert_eq!(s.first_at(10), FirstUnread::Exactly(100));
        assert_eq!(s.first_at(15), FirstUnread::AtLeast(100));
        assert_eq!(s.first_at(21), FirstUnread::None);
    }

    #[test]
    fn below_the_first_point_nothing_is_known_until_it_is_read() {
        let mut s = Samples::with_tail(Some((50, 500)));
        assert_eq!(s.first_at(7), FirstUnread::Unknown);
        s.learn(7, 70);
        assert_eq!(s.first_at(7), FirstUnread::Exactly(70));
        assert_eq!(s.first_at(9), FirstUnread::AtLeast(70));
    }

    #[test]
    fn a_backlog_of_a_hundred_million_records_stays_small() {
        let mut s = Samples::default();
        for i in 0..400_000u64 {
            s.push(i * 256, i * 256);
        }
        assert!(s.bytes() < 256 * 1024, "{} bytes", s.bytes());
        assert_eq!(s.first_at(399_999 * 256 + 1), FirstUnread::None);
        assert!(matches!(s.first_at(123_456_789 / 256 * 200), FirstUnread::AtLeast(_) | FirstUnread::Exactly(_)));
    }

    #[test]
    #[should_panic(expected = "a position went back")]
    fn a_position_that_goes_back_stops_the_bridge() {
        let mut s = Samples::default();
        s.push(10, 1);
        s.push(10, 2);
    }
}
