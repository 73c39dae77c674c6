//! Named points at which a test may kill the process. Inactive unless `CLBRIDGE_FAILPOINT` names one as
//! `NAME:COUNT`: the COUNT-th time it is reached the process kills itself, as `kill -9` would.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Armed {
    name: String,
    left: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// The points, in the order of a record's way.
pub const POINTS: [&str; 4] = ["before_publish", "before_commit", "after_commit", "before_clear"];

/// Not on a record's way: an MDT crash was noticed, and nothing was published about it yet.
pub const BEFORE_RETRACTION: &str = "before_retraction";

fn armed() -> Option<&'static Armed> {
    ARMED
        .get_or_init(|| {
            let spec = std::env::var("CLBRIDGE_FAILPOINT").ok()?;
            let (name, count) = spec.split_once(':')?;
            Some(Armed { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?) })
        })
        .as_ref()
}

/// Marks the point `name`.
#[inline]
pub fn hit(name: &str) {
    if let Some(armed) = armed()
        && armed.name == name
        && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        eprintln!("failpoint {name} reached: killing this process");
        // A process cannot fail to signal itself; if it did, abort is as sudden.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        std::process::abort();
    }
}
