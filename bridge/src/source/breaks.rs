//! Where a stream of records may hide that an MDT crashed and gave indexes anew: there the record before the break has
//! to be found unchanged on a fresh descriptor before anything behind it is published.
//!
//! It sees every record on its way, so it costs a few nanoseconds each; it does no I/O and reads no clock.

use clbridge_schemas::ids::Digest;
use clbridge_schemas::lustre::{Fid, RecordType, Time, View};

/// How far the times of two neighbours may be apart, in nanoseconds. An MDT needs longer than that to come back.
const APART: u64 = 2_000_000_000;
/// Marker flag of a MARK record: changelogs were started (`CLM_START`).
const MARK_START: u32 = 0x1_0000;

/// Why a record's predecessor has to be verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The reader paused, waited or opened again in between.
    Silence,
    /// The record is this many nanoseconds younger (or, below zero, older) than the one before.
    Time(i64),
    /// A MARK record says that changelogs were started.
    MarkStart,
    /// The index is not above the one before.
    Index(u64),
}

/// A place in the stream that has to be verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Break {
    /// Index and digest of the record before the break.
    pub verify: (u64, Digest),
    /// What was seen.
    pub why: Why,
}

/// The newest record that was let pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Last {
    index: u64,
    time: Option<Time>,
    is: Identity,
}

/// Hashing every record would cost more than all the rest here, and only few are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Identity {
    Digest(Digest),
    Fields(RecordType, Time, Fid),
}

impl Last {
    fn digest(&self) -> Digest {
        match self.is {
            Identity::Digest(digest) => digest,
            Identity::Fields(kind, time, tfid) => Digest::of(self.index, kind, time, tfid),
        }
    }
}

/// Looks for breaks in one MDT's stream.
#[derive(Clone, Debug, Default)]
pub struct Breaks {
    last: Option<Last>,
}

impl Breaks {
    /// Goes on behind the record with this index, digest and, if known, time; without one, before the first record.
    #[must_use]
    pub fn new(last: Option<(u64, Digest, Option<Time>)>) -> Self {
        let last = last.map(|(index, digest, time)| Last { index, time, is: Identity::Digest(digest) });
        Self { last }
    }

    /// Takes the next record. `doubt`: between this record and the one before, the reader paused for longer than an
    /// MDT needs to restart, or opened again without finding the record before unchanged.
    #[inline]
    pub fn before(&mut self, view: &View<'_>, doubt: bool) -> Option<Break> {
        let (index, time, kind, tfid) = (view.index(), view.time(), view.rtype(), view.tfid());
        let is = Identity::Fields(kind, time, tfid);
        let last = self.last.replace(Last { index, time: Some(time), is })?;
        let apart = last.time.map_or(0, |before| time.nanos().saturating_sub(before.nanos()));
        let start = view.marker_flags().is_some_and(|flags| flags & MARK_START != 0);
        if index > last.index && apart.unsigned_abs() <= APART && !start && !doubt {
            return None;
        }
        let why = if index <= last.index {
            Why::Index(index)
        } else if start {
            Why::MarkStart
        } else if apart.unsigned_abs() > APART {
            Why::Time(apart)
        } else {
            Why::Silence
        };
        Some(Break { verify: (last.index, last.digest()), why })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clbridge_schemas::lustre::records;

    const SECOND: i64 = 1_000_000_000;

    /// A record without any extension; a MARK where there are marker flags.
    fn record(index: u64, time: i64, marker: Option<u32>) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        let kind = if marker.is_some() { RecordType::MARK } else { RecordType::CREAT };
        bytes[4..8].copy_from_slice(&kind.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&index.to_le_bytes());
        bytes[24..32].copy_from_slice(&Time::from_nanos(time).to_kernel().unwrap().to_le_bytes());
        bytes[32..36].copy_from_slice(&marker.unwrap_or(7).to_le_bytes());
        bytes
    }

    fn before(breaks: &mut Breaks, bytes: &[u8], doubt: bool) -> Option<Break> {
        breaks.before(&records(bytes, 0).next().unwrap().unwrap(), doubt)
    }

    /// What is found at the second of two records.
    fn second(first: &[u8], then: &[u8], doubt: bool) -> Option<Why> {
        let mut breaks = Breaks::default();
        assert_eq!(before(&mut breaks, first, true), None, "nothing is before the first record");
        let found = before(&mut breaks, then, doubt)?;
        let view = records(first, 0).next().unwrap().unwrap();
        assert_eq!(found.verify, (view.index(), view.digest()));
        Some(found.why)
    }

    #[test]
    fn neighbours_within_two_seconds_pass_and_gaps_of_indexes_are_allowed() {
        let first = record(5, 100 * SECOND, None);
        for (index, time) in [(6, 100 * SECOND), (7, 102 * SECOND), (900, 98 * SECOND)] {
            assert_eq!(second(&first, &record(index, time, None), false), None);
        }
    }

    #[test]
    fn a_jump_of_time_forwards_or_backwards_a_mark_start_a_doubt_and_an_old_index_are_breaks() {
        let first = record(5, 100 * SECOND, None);
        let (late, early) = (record(6, 102 * SECOND + 1, None), record(6, 98 * SECOND - 1, None));
        assert_eq!(second(&first, &late, false), Some(Why::Time(2 * SECOND + 1)));
        assert_eq!(second(&first, &early, false), Some(Why::Time(-2 * SECOND - 1)));
        let next = record(6, 100 * SECOND, None);
        assert_eq!(second(&first, &next, true), Some(Why::Silence));
        let (start, fini) = (record(6, 100 * SECOND, Some(0x11_0001)), record(6, 100 * SECOND, Some(0x12_0001)));
        assert_eq!(second(&first, &start, false), Some(Why::MarkStart));
        assert_eq!(second(&first, &fini, false), None);
        for index in [4, 5] {
            assert_eq!(second(&first, &record(index, 100 * SECOND, None), true), Some(Why::Index(index)));
        }
    }

    #[test]
    fn behind_a_recovered_frontier_the_first_record_is_judged_too() {
        let digest = Digest(77);
        let known = |time| Breaks::new(Some((5, digest, time)));
        let next = record(6, 100 * SECOND, None);
        assert_eq!(before(&mut known(None), &next, false), None);
        let verify = (5, digest);
        let silence = Some(Break { verify, why: Why::Silence });
        assert_eq!(before(&mut known(None), &next, true), silence);
        let old = Some(Time::from_nanos(90 * SECOND));
        assert_eq!(before(&mut known(old), &next, false), Some(Break { verify, why: Why::Time(10 * SECOND) }));
    }

    #[test]
    fn the_reader_that_lived_through_a_real_crash_finds_the_one_break_before_its_first_new_record() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/lustre/p7-crash.MDT0000.");
        let lived = std::fs::read(format!("{folder}follow-reader.bin")).unwrap();
        let stands = std::fs::read(format!("{folder}after-recovery.bin")).unwrap();
        let mut breaks = Breaks::default();
        let mut found = Vec::new();
        for view in records(&lived, 0) {
            let view = view.unwrap();
            found.extend(breaks.before(&view, false).map(|at| (view.index(), at)));
        }
        let [(222_883, Break { verify: (222_882, digest), why: Why::Time(apart) })] = found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(apart / SECOND, 111);
        // What stands under that index is another record: the check would have told.
        let now = records(&stands, 0).map(Result::unwrap).find(|view| view.index() == 222_882).unwrap();
        assert_ne!(now.digest(), digest);
    }
}
