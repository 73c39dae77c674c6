//! The one type that can reach the MDT as a clear.

use std::num::NonZeroU64;

/// An index that may be cleared on the MDT. Only the ledger can make one, so that no other code can clear by mistake;
/// it is never 0, which the MDT would take for "everything".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Clearable(NonZeroU64);

impl Clearable {
    pub(super) fn new(index: NonZeroU64) -> Self {
        Self(index)
    }

    /// Everything up to and including this index may be cleared.
    #[must_use]
    pub fn index(self) -> NonZeroU64 {
        self.0
    }

    /// No further than `index`: what may be cleared, may be cleared in part.
    #[must_use]
    pub fn at_most(self, index: NonZeroU64) -> Self {
        Self(self.0.min(index))
    }

    /// For tests of sources, which have to clear something.
    #[cfg(test)]
    #[must_use]
    pub fn for_test(index: NonZeroU64) -> Self {
        Self(index)
    }
}
