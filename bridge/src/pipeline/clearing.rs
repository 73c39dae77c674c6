//! The thread for probes and clears: both open a fresh descriptor and both can block for a minute while an MDT
//! restarts. It decides nothing: answers go to the core.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;

use tracing::{debug, warn};

use super::{Shared, clock};
use crate::core::{ClearOutcome, Clearable, Event, Now};
use crate::failpoint;
use crate::source::{ClearError, Clearer, Probe, SourceError};

/// What the thread is asked for.
pub enum Request {
    /// Probe for the core.
    Probe(NonZeroU64),
    /// Clear, unless it is later than this when its turn comes.
    Clear(Clearable, Now),
    /// Probe for the writer, which waits for the answer before it publishes anything behind a break.
    Verify(NonZeroU64, SyncSender<Result<Probe, SourceError>>),
}

/// Starts the thread; it ends when every sender of requests is gone.
///
/// # Errors
/// The system gives no thread.
pub fn spawn(
    name: &str,
    mut clearer: Box<dyn Clearer>,
    requests: Receiver<Request>,
    shared: Arc<Shared>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("clear-{name}")).spawn(move || {
        while let Ok(request) = requests.recv() {
            match request {
                Request::Probe(index) => {
                    let probe = clearer.probe(index).inspect_err(|e| warn!("{e}")).ok();
                    shared.core().on(Event::Probed { index, probe }, clock::now());
                }
                Request::Clear(upto, until) => {
                    let outcome = clear(clearer.as_mut(), upto, until);
                    debug!(upto = upto.index().get(), ?outcome, "clear");
                    shared.core().on(Event::Cleared { upto, outcome }, clock::now());
                }
                Request::Verify(index, answer) => {
                    // The writer may have given up waiting; then nobody needs the answer.
                    let _ = answer.send(clearer.probe(index));
                }
            }
        }
    })
}

fn clear(clearer: &mut dyn Clearer, upto: Clearable, until: Now) -> ClearOutcome {
    if clock::now() >= until {
        return ClearOutcome::Late;
    }
    failpoint::hit("before_clear");
    match clearer.clear(upto) {
        Ok(()) => ClearOutcome::Done,
        Err(ClearError::Invalid) => ClearOutcome::Beyond,
        Err(ClearError::Busy(e)) => ClearOutcome::Busy(e.to_string()),
        Err(ClearError::Source(e)) => ClearOutcome::Busy(e.to_string()),
        // Unknown user, or cleared before: what is still readable tells.
        Err(ClearError::NotFound) => match clearer.oldest() {
            Ok(oldest) if oldest.is_none_or(|o| o > upto.index().get()) => ClearOutcome::Done,
            Ok(_) => ClearOutcome::UnknownUser,
            Err(e) => ClearOutcome::Busy(e.to_string()),
        },
    }
}
