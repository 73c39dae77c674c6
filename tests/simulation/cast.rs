//! Who takes part in a run: the groups, what they take and how far they may be let go.

use std::time::Duration;

use clbridge_sinks::{GroupSpec, Policy, StartAt};

use crate::draw::Draw;
use crate::judge::Leave;

pub const NAMES: [&str; 4] = ["robinhood", "lake", "audit", "some"];

pub fn spec(n: usize, leave: Option<Leave>, draw: &mut Draw) -> GroupSpec {
    let policy = match leave {
        Some(Leave { backlog, age }) => Policy::Release { backlog, age: age.map(Duration::from_millis) },
        None => Policy::Hold,
    };
    GroupSpec {
        name: NAMES[n].into(),
        mdts: Default::default(),
        feed: (n == 3).then(|| "some".into()),
        from: if draw.percent(50) { StartAt::Newest } else { StartAt::Oldest },
        policy,
        accept: 0,
        repair: 0,
        by_pattern: false,
    }
}

/// Limits that a run of these lengths can reach.
pub fn leave(draw: &mut Draw) -> Leave {
    let backlog = draw.range(20, 300);
    let age = draw.range(2_000, 20_000);
    match draw.below(3) {
        0 => Leave { backlog: Some(backlog), age: None },
        1 => Leave { backlog: None, age: Some(age) },
        _ => Leave { backlog: Some(backlog), age: Some(age) },
    }
}
