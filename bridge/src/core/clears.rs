//! When to clear: batched, never backwards, and never without State that already says so.
//!
//! Order, always: State that names the value is durable → within `state_fresh` of its confirmation the clear is
//! issued → it returns. The first clear after a start repeats the last value a dead process may have issued, since
//! that one may still be in the kernel.

use std::num::NonZeroU64;

use super::Now;
use super::ledger::{Clearable, Ledger};
use super::mutations::{Mutation, wrong};

#[cfg(test)]
mod tests;

/// How clears are batched.
#[derive(Clone, Copy, Debug)]
pub struct ClearSettings {
    /// Clear when this many indexes can be cleared.
    pub batch: u64,
    /// Clear at least this often when anything can be cleared.
    pub every: Now,
    /// Repeat the last clear this often on a quiet MDT, which refreshes the user's idle time there.
    pub heartbeat: Now,
    /// A clear is issued only this soon after State's confirmation: the fence does not reach the MDT.
    pub state_fresh: Now,
    /// Wait this long after a clear that was refused.
    pub retry: Now,
}

/// What is to be done next for clearing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClearStep {
    /// Nothing.
    Rest,
    /// Write State with this `last_clear` first.
    NeedState(u64),
    /// Issue this clear before `until`.
    Issue {
        /// The value.
        upto: Clearable,
        /// State is fresh until then; beyond, it must be written anew.
        until: Now,
    },
}

/// The clears of one MDT.
#[derive(Debug)]
pub struct Clears {
    settings: ClearSettings,
    /// Highest value that State names, durable or not: nothing lower is ever issued.
    intended: u64,
    /// Highest value in any State made so far.
    named: u64,
    /// Highest value issued by this process, or by a dead one as State tells.
    issued: u64,
    returned: u64,
    repeated: bool,
    in_flight: bool,
    last: Now,
    not_before: Now,
    /// `last_clear` of the last State confirmed, and when.
    confirmed: Option<(u64, Now)>,
}

impl Clears {
    /// `issued` as State tells.
    #[must_use]
    pub fn new(settings: ClearSettings, issued: u64, now: Now) -> Self {
        Self {
            settings,
            intended: issued,
            named: issued,
            issued,
            returned: 0,
            repeated: issued == 0,
            in_flight: false,
            last: now,
            not_before: Now::ZERO,
            confirmed: None,
        }
    }

    /// What to do next when `clearable` may be cleared.
    pub fn next(&mut self, clearable: Option<Clearable>, now: Now) -> ClearStep {
        if self.in_flight || now < self.not_before {
            return ClearStep::Rest;
        }
        let target = if !self.repeated {
            Ledger::repeatable(self.issued)
        } else {
            let due = now.saturating_sub(self.last);
            let gain = clearable.map_or(0, |c| c.index().get().saturating_sub(self.issued));
            // What State already names but was not issued in time comes first: it must not be lowered.
            if gain > 0 && (gain >= self.settings.batch || due >= self.settings.every || self.intended > self.issued) {
                clearable
            } else if due >= self.settings.heartbeat {
                Ledger::repeatable(self.issued)
            } else {
                None
            }
        };
        let Some(upto) = target else { return ClearStep::Rest };
        let value = upto.index().get();
        let confirmed = match self.confirmed {
            _ if wrong(Mutation::ClearBeforeState) => Some((value, now)),
            Some((named, _)) if wrong(Mutation::StateOfAnyAge) => Some((named, now)),
            confirmed => confirmed,
        };
        // What groups acknowledge while a State is on its way must not hold back what that State names: behind a slow
        // broker no State would ever name all of it.
        let granted = confirmed.and_then(|(named, at)| {
            let granted = upto.at_most(NonZeroU64::new(named)?);
            let gains = granted == upto || granted.index().get() > self.issued;
            (gains && now.saturating_sub(at) < self.settings.state_fresh).then_some((granted, at))
        });
        match granted {
            Some((upto, at)) => {
                self.in_flight = true;
                self.issued = self.issued.max(upto.index().get());
                ClearStep::Issue { upto, until: at + self.settings.state_fresh }
            }
            None => {
                self.intended = self.intended.max(value);
                ClearStep::NeedState(self.intended)
            }
        }
    }

    /// State with this `last_clear` is durable.
    pub fn state_confirmed(&mut self, last_clear: u64, now: Now) {
        self.confirmed = Some((last_clear, now));
    }

    /// The clear in flight returned well, or the MDT had nothing left up to it.
    pub fn returned(&mut self, upto: u64, now: Now) {
        self.in_flight = false;
        self.repeated = true;
        self.returned = self.returned.max(upto);
        self.last = now;
        self.not_before = Now::ZERO;
    }

    /// The clear in flight was not carried out: State was no longer fresh, or the MDT refused for now.
    pub fn failed(&mut self, retry: bool, now: Now) {
        self.in_flight = false;
        if retry {
            self.not_before = now + self.settings.retry;
        }
    }

    /// What State names as last clear, which is now made.
    pub fn name(&mut self) -> u64 {
        self.named = self.intended;
        self.intended
    }

    /// What State has to name before anything is issued.
    #[must_use]
    pub fn intended(&self) -> u64 {
        self.intended
    }

    /// A group came: what no State names yet has to be decided anew.
    pub fn reconsider(&mut self) {
        self.intended = self.named;
    }

    /// Highest value issued.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// Highest clear that returned.
    #[must_use]
    pub fn cleared(&self) -> u64 {
        self.returned
    }

    /// A State of this life is durable.
    #[must_use]
    pub fn told(&self) -> bool {
        self.confirmed.is_some()
    }

    /// A clear is on its way.
    #[must_use]
    pub fn in_flight(&self) -> bool {
        self.in_flight
    }
}
