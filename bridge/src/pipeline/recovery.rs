//! Drives [`Start`]: probes the MDT and reads the topics as it asks, until there is a plan.

use std::time::Duration;

use clbridge_schemas::ids::{Digest, MdtName};
use clbridge_sinks::state::Mark;
use clbridge_sinks::{Sink, SinkError, Topic};
use thiserror::Error;
use tracing::info;

use crate::core::{Found, Plan, Start, Step, Stop};
use crate::source::{Clearer, SourceError};

/// Why there is no plan.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// The MDT cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The broker cannot be read.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// An operator has to act.
    #[error("{}", .0.text)]
    Stop(Stop),
    /// A thread ended in a panic.
    #[error("a step of the start panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Follows the start to its plan. `waiting` is called while nothing can be decided, with the reason.
///
/// # Errors
/// See [`RecoveryError`].
pub async fn plan(
    mdt: &MdtName,
    found: Found,
    sink: &dyn Sink,
    topics: &[Topic],
    mut clearer: Box<dyn Clearer>,
    waiting: &mut (dyn FnMut(String) + Send),
) -> Result<(Plan, Box<dyn Clearer>), RecoveryError> {
    let incarnation = found.state.as_ref().map_or(1, |s| s.incarnation);
    let mut start = Start::new(found).map_err(RecoveryError::Stop)?;
    loop {
        let step = start.next();
        info!(%mdt, ?step, "start");
        match step {
            Step::Done => match start.plan() {
                Some(plan) => return Ok((plan, clearer)),
                None => unreachable!("a start that is done has a plan"),
            },
            Step::Probe(index) => {
                let probe;
                (clearer, probe) = blocking(clearer, move |c| c.probe(index)).await?;
                start.probed(probe?);
            }
            Step::Wait(index) => {
                waiting(format!(
                    "nothing can be read and record {index} was not cleared: the next record will tell what happened"
                ));
                tokio::time::sleep(Duration::from_millis(500)).await;
                let probe;
                (clearer, probe) = blocking(clearer, move |c| c.probe(index)).await?;
                start.probed(probe?);
            }
            Step::Oldest => {
                let oldest;
                (clearer, oldest) = blocking(clearer, |c| c.oldest()).await?;
                start.oldest(oldest?);
            }
            Step::Compare { above, from, to } => {
                let mut published = Vec::new();
                for t in topics {
                    sink.read_back(t, incarnation, above, &mut |s| {
                        if s.head.retracts.is_none() {
                            published.push(Mark { id: s.head.id(), digest: s.head.digest() });
                        }
                    })
                    .await?;
                }
                published.sort_unstable_by_key(|m| (m.id.index, m.id.incarnation));
                let scan;
                (clearer, scan) = blocking(clearer, move |c| {
                    let mut standing: Vec<(u64, Digest)> = Vec::new();
                    c.scan(from, to, &mut |index, digest| standing.push((index, digest))).map(|()| standing)
                })
                .await?;
                start.compared(&published, &scan?).map_err(RecoveryError::Stop)?;
            }
        }
    }
}

/// Runs a call of the clearer where it may block.
async fn blocking<T: Send + 'static>(
    mut clearer: Box<dyn Clearer>,
    call: impl FnOnce(&mut dyn Clearer) -> T + Send + 'static,
) -> Result<(Box<dyn Clearer>, T), tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || {
        let answer = call(clearer.as_mut());
        (clearer, answer)
    })
    .await
}
