//! The names by which records are answered: `MDT/FEED:INCARNATION:INDEX`, a range `…:FROM..TO`, a retraction `…:INDEX:r0`.
//!
//! A message's `message_id` names its record alone. Its `correlation_id` names what an answer to it settles: also the
//! indexes before it that were never published to this feed, so that answers can be joined into ranges without anybody
//! knowing which records were dropped.

use std::fmt;
use std::num::NonZeroU64;

use clbridge_schemas::ids::{MdtName, RecordId};

use crate::topic::Position;

/// What the default feed is called.
pub(super) const DEFAULT_FEED: &str = "all";

/// Records of one incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Span {
    pub(super) incarnation: u32,
    /// First index.
    pub(super) from: u64,
    /// Last index, not below `from`.
    pub(super) to: u64,
    /// It is the retraction at `from`.
    pub(super) retraction: bool,
}

impl Span {
    /// One record, or one retraction.
    pub(super) fn of(id: RecordId, retraction: bool) -> Self {
        let index = id.index.get();
        Self { incarnation: id.incarnation, from: index, to: index, retraction }
    }

    /// Where its last record lies.
    pub(super) fn position(&self) -> Option<Position> {
        let id = RecordId { incarnation: self.incarnation, index: NonZeroU64::new(self.to)? };
        Position::of_identity(0, id, self.retraction)
    }

    /// Both together, if nothing lies between them.
    pub(super) fn join(self, next: Self) -> Option<Self> {
        let joins = self.incarnation == next.incarnation
            && !self.retraction
            && !next.retraction
            && next.from <= self.to.saturating_add(1)
            && self.from <= next.from;
        joins.then(|| Self { to: self.to.max(next.to), ..self })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { incarnation, from, retraction: true, .. } => write!(f, "{incarnation}:{from}:r0"),
            Self { incarnation, from, to, .. } if from == to => write!(f, "{incarnation}:{from}"),
            Self { incarnation, from, to, .. } => write!(f, "{incarnation}:{from}..{to}"),
        }
    }
}

/// What every name of a topic begins with: `MDT/FEED:`.
pub(super) fn stem(mdt: &MdtName, feed: Option<&str>) -> String {
    format!("{mdt}/{}:", feed.unwrap_or(DEFAULT_FEED))
}

/// Understands what stands behind the stem; `None` if it is no such name.
pub(super) fn span(text: &str) -> Option<Span> {
    let (incarnation, rest) = text.split_once(':')?;
    let incarnation = incarnation.parse().ok()?;
    let (indexes, retraction) = match rest.split_once(':') {
        None => (rest, false),
        Some((indexes, partition)) => {
            partition.strip_prefix('r')?.parse::<u32>().ok()?;
            (indexes, true)
        }
    };
    let (from, to) = match indexes.split_once("..") {
        Some((from, to)) => (from.parse().ok()?, to.parse().ok()?),
        None => {
            let index = indexes.parse().ok()?;
            (index, index)
        }
    };
    // No index of a record is larger than fits into a position.
    let fits = from >= 1 && from <= to && to < 1 << 39 && !(retraction && from != to);
    fits.then_some(Span { incarnation, from, to, retraction })
}

/// Splits a whole name into what it begins with and the records.
pub(super) fn split(name: &str) -> Option<(&str, Span)> {
    let slash = name.find('/')?;
    let colon = slash + name.get(slash..)?.find(':')?;
    Some((name.get(..=colon)?, span(name.get(colon + 1..)?)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_understood() {
        for text in ["1:7", "3:7..12", "2:15:r0"] {
            assert_eq!(span(text).unwrap().to_string(), text);
        }
        let (stem_of, records) = split("fs-MDT0000/all:1:3..5").unwrap();
        assert_eq!((stem_of, records), ("fs-MDT0000/all:", Span { incarnation: 1, from: 3, to: 5, retraction: false }));
        assert_eq!(stem(&"fs-MDT0000".parse().unwrap(), None), stem_of);
    }

    #[test]
    fn anything_else_is_no_name() {
        for text in
            ["", "1", "1:", "1:0", "1:5..4", "x:1", "1:1..", "1:1:2", "1:1..2:r0", "1:549755813888", "-1:1", "1:1 "]
        {
            assert_eq!(span(text), None, "{text}");
        }
        assert_eq!(split("1:7"), None);
    }

    #[test]
    fn neighbours_join_and_others_do_not() {
        let s = |text| span(text).unwrap();
        assert_eq!(s("1:1..4").join(s("1:5..9")), Some(s("1:1..9")));
        assert_eq!(s("1:1..4").join(s("1:3..6")), Some(s("1:1..6")));
        for (a, b) in [("1:1..4", "1:6"), ("1:1", "2:2"), ("1:1", "1:2:r0"), ("1:5", "1:4")] {
            assert_eq!(s(a).join(s(b)), None, "{a} {b}");
        }
    }
}
