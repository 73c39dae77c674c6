//! When the end of a stream is looked behind again, and whether by a new descriptor or by following.
//!
//! A new descriptor sees new records at once, but costs the client and the MDT a search through whatever lies uncleared;
//! following costs nothing and looks once a second. This is arithmetic over times given to it: no clock, no I/O.

use std::time::Duration;

/// How often the kernel looks for new records on a descriptor that follows.
const FOLLOWED_EVERY: Duration = Duration::from_secs(1);
/// While following, the cost of a new descriptor is measured again this often at most.
const MEASURED_EVERY: Duration = Duration::from_secs(30);
/// The most that one opening counts for. Skipping through a whole log took 1.4 s on a slow server; an answer that
/// takes longer comes from an MDT that was away, and says nothing about the cost.
const DEAREST: Duration = Duration::from_secs(2);
/// Unspent time of the share is saved for this long.
const SAVED: Duration = Duration::from_secs(5);
/// In silence the next look waits for this part of the silence so far.
const SILENCE_PART: u32 = 20;

/// What an operator can set.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PaceSettings {
    /// The share of time that may be spent on opening descriptors again, 0.001 to 0.5; 0.05 unless set.
    pub reopen_share: f64,
    /// The shortest time from one opening to the next; 1 ms unless set.
    pub quickest: Duration,
    /// The longest time between two looks at a quiet MDT; 250 ms unless set.
    pub slowest: Duration,
}

impl Default for PaceSettings {
    fn default() -> Self {
        Self { reopen_share: 0.05, quickest: Duration::from_millis(1), slowest: Duration::from_millis(250) }
    }
}

/// Decides when to open again.
///
/// Time to be spent on openings is saved up at the agreed share, for a few seconds at most, so that the share holds over
/// any longer time and yet one slow answer on a busy machine costs no latency.
#[derive(Debug)]
pub(super) struct Pace {
    settings: PaceSettings,
    /// What an opening usually costs: from `open` to the first answer.
    cost: Option<Duration>,
    /// When the openings so far are paid for; `SAVED` before now, at the earliest.
    paid: Duration,
    /// Of the newest opening.
    opened: Duration,
    /// When the last record came.
    record: Duration,
    /// After a failure: not before.
    held: Duration,
}

impl Pace {
    pub(super) fn new(settings: PaceSettings, now: Duration) -> Self {
        let share = settings.reopen_share;
        // Out of range is refused where configuration is read; here it must only not divide by zero.
        let reopen_share = if share.is_finite() { share.clamp(0.001, 0.5) } else { 0.05 };
        let settings = PaceSettings { reopen_share, ..settings };
        Self { settings, cost: None, paid: now, opened: now, record: now, held: now }
    }

    /// A descriptor was opened that will be answered for by [`Pace::answered`].
    pub(super) fn opened(&mut self, now: Duration) {
        self.opened = now;
    }

    /// Its first answer came: that is what opening costs.
    pub(super) fn answered(&mut self, now: Duration) {
        let took = now.saturating_sub(self.opened).min(DEAREST);
        self.cost = Some(match self.cost {
            None => took,
            // Where a whole log had to be skipped, no answer is quick by chance: it has been cleared.
            Some(cost) if took < cost / 4 => took,
            // One slow answer is chance; several raise this in a few steps.
            Some(cost) => (cost * 3 + took.min(cost * 4)) / 4,
        });
        self.pay(took);
    }

    /// A descriptor was opened to follow: it may not answer for days, and costs what the others do.
    pub(super) fn opened_to_follow(&mut self, now: Duration) {
        self.opened = now;
        self.pay(self.cost.unwrap_or_default());
    }

    fn pay(&mut self, cost: Duration) {
        self.paid = self.paid.max(self.opened.saturating_sub(SAVED)) + self.per_share(cost);
    }

    fn per_share(&self, cost: Duration) -> Duration {
        cost.div_f64(self.settings.reopen_share)
    }

    /// Records came.
    pub(super) fn record(&mut self, now: Duration) {
        self.record = now;
    }

    /// The descriptor failed: leave it alone until then.
    pub(super) fn hold(&mut self, until: Duration) {
        self.held = until;
    }

    /// At the end: is following the better way, since opening again within the share would be rarer than once a second?
    pub(super) fn follows(&self) -> bool {
        let usually = self.cost.is_some_and(|cost| self.per_share(cost) > FOLLOWED_EVERY);
        usually || self.paid.saturating_sub(self.opened) > FOLLOWED_EVERY
    }

    /// At the end: when to open the next descriptor.
    pub(super) fn due(&self) -> Duration {
        // A fifth of the share is left for answers that are slower than usual.
        let usually = self.per_share(self.cost.unwrap_or_default()) * 5 / 4;
        let silence = self.opened.saturating_sub(self.record) / SILENCE_PART;
        let gap = silence.min(self.settings.slowest).max(self.settings.quickest).max(usually);
        self.paid.max(self.opened + gap).max(self.held)
    }

    /// While following: when to measure again whether opening has become cheap.
    pub(super) fn measure_due(&self) -> Duration {
        self.paid.max(self.opened + MEASURED_EVERY)
    }

    /// The shortest time between two openings.
    pub(super) fn quickest(&self) -> Duration {
        self.settings.quickest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Looks again and again for `total`, each look taking `cost`; records come all the time.
    fn run(cost: Duration, total: Duration) -> (u32, Pace) {
        let (mut now, mut looks) = (Duration::ZERO, 0);
        let mut pace = Pace::new(PaceSettings::default(), now);
        while now.max(pace.due()) < total {
            now = now.max(pace.due());
            pace.opened(now);
            now += cost;
            pace.answered(now);
            pace.record(now);
            looks += 1;
        }
        (looks, pace)
    }

    #[test]
    fn a_cheap_look_is_repeated_every_millisecond() {
        let (looks, pace) = run(20 * MS / 1000, 1000 * MS);
        assert_eq!((looks, pace.follows()), (999, false));
    }

    #[test]
    fn looks_never_take_more_than_their_share_of_the_time() {
        for cost in [MS / 10, MS, 7 * MS, 40 * MS, 300 * MS] {
            let total = 100_000 * MS;
            let (looks, _) = run(cost, total);
            // The last look is paid for behind the end.
            let share = (cost * (looks - 1)).as_secs_f64() / total.as_secs_f64();
            assert!(share <= 0.05 && share > 0.035, "{cost:?}: {share}");
        }
    }

    #[test]
    fn slow_answers_now_and_then_cost_no_latency_and_the_share_still_holds() {
        let (mut now, mut spent, mut longest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut pace = Pace::new(PaceSettings::default(), now);
        for look in 0..20_000 {
            let due = pace.due();
            longest = longest.max(due.saturating_sub(now));
            now = now.max(due);
            pace.opened(now);
            let took = if look % 2000 == 1999 { 20 * MS } else { MS / 30 };
            now += took;
            spent += took;
            pace.answered(now);
            pace.record(now);
        }
        assert!(longest <= 3 * MS && !pace.follows(), "{longest:?}");
        assert!(spent <= now / 20, "{spent:?} of {now:?}");
    }

    #[test]
    fn following_is_chosen_when_a_look_a_second_would_pass_the_share() {
        assert!(!run(49 * MS, 5000 * MS).1.follows());
        assert!(run(51 * MS, 5000 * MS).1.follows());
    }

    #[test]
    fn in_silence_the_looks_become_rare_and_the_first_record_makes_them_quick_again() {
        let (mut now, mut looks) = (Duration::ZERO, 0);
        let mut pace = Pace::new(PaceSettings::default(), now);
        while now < 60_000 * MS {
            now = pace.due();
            pace.opened(now);
            now += MS / 10;
            pace.answered(now);
            looks += 1;
        }
        assert!(looks < 350, "{looks} looks in a quiet minute");
        assert!(pace.due() - now <= 250 * MS);
        pace.record(now);
        assert!(pace.due() - now <= 3 * MS);
    }

    #[test]
    fn an_mdt_that_was_away_for_a_minute_does_not_make_looks_rare_for_an_hour() {
        let mut pace = Pace::new(PaceSettings::default(), Duration::ZERO);
        pace.opened(Duration::ZERO);
        pace.answered(60_000 * MS);
        assert!(pace.due() <= 50_000 * MS);
    }
}
