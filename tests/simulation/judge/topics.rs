//! What the judge says of the records in the topics: published, deleted, trimmed.

use super::{Group, Judge};
use crate::broker::{Broker, Entry};
use crate::content::partition_of;
use crate::mdt::Mdt;

impl Judge {
    /// A record became durable in a topic (invariants 3, 4 and 5).
    pub fn appended(&mut self, topic: usize, p: usize, e: &Entry, mdt: &Mdt) -> Result<(), String> {
        if e.retracts.is_none() && p != partition_of(e.uid, self.seen[topic].len()) {
            return Err(format!("order: {} is in partition {p}", e.id));
        }
        if let Some(r) = e.retracts {
            self.checked = self.checked.min(r.from - 1);
            self.retracted += 1;
            for g in self.groups.values_mut() {
                g.checked = g.checked.min(r.from - 1);
            }
        } else {
            let missed = mdt.at(e.id.index.get()).is_none_or(|r| r.uid != e.uid) && !self.taken.contains_key(&e.uid);
            if missed {
                return Err(format!("{} (content {}) never stood on the MDT", e.id, e.uid));
            }
            for g in self.groups.values_mut().filter(|g| g.topic == topic) {
                g.exempt.remove(&e.uid);
            }
        }
        self.seen[topic][p].append(e, self.taken.get(&e.uid).copied()).map_err(|why| format!("{why} in {topic}/{p}"))
    }

    /// Somebody else deleted these from a partition. A group that never committed there begins with its first commit.
    pub fn deleted(&mut self, topic: usize, p: usize, entries: &[Entry], broker: &Broker) {
        self.deletions = true;
        for (name, g) in self.groups.iter_mut().filter(|(_, g)| g.topic == topic) {
            let unread: Vec<u64> = entries.iter().map(|e| e.uid).filter(|uid| !g.has(*uid)).collect();
            match broker.logs[topic].positions.get(name).and_then(|at| at[p]) {
                Some(_) => g.evicted.extend(unread),
                None => g.exempt.extend(unread),
            }
        }
    }

    /// The broker trimmed these: whatever was released, every group must have had it, and the MDT need it no more.
    pub fn trimmed(
        &mut self,
        topic: usize,
        p: usize,
        gone: &[Entry],
        broker: &Broker,
        mdt: &Mdt,
    ) -> Result<(), String> {
        self.trimmed += gone.len() as u64;
        if !gone.is_empty() && broker.logs[topic].partitions[p].entries.is_empty() {
            return Err(format!("the last record of partition {p} was trimmed"));
        }
        for e in gone.iter().filter(|e| e.retracts.is_none()) {
            // What was retracted and published again is owed in its later place only to a group that came in between.
            let again =
                || broker.logs[topic].partitions[p].entries.iter().any(|x| x.uid == e.uid && x.retracts.is_none());
            let owed = |g: &Group| g.topic == topic && !g.has(e.uid) && !(e.offset < g.from[p] && again());
            if let Some((name, _)) = self.groups.iter().find(|(_, g)| owed(g)) {
                return Err(format!("trimmed early: {} (content {}) never reached {name}", e.id, e.uid));
            }
            let standing = self.seen[topic][p].identity(e.uid) == Some(e.id);
            if standing && mdt.at(e.id.index.get()).is_some_and(|r| r.uid == e.uid) && !self.gone.contains(&e.uid) {
                return Err(format!("trimmed early: {} (content {}) was not cleared", e.id, e.uid));
            }
        }
        Ok(())
    }
}
