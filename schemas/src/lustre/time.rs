//! A record's time.

use std::fmt;

use serde::{Deserialize, Serialize};

const NANOS: i64 = 1_000_000_000;

/// Nanoseconds since 1970 UTC, as the MDT's clock had it. A record's own is never before 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(i64);

impl Time {
    /// From nanoseconds since the epoch.
    #[must_use]
    #[inline]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From the kernel's `cr_time`, `(seconds << 30) + nanoseconds`; `None` if the nanoseconds are not below 10^9 or
    /// the whole does not fit in 63 bits of nanoseconds (year 2262).
    #[must_use]
    #[inline]
    pub fn from_kernel(raw: u64) -> Option<Self> {
        let nanos = (raw & ((1 << 30) - 1)).cast_signed();
        if nanos >= NANOS {
            return None;
        }
        let secs = (raw >> 30).cast_signed();
        Some(Self(secs.checked_mul(NANOS)?.checked_add(nanos)?))
    }

    /// The kernel's form; `None` before 1970.
    #[must_use]
    #[inline]
    pub fn to_kernel(self) -> Option<u64> {
        let secs = u64::try_from(self.secs()).ok()?;
        Some((secs << 30) + u64::from(self.subsec()))
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    #[inline]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    #[inline]
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(NANOS)
    }

    /// Nanoseconds within the second, 0 to 999,999,999.
    #[must_use]
    #[inline]
    pub const fn subsec(self) -> u32 {
        self.0.rem_euclid(NANOS) as u32
    }

    /// Year, month, day, hour, minute, second in UTC.
    #[must_use]
    pub(crate) fn civil(self) -> Civil {
        let secs = self.secs();
        let (days, second_of_day) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        // Days since 1 March 2000, where 400-year cycles begin and leap days end years: then the date is arithmetic.
        let days = days - 11_017;
        let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_cycle = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let january_or_february = i64::from(month_from_march >= 10);
        Civil {
            year: 2000 + 400 * cycle + year_of_cycle + january_or_february,
            month: month_from_march + 3 - 12 * january_or_february,
            day: day_of_month,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }
}

/// A moment in the calendar.
pub(crate) struct Civil {
    pub(crate) year: i64,
    pub(crate) month: i64,
    pub(crate) day: i64,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
}

/// RFC 3339 in UTC, nine decimals.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.civil();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
            c.year,
            c.month,
            c.day,
            c.hour,
            c.minute,
            c.second,
            self.subsec()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_agrees_with_known_moments() {
        // From `date -u -d @SECONDS`.
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_399, "2000-02-28T23:59:59.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (951_868_800, "2000-03-01T00:00:00.000000007Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000000007Z"),
            (-1, "1969-12-31T23:59:59.000000007Z"),
        ] {
            assert_eq!(Time::from_nanos(secs * NANOS + 7).to_string(), text);
        }
    }

    #[test]
    fn the_kernels_form_goes_both_ways_and_an_impossible_one_is_refused() {
        for raw in [0, 1, (1_795_000_000 << 30) + 999_999_999] {
            assert_eq!(Time::from_kernel(raw).and_then(Time::to_kernel), Some(raw));
        }
        assert_eq!(Time::from_kernel(1_000_000_000), None);
        assert_eq!(Time::from_kernel(u64::MAX - (1 << 30)), None);
        assert_eq!(Time::from_nanos(-1).to_kernel(), None);
    }
}
