//! The judge: sees everything, shares nothing with the core, and says what was broken.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use clbridge::core::Hold;

use crate::broker::{Batch, Broker, Entry};
use crate::mdt::{Mdt, Rec};

/// A clear is issued only this soon after State's confirmation, milliseconds: the fence does not reach the MDT.
const STATE_FRESH: u64 = 2_000;

/// Dropped by the model's module.
pub fn dropped(uid: u64) -> bool {
    uid.is_multiple_of(10)
}

/// How far a group may be let go, as its operator said.
#[derive(Clone, Copy, Default, Debug)]
pub struct Leave {
    /// It may hold back this many indexes below the durable frontier.
    pub backlog: Option<u64>,
    /// It may hold a record back for this long, milliseconds.
    pub age: Option<u64>,
}

/// What the judge knows of one group.
#[derive(Default)]
struct Group {
    acked: HashSet<u64>,
    leave: Option<Leave>,
    /// Cleared on the MDT before the group had them.
    released: HashSet<u64>,
}

/// See the module.
#[derive(Default)]
pub struct Judge {
    groups: BTreeMap<String, Group>,
    /// Contents that are durable in the broker.
    published: HashSet<u64>,
    /// The highest frontier that ever was durable.
    frontier: u64,
    gone: HashSet<u64>,
    /// When this life's newest State became durable.
    told_at: Option<u64>,
    /// The highest clear that any life issued.
    issued: u64,
    evictions: u64,
    pub cleared: u64,
    pub trimmed: u64,
}

impl Judge {
    /// A group; `leave`: how far it may be let go, if at all.
    pub fn group(&mut self, name: &str, leave: Option<Leave>) {
        self.groups.entry(name.to_owned()).or_default().leave = leave;
    }

    /// The broker committed this.
    pub fn published(&mut self, batch: &Batch, now: u64) {
        if batch.state.is_some() {
            self.told_at = Some(now);
        }
        self.published.extend(batch.messages.iter().map(|(_, _, uid, _)| *uid));
        self.frontier = self.frontier.max(batch.frontier.map_or(0, |f| f.index.get()));
    }

    /// A life began: what an older one wrote makes no clear of this one lawful.
    pub fn began(&mut self) {
        self.told_at = None;
    }

    /// A bridge sends a clear towards the MDT: durable State, no older than the fence allows, must name it, and no life
    /// may go back behind another.
    pub fn issued(&mut self, upto: u64, broker: &Broker, now: u64) -> Result<(), String> {
        let named = broker.state.as_ref().map_or(0, |s| s.last_clear);
        if upto > named {
            return Err(format!("a clear of {upto} was issued, but State names {named}"));
        }
        if self.told_at.is_none_or(|at| now - at >= STATE_FRESH) {
            return Err(format!("a clear of {upto} was issued by State of {:?}, at {now}", self.told_at));
        }
        if upto < self.issued {
            return Err(format!("a clear of {upto} behind one of {}", self.issued));
        }
        self.issued = upto;
        Ok(())
    }

    /// A member of the group finished its work on these contents and commits them.
    pub fn acknowledged(&mut self, group: &str, uids: impl Iterator<Item = u64>) {
        self.groups.entry(group.to_owned()).or_default().acked.extend(uids);
    }

    /// The MDT carried out a clear of these records (invariant 1).
    pub fn cleared(&mut self, recs: &[Rec], now: u64) -> Result<(), String> {
        self.cleared += recs.len() as u64;
        self.gone.extend(recs.iter().map(|r| r.uid));
        for r in recs.iter().filter(|r| !dropped(r.uid)) {
            let named = || format!("record {} (content {})", r.index, r.uid);
            if !self.published.contains(&r.uid) {
                return Err(format!("early clear: {} is not durable in the broker", named()));
            }
            for (name, group) in self.groups.iter_mut().filter(|(_, g)| !g.acked.contains(&r.uid)) {
                let leave = group.leave.unwrap_or_default();
                let by_count = leave.backlog.is_some_and(|backlog| r.index + backlog <= self.frontier);
                let by_age = leave.age.is_some_and(|age| r.time + age <= now);
                if !(by_count || by_age) {
                    return Err(format!("early clear: {} not acknowledged by {name}, and not released", named()));
                }
                group.released.insert(r.uid);
            }
        }
        Ok(())
    }

    /// The broker trimmed these: whatever was released, every group must have had it, and the MDT need it no more.
    pub fn trimmed(&mut self, entries: &[Entry], mdt: &Mdt, broker: &Broker) -> Result<(), String> {
        self.trimmed += entries.len() as u64;
        if let Some(p) = broker.partitions.iter().zip(&broker.trimmed).position(|(p, t)| p.is_empty() && !t.is_empty())
        {
            return Err(format!("the last record of partition {p} was trimmed"));
        }
        for e in entries.iter().filter(|e| e.retracts.is_none()) {
            if let Some((name, _)) = self.groups.iter().find(|(_, g)| !g.acked.contains(&e.uid)) {
                return Err(format!("trimmed early: {} (content {}) never reached {name}", e.id, e.uid));
            }
            if mdt.has(e.id.index.get(), e.uid) && !self.gone.contains(&e.uid) {
                return Err(format!("trimmed early: {} (content {}) was not cleared", e.id, e.uid));
            }
        }
        Ok(())
    }

    /// A group is held, as `status` would say.
    pub fn held(&mut self, hold: &Hold) {
        self.evictions += u64::from(matches!(hold, Hold::Evicted { .. }));
    }

    /// How often a record was cleared that a released group did not have yet.
    pub fn released(&self) -> u64 {
        self.groups.values().map(|g| g.released.len() as u64).sum()
    }

    /// At the end: nothing lost, nothing doubled, order kept, every retraction in every partition (invariants 2 to 5),
    /// and what was released has come to its group all the same.
    pub fn end(&self, mdt: &Mdt, broker: &Broker) -> Result<(), String> {
        let partitions: Vec<Vec<&Entry>> = (0..broker.end.len()).map(|p| broker.ever(p).collect()).collect();
        let retractions: BTreeSet<(u32, u64)> =
            partitions.iter().flatten().filter_map(|e| e.retracts.map(|r| (r.incarnation, r.from))).collect();
        let void =
            |incarnation: u32, index: u64| retractions.iter().any(|(i, from)| *i > incarnation && index >= *from);
        let mut standing: HashMap<u64, u64> = HashMap::new();
        for (p, entries) in partitions.iter().enumerate() {
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
        }
        if self.evictions > 0 {
            return Err("a group was held for an eviction, although only the bridge trimmed".into());
        }
        if let Some(gap) = broker.state.as_ref().map(|s| s.gap_records).filter(|gap| *gap > 0) {
            return Err(format!("{gap} records counted as missing, although none was purged"));
        }
        if let Some((uid, index)) = standing.iter().next() {
            return Err(format!("record {index} (content {uid}) was taken back and not retracted"));
        }
        for (name, group) in &self.groups {
            if let Some(r) = mdt.surviving().find(|r| !dropped(r.uid) && !group.acked.contains(&r.uid)) {
                let released = if group.released.contains(&r.uid) { ", for which it was released" } else { "" };
                return Err(format!("record {} never reached {name}{released}", r.index));
            }
        }
        Ok(())
    }
}
