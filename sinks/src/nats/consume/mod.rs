//! The other side: members of groups, and ephemeral readers. Both look for streams now and then, since MDTs come later.

mod ephemeral;
mod member;
mod order;

use std::time::{Duration, Instant};

use async_nats::HeaderMap;

use super::Shared;
use super::link::Link;
use super::names::partition_of;
use super::read::{place, retracts_header};
use crate::error::SinkError;
use crate::record::{foreign, retracts};
use crate::topic::Position;
use crate::traits::{Consumed, Subscription};
pub(super) use ephemeral::Ephemeral;
pub(super) use member::Member;

/// How soon a new stream is noticed.
const LOOK: Duration = Duration::from_secs(2);

/// The streams that a subscription takes; with `group` those of its repairs too.
async fn streams(
    shared: &Shared,
    link: &Link,
    what: &Subscription,
    group: Option<&str>,
) -> Result<Vec<String>, SinkError> {
    let mut names = link.stream_names(&format!("{}.>", shared.config.prefix)).await?;
    names.retain(|name| {
        shared.config.parse_stream(name).is_some_and(|(mdt, feed, repaired)| {
            what.mdts.takes(&mdt) && feed == what.feed && (repaired.is_none() || repaired.as_deref() == group)
        })
    });
    Ok(names)
}

/// Whether it is time to look for streams again.
fn due(looked: &mut Option<Instant>) -> bool {
    let due = looked.is_none_or(|at| at.elapsed() >= LOOK);
    if due {
        *looked = Some(Instant::now());
    }
    due
}

fn consumed(
    stream: &str,
    sequence: u64,
    subject: &str,
    payload: &[u8],
    headers: Option<&HeaderMap>,
) -> Result<Consumed, SinkError> {
    let place = place(stream, sequence);
    let partition = partition_of(subject).ok_or_else(|| foreign(&place, format!("has the subject {subject}")))?;
    Ok(Consumed {
        topic: stream.to_owned(),
        at: Position { partition, offset: sequence },
        key: None,
        payload: payload.to_vec(),
        retracts: retracts(&place, retracts_header(headers))?,
    })
}
