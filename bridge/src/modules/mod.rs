//! Modules: steps between reading and publishing that filter, drop, reorder or enrich.
//!
//! A module decides about a record in place, on the MDT's own thread: it must never allocate, lock or wait.

mod filter;

pub use filter::{TypeSet, UnknownTypeName};

/// What becomes of a record in a feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is published.
    Publish,
    /// It is not published, on purpose; it becomes clearable with the records around it and is counted.
    Drop(DropReason),
}

/// Why a record is not published in a feed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DropReason {
    /// The feed does not take its type.
    Type,
}

impl DropReason {
    /// Short name, for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
        }
    }
}
