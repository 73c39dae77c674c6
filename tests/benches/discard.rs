//! A reader that takes the simulated MDT's records and drops them, as fast as it is told to.
//!
//! It stands beside a loop that has its payloads already, so that the simulated MDT costs this machine the same as it
//! does beside the bridge.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use clbridge_schemas::lustre::records;
use mdt_sim::addr::Addr;
use mdt_sim::client::{Changelog, flags};

use crate::child::say;
use crate::process::line;
use crate::setup::MDT;

/// Reads as many records as the last line on standard input says, until that ends.
pub fn run(sim: &str) -> Result<()> {
    let addr: Addr = sim.parse()?;
    let mut log = Changelog::open(&addr, MDT, flags::READ | flags::NID_BE)?;
    let due = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&due);
    say("ready")?;
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        while let Some(count) = line(&mut input).ok().and_then(|l| l.parse().ok()) {
            told.store(count, Ordering::Relaxed);
        }
        told.store(u64::MAX, Ordering::Relaxed);
    });
    let mut buf = vec![0; 64 << 10];
    let mut taken = 0;
    loop {
        let due = due.load(Ordering::Relaxed);
        if due == u64::MAX {
            return Ok(());
        }
        if taken >= due {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let got = log.read(&mut buf, Duration::from_secs(1))?;
        if got == 0 {
            return Ok(());
        }
        taken += records(&buf[..got], 0).count() as u64;
    }
}
