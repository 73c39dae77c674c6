//! Watches what `status` says from the first fault to the end, for the report.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use clbridge::status::{BridgeStatus, Phase};

use crate::bridge::ask;

/// A running watch.
pub struct Watch {
    over: Arc<AtomicBool>,
    said: Arc<Mutex<BTreeSet<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Asks the bridge there, again and again.
    pub fn start(listen: SocketAddr) -> Self {
        let (over, said) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
        let (ended, heard) = (over.clone(), said.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if let Some(status) = ask(listen) {
                    heard.lock().unwrap().extend(words(&status));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { over, said, thread: Some(thread) }
    }

    /// Ends it; what was said, each once.
    pub fn end(mut self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        std::mem::take(&mut *self.said.lock().unwrap()).into_iter().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// What a status says of trouble, in its own short names; figures and names of a run are left out.
fn words(status: &BridgeStatus) -> Vec<String> {
    let mut said = Vec::new();
    for mdt in &status.mdts {
        match &mdt.phase {
            Phase::Running => {}
            Phase::Starting { .. } => said.push("starting".to_owned()),
            Phase::Retrying { .. } => said.push("retrying".to_owned()),
            Phase::Fenced { .. } => said.push("fenced".to_owned()),
            Phase::Stopped { error, .. } => said.push(format!("stopped ({error})")),
        }
        said.extend(mdt.holding.iter().map(|h| h.reason.clone()));
        for group in &mdt.groups {
            said.extend(group.holding.iter().map(|h| format!("group: {}", h.reason)));
            if group.state == "released" {
                said.push("group: released".to_owned());
            }
        }
    }
    said
}
