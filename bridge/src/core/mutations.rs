//! Deliberate bugs, to see that the simulation finds each of them.
//!
//! Only with the feature `mutations` can one be switched on, and only for the calling thread. Without it [`wrong`] is
//! constant and nothing of this is left; the `clbridge` binary cannot be built with it.

/// A deliberate bug, named by what the core then wrongly does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum Mutation {
    StableWithoutAsking,
    YoungIsStable,
    AnyRecordIsTheSame,
    StableAtStart,
    AcceptedIsDurable,
    DroppedTailCounts,
    LastRecordCountsAsRead,
    EmptyPartitionForgotten,
    UnknownIsCaughtUp,
    UpperBoundBetweenSamples,
    FloorOneTooHigh,
    PositionBeyondEndBelieved,
    VanishedPositionIsTheEnd,
    VoidRecordsKeepTheirIndex,
    OldAcknowledgementsStand,
    ClearBeforeState,
    StateOfAnyAge,
    ReleasedUnreplicated,
    ReleasedTooYoung,
    ReleasedTooMany,
    TrimBeforeState,
    TrimUncleared,
    TrimReleased,
    OtherRecordIsTheSame,
    ComparedByIndexOnly,
    SameIncarnation,
    WrongIncarnationIsVoid,
    RetractedTooLate,
    UncleanIsClean,
    PublishedBeforeState,
    SkipForgotten,
    RetractionForgotten,
    TailIsTheFrontier,
    GapCountedAgain,
    RetractionToldEarly,
    OneTailSpeaksForAll,
    AheadNotSeenAgain,
}

#[cfg(feature = "mutations")]
mod switch {
    use std::cell::Cell;

    use super::Mutation::{self, *};

    thread_local! {
        static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    impl Mutation {
        /// Every one of them.
        pub const ALL: [Self; 37] = [
            StableWithoutAsking,
            YoungIsStable,
            AnyRecordIsTheSame,
            StableAtStart,
            AcceptedIsDurable,
            DroppedTailCounts,
            LastRecordCountsAsRead,
            EmptyPartitionForgotten,
            UnknownIsCaughtUp,
            UpperBoundBetweenSamples,
            FloorOneTooHigh,
            PositionBeyondEndBelieved,
            VanishedPositionIsTheEnd,
            VoidRecordsKeepTheirIndex,
            OldAcknowledgementsStand,
            ClearBeforeState,
            StateOfAnyAge,
            ReleasedUnreplicated,
            ReleasedTooYoung,
            ReleasedTooMany,
            TrimBeforeState,
            TrimUncleared,
            TrimReleased,
            OtherRecordIsTheSame,
            ComparedByIndexOnly,
            SameIncarnation,
            WrongIncarnationIsVoid,
            RetractedTooLate,
            UncleanIsClean,
            PublishedBeforeState,
            SkipForgotten,
            RetractionForgotten,
            TailIsTheFrontier,
            GapCountedAgain,
            RetractionToldEarly,
            OneTailSpeaksForAll,
            AheadNotSeenAgain,
        ];

        /// From now on the core of this thread has this bug, or none.
        pub fn switch(on: Option<Self>) {
            ON.set(on);
        }
    }

    pub fn wrong(mutation: Mutation) -> bool {
        ON.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub(super) use switch::wrong;

/// Whether the core shall have this bug: never.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub(super) const fn wrong(_: Mutation) -> bool {
    false
}
