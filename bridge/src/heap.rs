//! Gives back to the system what the heap holds and nobody uses.
//!
//! A broker's client that was started anew, buffers that filled while a broker stood still: glibc keeps what they gave
//! back, in an arena a thread, and a process that lives through many faults would come to hold several times what it
//! uses. So it is asked now and then. Other C libraries give back by themselves.

use std::time::Duration;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// Free bytes that the heap may keep: giving them back and taking them again costs more than they are worth.
const MAY_KEEP: usize = 16 << 20;

/// Looks after the heap for as long as it is polled; to be run beside the bridge.
pub async fn keep_small() {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // It takes each arena's lock for a few milliseconds at most; not on a thread that others wait for.
        if tokio::task::spawn_blocking(give_back).await.is_err() {
            return;
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    // SAFETY: mallinfo2(3) has no arguments and only reads the allocator's own counters under its locks.
    let free = unsafe { libc::mallinfo2() }.fordblks;
    if free > MAY_KEEP {
        // SAFETY: malloc_trim(3) is thread-safe and touches only memory that is not allocated.
        let given = unsafe { libc::malloc_trim(0) };
        tracing::debug!(free_bytes = free, given_back = given == 1, "heap trimmed");
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Barrier;

    fn resident_kib() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4
    }

    #[test]
    fn what_many_threads_have_freed_goes_back_to_the_system() {
        // given free memory that small blocks in use keep the arenas from giving back
        let all_at_once = Barrier::new(8);
        let kept: Vec<_> = std::thread::scope(|scope| {
            let fill = || {
                let blocks: Vec<_> = (0..20_000).map(|_| vec![1_u8; 2000]).collect();
                all_at_once.wait();
                // Everything but the last block is freed.
                blocks.into_iter().last()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(fill)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let before = resident_kib();
        // when it is given back, then the process is smaller
        give_back();
        let after = resident_kib();
        assert!(after + (64 << 10) < before, "{before} KiB before, {after} after");
        drop(kept);
    }
}
