//! How often a campaign repeats, and with which seed: `make test` does the least, `make campaign` the full numbers.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// `CLB_TIMES`, or `few`.
pub fn times(few: u32) -> u32 {
    variable("CLB_TIMES").map_or(few, |n| u32::try_from(n).unwrap())
}

/// `CLB_MINUTES`, or `few`.
pub fn minutes(few: u64) -> u64 {
    variable("CLB_MINUTES").unwrap_or(few)
}

/// `CLB_SEED`, or 1.
pub fn seed() -> u64 {
    variable("CLB_SEED").unwrap_or(1)
}

/// What is drawn in a run with this process's seed; `stream` tells one run's draws from another's.
pub fn rng(stream: u64) -> StdRng {
    StdRng::seed_from_u64(seed() ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
