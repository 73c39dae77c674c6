#![allow(clippy::unwrap_used)]

use std::num::NonZeroU64;
use std::time::Duration;

use super::{ClearSettings, ClearStep, Clears};
use crate::core::Now;
use crate::core::ledger::Clearable;

const FRESH: Now = Duration::from_secs(2);

fn at(ms: u64) -> Now {
    Duration::from_millis(ms)
}

fn upto(index: u64) -> Clearable {
    Clearable::for_test(NonZeroU64::new(index).unwrap())
}

/// The first life of an MDT.
fn clears() -> Clears {
    let settings = ClearSettings {
        batch: 10,
        every: at(200),
        heartbeat: Duration::from_secs(3600),
        state_fresh: FRESH,
        retry: Duration::from_secs(1),
    };
    Clears::new(settings, 0, Now::ZERO)
}

#[test]
fn what_a_state_names_is_cleared_although_groups_have_gone_on_while_it_was_on_its_way() {
    // given a State that names what may be cleared, on a broker that takes longer for it than groups for more
    let mut clears = clears();
    assert_eq!(clears.next(Some(upto(100)), at(1000)), ClearStep::NeedState(100));
    assert_eq!(clears.name(), 100);
    assert_eq!(clears.next(Some(upto(150)), at(1500)), ClearStep::NeedState(150));

    // when it is durable at last
    clears.state_confirmed(100, at(1900));

    // then what it names is cleared, and no later State names less
    let step = clears.next(Some(upto(200)), at(1900));
    assert_eq!(step, ClearStep::Issue { upto: upto(100), until: at(1900) + FRESH });
    assert_eq!((clears.issued(), clears.name()), (100, 150));
}

#[test]
fn no_clear_is_issued_twice_because_more_could_be_cleared_than_state_names() {
    // given a clear of all that State names
    let mut clears = clears();
    clears.next(Some(upto(100)), at(1000));
    clears.name();
    clears.state_confirmed(100, at(1100));
    clears.next(Some(upto(200)), at(1100));
    clears.returned(100, at(1200));

    // then more waits for a State that names it, and an old one is good for nothing
    assert_eq!(clears.next(Some(upto(200)), at(1500)), ClearStep::NeedState(200));
    clears.name();
    clears.state_confirmed(200, at(1600));
    assert_eq!(clears.next(Some(upto(300)), at(1600) + FRESH), ClearStep::NeedState(300));
}
