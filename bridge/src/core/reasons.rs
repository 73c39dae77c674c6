//! Every reason for which the core holds an MDT or a group, so that none can be added that no test ever sees.

use super::Hold;

macro_rules! reasons {
    ($($name:ident = $text:literal: $doc:literal,)*) => {
        /// Why nothing, or not everything, is cleared. `status` shows each by its name with what ends it.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Reason { $(#[doc = $doc] $name,)* }

        impl Reason {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Short name, stable over versions.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    NoFirstPosition = "no_first_position": "See [`Hold::NoFirstPosition`].",
    PositionsVanished = "positions_vanished": "See [`Hold::PositionsVanished`].",
    WentBack = "went_back": "See [`Hold::WentBack`].",
    BeyondEnd = "beyond_end": "See [`Hold::BeyondEnd`].",
    Evicted = "evicted": "See [`Hold::Evicted`].",
    RepairUnread = "repair_unread": "A group has not yet read its repair topic.",
    NeverAnswered = "never_answered": "Nothing is left that a group could still acknowledge, and it has not acknowledged all.",
    NoGroups = "no_groups": "No persistent group is registered for the MDT.",
    ClearRefused = "clear_refused": "The MDT does not know the changelog user.",
    RegistryUnreadable = "registry_unreadable": "The registry of groups cannot be read.",
    BrokerUnavailable = "broker_unavailable": "The groups' positions cannot be read.",
}

impl From<Hold> for Reason {
    fn from(hold: Hold) -> Self {
        match hold {
            Hold::NoFirstPosition { .. } => Self::NoFirstPosition,
            Hold::PositionsVanished { .. } => Self::PositionsVanished,
            Hold::WentBack { .. } => Self::WentBack,
            Hold::BeyondEnd { .. } => Self::BeyondEnd,
            Hold::Evicted { .. } => Self::Evicted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_hold_has_the_same_name_in_status_as_in_state() {
        let (partition, was, now, at, end, low) = (0, 1, 0, 3, 2, 2);
        for hold in [
            Hold::NoFirstPosition { partition },
            Hold::PositionsVanished { partition, was },
            Hold::WentBack { partition, was, now },
            Hold::BeyondEnd { partition, at, end },
            Hold::Evicted { partition, at, low },
        ] {
            assert_eq!(Reason::from(hold).as_str(), hold.reason());
        }
    }
}
