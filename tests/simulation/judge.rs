//! The judge: sees everything, shares nothing with the core, and says what was broken.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::broker::Broker;
use crate::mdt::{Mdt, Rec};

/// Dropped by the model's module.
pub fn dropped(uid: u64) -> bool {
    uid.is_multiple_of(10)
}

/// See the module.
#[derive(Default)]
pub struct Judge {
    acked: BTreeMap<String, HashSet<u64>>,
    pub cleared: u64,
}

impl Judge {
    pub fn group(&mut self, name: &str) {
        self.acked.entry(name.to_owned()).or_default();
    }

    /// A member of the group finished its work on these contents and commits them.
    pub fn acknowledged(&mut self, group: &str, uids: impl Iterator<Item = u64>) {
        self.acked.entry(group.to_owned()).or_default().extend(uids);
    }

    /// The MDT carried out a clear of these records (invariant 1).
    pub fn cleared(&mut self, recs: &[Rec]) -> Result<(), String> {
        self.cleared += recs.len() as u64;
        for r in recs.iter().filter(|r| !dropped(r.uid)) {
            for (group, acked) in &self.acked {
                if !acked.contains(&r.uid) {
                    return Err(format!(
                        "early clear: record {} (content {}) not acknowledged by {group}",
                        r.index, r.uid
                    ));
                }
            }
        }
        Ok(())
    }

    /// At the end: nothing lost, nothing doubled, order kept, every retraction in every partition (invariants 2 to 5).
    pub fn end(&self, mdt: &Mdt, broker: &Broker) -> Result<(), String> {
        let retractions: BTreeSet<(u32, u64)> =
            broker.partitions.iter().flatten().filter_map(|e| e.retracts.map(|r| (r.incarnation, r.from))).collect();
        let void =
            |incarnation: u32, index: u64| retractions.iter().any(|(i, from)| *i > incarnation && index >= *from);
        let mut standing: HashMap<u64, u64> = HashMap::new();
        for (p, entries) in broker.partitions.iter().enumerate() {
            let own: BTreeSet<(u32, u64)> =
                entries.iter().filter_map(|e| e.retracts.map(|r| (r.incarnation, r.from))).collect();
            if own != retractions {
                return Err(format!("partition {p} lacks a retraction"));
            }
            for pair in entries.windows(2) {
                if pair[0].id > pair[1].id || (pair[0].id == pair[1].id && pair[0].retracts.is_none()) {
                    return Err(format!("order: {} before {} in partition {p}", pair[0].id, pair[1].id));
                }
            }
            for e in entries.iter().filter(|e| e.retracts.is_none() && !void(e.id.incarnation, e.id.index.get())) {
                if standing.insert(e.uid, e.id.index.get()).is_some() {
                    return Err(format!("content {} published twice in standing incarnations", e.uid));
                }
            }
        }
        for r in mdt.surviving().filter(|r| !dropped(r.uid)) {
            if standing.remove(&r.uid) != Some(r.index) {
                return Err(format!("lost: record {} (content {})", r.index, r.uid));
            }
            for (group, acked) in &self.acked {
                if !acked.contains(&r.uid) {
                    return Err(format!("record {} never reached {group}", r.index));
                }
            }
        }
        match standing.iter().next() {
            Some((uid, index)) => Err(format!("record {index} (content {uid}) was taken back and not retracted")),
            None => Ok(()),
        }
    }
}
