//! A clear: received, perhaps waiting for the MDT to come back, executed or refused, and noted either way.

use std::io;
use std::time::Duration;

use super::faults::FaultOn;
use super::{Mdt, wall_ns};
use crate::generation::Generation;
use crate::oracle::Event;
use crate::users::{Errno, parse_clear};

impl Mdt {
    /// Executes a clear, waiting (by `pause`, which returns false to give up) while the MDT is down. `opened` is the
    /// count of evictions when the descriptor was opened.
    ///
    /// # Errors
    /// The kernel's error; `EIO` for one whose client was evicted.
    pub(crate) fn clear(
        &self,
        text: &[u8],
        opened: u64,
        pause: &mut dyn FnMut(Duration) -> bool,
    ) -> Result<usize, Errno> {
        let received_ns = wall_ns();
        let shown = String::from_utf8_lossy(text).into_owned();
        let mut state = self.lock();
        state.clear_id += 1;
        let id = state.clear_id;
        let failed = |e: io::Error| {
            tracing::error!(mdt = self.name, error = %e, "clear failed");
            Errno(libc::EIO)
        };
        state.oracle.event(&Event::ClearReceived { at_ns: received_ns, id, text: shown.clone() }).map_err(failed)?;
        // The client has sent it: it is executed after the recovery even if the writer is gone by then.
        while !state.up && !state.stopped {
            drop(state);
            if !pause(Duration::from_millis(20)) {
                state = self.wait_up(self.lock());
                break;
            }
            state = self.lock();
        }
        let parsed = parse_clear(text);
        let (life, last, at_ns) = (state.meta.life, state.meta.last_index, wall_ns());
        let backwards = Errno(if self.generation == Generation::L2_16 { libc::ENOENT } else { libc::EINVAL });
        let result = if state.stopped || state.evictions != opened {
            Err(Errno(libc::EIO))
        } else if let Some(errno) = state.faults.take(FaultOn::Clear) {
            Err(Errno(errno))
        } else {
            parsed.and_then(|(user, index)| state.meta.users.clear(user, index, last, at_ns, backwards))
        };
        state
            .oracle
            .event(&Event::Clear {
                received_ns,
                at_ns,
                id,
                text: shown,
                user: parsed.ok().map(|p| p.0),
                index: parsed.ok().map(|p| p.1),
                before: result.ok().map(|r| r.0),
                after: result.ok().map(|r| r.1),
                errno: result.err().map_or(0, |e| e.0),
                life,
            })
            .map_err(failed)?;
        match result {
            Ok(_) => {
                state.counters.clears_ok += 1;
                state.purge("cleared by all users").map_err(failed)?;
                Ok(text.len())
            }
            Err(errno) => {
                state.counters.clears_refused += 1;
                Err(errno)
            }
        }
    }
}
