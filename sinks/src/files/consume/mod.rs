//! Consumers: a member of a group, and a reader that belongs to none.

mod ephemeral;
mod member;

use std::path::Path;
use std::time::{Duration, Instant};

use super::read::Lying;
use super::{Shared, disk};
use crate::error::SinkError;
use crate::topic::{Position, Topic};
use crate::traits::{Consumed, Subscription};
pub(super) use ephemeral::Ephemeral;
pub(super) use member::Member;

/// How soon a new topic, a free one, and another member are noticed.
const LOOK: Duration = Duration::from_millis(500);
/// How soon a new record is.
const POLL: Duration = Duration::from_millis(10);
/// What the name of a member's own file ends with; it is locked as long as the member lives.
const MEMBER: &str = ".member";

/// The topics that a subscription takes; with `group` those of its repairs too.
fn topics(shared: &Shared, what: &Subscription, group: Option<&str>) -> Result<Vec<Topic>, SinkError> {
    let mut all = shared.topics()?;
    all.retain(|topic| {
        let repaired = shared.config.parse_topic(&topic.name).and_then(|(_, _, repaired)| repaired);
        what.mdts.takes(&topic.mdt) && topic.feed == what.feed && (repaired.is_none() || repaired.as_deref() == group)
    });
    Ok(all)
}

/// Whether it is time to look again.
fn due(looked: &mut Option<Instant>) -> bool {
    let due = looked.is_none_or(|at| at.elapsed() >= LOOK);
    if due {
        *looked = Some(Instant::now());
    }
    due
}

fn consumed(topic: &str, record: Lying) -> Consumed {
    Consumed {
        topic: topic.to_owned(),
        at: Position { partition: 0, offset: record.position },
        key: None,
        payload: record.payload,
        retracts: record.retracts,
    }
}

/// How many members of a group live; with `what` those only that take the same. What dead ones left is removed.
pub(super) fn members(dir: &Path, what: Option<&[u8]>) -> Result<usize, SinkError> {
    let mut count = 0;
    for name in disk::names(dir)?.iter().filter(|name| name.ends_with(MEMBER)) {
        let path = dir.join(name);
        let Ok(file) = std::fs::File::open(&path) else { continue };
        if disk::lock_now(&file, &path)? {
            // Its member is dead. A member that is just being born has its file under another name.
            drop(std::fs::remove_file(&path));
        } else if what.is_none_or(|what| std::fs::read(&path).is_ok_and(|there| there == what)) {
            count += 1;
        }
    }
    Ok(count)
}
