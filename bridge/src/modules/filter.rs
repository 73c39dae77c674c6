//! `filter`: a feed takes some types of records and drops the others.

use std::fmt;

use clbridge_schemas::lustre::RecordType;
use thiserror::Error;

use super::{DropReason, Verdict};

/// Types of records, MARK always among them: a consumer must see that a changelog was stopped, and retractions are
/// MARKs.
///
/// The set of all types also takes types that this version does not know, which newer servers may send. A set that
/// was listed takes nothing but what it lists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TypeSet {
    /// Bit N: type N. Types are at most [`RecordType::LARGEST`].
    bits: u64,
}

/// A name that is no type of record.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("\"{0}\" is not a type of record; the types are {known}", known = known())]
pub struct UnknownTypeName(pub String);

fn known() -> String {
    RecordType::known().filter_map(RecordType::name).collect::<Vec<_>>().join(" ")
}

const MARK_BIT: u64 = 1 << RecordType::MARK.0;

impl TypeSet {
    /// Every type, unknown ones included.
    pub const ALL: Self = Self { bits: u64::MAX };

    /// The types with these names (in any case of letters), and MARK.
    ///
    /// # Errors
    /// The first name that is none, so that a slip of the pen cannot drop records.
    pub fn of_names<S: AsRef<str>>(names: &[S]) -> Result<Self, UnknownTypeName> {
        let mut bits = MARK_BIT;
        for name in names {
            let name = name.as_ref();
            let t = RecordType::from_name(&name.trim().to_ascii_uppercase())
                .ok_or_else(|| UnknownTypeName(name.to_owned()))?;
            bits |= 1 << t.0;
        }
        Ok(Self { bits })
    }

    /// The set that a feed's `types` stands for: none listed means all.
    ///
    /// # Errors
    /// As [`of_names`](Self::of_names).
    pub fn of_list(names: Option<&[String]>) -> Result<Self, UnknownTypeName> {
        names.map_or(Ok(Self::ALL), Self::of_names)
    }

    /// Whether records of this type are in the set.
    #[inline]
    #[must_use]
    pub const fn takes(&self, t: RecordType) -> bool {
        if t.0 < u64::BITS { self.bits >> t.0 & 1 == 1 } else { self.bits == u64::MAX }
    }

    /// What becomes of a record of this type.
    #[inline]
    #[must_use]
    pub const fn verdict(&self, t: RecordType) -> Verdict {
        if self.takes(t) { Verdict::Publish } else { Verdict::Drop(DropReason::Type) }
    }
}

impl Default for TypeSet {
    fn default() -> Self {
        Self::ALL
    }
}

/// `all`, or the names, a comma between them.
impl fmt::Display for TypeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        let names: Vec<_> = RecordType::known().filter(|t| self.takes(*t)).filter_map(RecordType::name).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for TypeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TypeSet({self})")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mark_passes_even_where_it_is_not_listed() {
        let set = TypeSet::of_names(&["CREAT", "unlnk"]).unwrap();
        assert!(set.takes(RecordType::MARK) && set.takes(RecordType::CREAT) && set.takes(RecordType::UNLNK));
        assert_eq!(set.verdict(RecordType::MKDIR), Verdict::Drop(DropReason::Type));
        assert_eq!(set.to_string(), "MARK,CREAT,UNLNK");
    }

    #[test]
    fn a_type_of_a_newer_server_passes_unless_a_list_leaves_it_out() {
        for t in [RecordType(25), RecordType(63), RecordType(64), RecordType(u32::MAX)] {
            assert!(TypeSet::ALL.takes(t), "{t}");
            assert!(!TypeSet::of_names(&["CREAT"]).unwrap().takes(t), "{t}");
        }
        assert_eq!(TypeSet::of_list(None), Ok(TypeSet::ALL));
    }

    #[test]
    fn a_name_that_is_no_type_is_an_error_that_lists_the_types() {
        let error = TypeSet::of_names(&["CREATE"]).unwrap_err().to_string();
        assert!(error.contains("\"CREATE\"") && error.contains("CREAT MKDIR"), "{error}");
    }
}
