//! When the writer seals, what it tells the core then, and how it ends in good order.

use std::sync::atomic::Ordering;
use std::time::Duration;

use clbridge_sinks::Refused;

use super::{BUSY_WAIT, Writer, WriterError};
use crate::core::Event;
use crate::failpoint;
use crate::pipeline::clock;

impl Writer {
    /// Seals when a batch is old enough, when the input ran dry, or when State is due.
    pub(super) fn seal_if_due(&mut self, dry: bool) -> Result<(), WriterError> {
        let now = clock::now();
        let age = self.unsealed.map(|(_, since)| now.saturating_sub(since));
        let due = match age {
            Some(age) => age >= self.batch.max_age || (dry && now.saturating_sub(self.sealed_at) >= self.batch.min_age),
            None => self.dirty && dry,
        };
        if (due || self.shared.core().state_due(now)) && self.publisher.ready() {
            self.seal()?;
        }
        Ok(())
    }

    /// Seals what was published and read so far, with State where it can travel inside, else beside it.
    pub(super) fn seal(&mut self) -> Result<(), WriterError> {
        while !self.publisher.ready() {
            self.poll(BUSY_WAIT)?;
            if self.shared.is_over() {
                return Ok(());
            }
        }
        let now = clock::now();
        let wall_ms = u64::try_from(clock::wall().as_millis()).unwrap_or(u64::MAX);
        let frontier = self.last;
        let (state, beside) = {
            let mut core = self.shared.core();
            if self.dirty
                && let Some(mark) = frontier
            {
                core.on(Event::Sealed(mark), now);
            }
            if self.capabilities.atomic_state {
                (Some(core.state(frontier, wall_ms, now)), None)
            } else {
                (None, core.state_due(now).then(|| core.state(None, wall_ms, now)))
            }
        };
        failpoint::hit("before_commit");
        if self.dirty || state.is_some() {
            accepted(self.publisher.seal(frontier.map(|m| m.id), state.as_ref()))?;
        }
        if let Some(state) = beside {
            accepted(self.publisher.store(&state))?;
        }
        self.unsealed = None;
        self.dirty = false;
        self.sealed_at = now;
        Ok(())
    }

    /// Takes what has become durable, and tells the core.
    pub(super) fn poll(&mut self, wait: Duration) -> Result<(), WriterError> {
        self.durable.clear();
        let result = self.publisher.poll(wait, &mut |d| self.durable.push(d));
        self.shared.in_flight.store(self.publisher.in_flight().0, Ordering::Relaxed);
        if !self.durable.is_empty() {
            failpoint::hit("after_commit");
            let now = clock::now();
            let mut core = self.shared.core();
            for d in self.durable.drain(..) {
                core.on(Event::Durable(d), now);
            }
        }
        Ok(result?)
    }

    /// Makes everything that was read durable, then reports the drain; goes on writing State until the life is over,
    /// so that clears can still be issued.
    pub(super) fn drain(&mut self) -> Result<(), WriterError> {
        self.seal()?;
        self.shared.core().on(Event::Draining, clock::now());
        while !self.shared.is_over() {
            self.poll(Duration::from_millis(5))?;
            if self.publisher.in_flight().0 == 0 && self.publisher.ready() {
                self.shared.drained.store(true, Ordering::Release);
            }
            if self.shared.core().state_due(clock::now()) && self.publisher.ready() {
                self.seal()?;
            }
        }
        Ok(())
    }
}

/// `ready` said yes on this very thread, so a refusal other than death is a broken contract.
fn accepted(result: Result<(), Refused>) -> Result<(), WriterError> {
    match result {
        Ok(()) => Ok(()),
        Err(Refused::Dead(e)) => Err(e.into()),
        Err(Refused::Full) => Err(WriterError::Suspect("the publisher refused a seal that it was ready for".into())),
    }
}
