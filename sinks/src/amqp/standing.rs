//! Groups whose queues are empty although they have not answered everything: what is missing can never be answered any
//! more, because it was acknowledged without an answer, purged, or has expired.
//!
//! No counter of a queue says what a member has in its hands. So it is said of a group only when several looks in a row
//! found nothing in its queues and nobody who reads them, and no answer came in between; and nothing follows from it but
//! a word in `status`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Shared;
use super::answers::Answered;
use super::life::lock;
use super::topology::group_queues;

/// How often the queues of a group that stands still are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// So many looks in a row must find nothing.
const LOOKS: u32 = 3;
/// All looks of one round may take so long; those that are not done by then say nothing.
pub(super) const LONGEST: Duration = Duration::from_secs(2);

/// Groups that stand still, by topic and name.
pub(super) type Standing = BTreeMap<(String, String), Group>;

/// A group that stands still.
pub(super) struct Group {
    /// What it had answered when it was looked first.
    answered: (u64, u64, usize),
    looked: Instant,
    /// Looks in a row that found nothing.
    empty: u32,
}

impl Shared {
    /// Whether nothing is left that a group could answer, which has answered this and not everything. A look that is not
    /// done at `until` says nothing.
    pub(super) async fn is_drained(&self, topic: &str, group: &str, answered: &Answered, until: Instant) -> bool {
        let (key, now) = ((topic.to_owned(), group.to_owned()), Instant::now());
        let answered = answered.extent();
        {
            let mut standing = lock(&self.standing);
            match standing.get_mut(&key).filter(|g| g.answered == answered) {
                None => {
                    standing.insert(key, Group { answered, looked: now, empty: 0 });
                    return false;
                }
                Some(g) if now.duration_since(g.looked) < LOOK_EVERY => return g.empty >= LOOKS,
                Some(g) => g.looked = now,
            }
        }
        let empty = tokio::time::timeout_at(until.into(), self.is_empty(topic, group)).await.unwrap_or(false);
        let mut standing = lock(&self.standing);
        let Some(g) = standing.get_mut(&key).filter(|g| g.answered == answered) else { return false };
        g.empty = if empty { g.empty + 1 } else { 0 };
        g.empty >= LOOKS
    }

    /// Whether nothing is in a group's queues, and nobody reads them, as far as the broker can be asked.
    async fn is_empty(&self, topic: &str, group: &str) -> bool {
        for queue in group_queues(topic, group, self.config.kind_of(group).1) {
            match self.look(&queue).await {
                Ok(None | Some((0, 0))) => {}
                Ok(Some(_)) | Err(_) => return false,
            }
        }
        true
    }
}
