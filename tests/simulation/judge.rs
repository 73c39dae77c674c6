//! The judge: sees everything, shares nothing with the core, and says what was broken, at every step.
//!
//! The numbers are those of the design's invariants.

mod seen;
mod topics;

use std::collections::{BTreeMap, HashMap, HashSet};

use clbridge::core::{Core, Hold};
use clbridge_sinks::Registry;
use clbridge_sinks::state::{STATE_MAX_BYTES, State};

use crate::bridge::WINDOW;
use crate::broker::Broker;
use crate::content::{FEEDS, digest, dropped, partition_of, takes};
use crate::mdt::{Mdt, Rec};
pub use seen::Seen;

/// A clear is issued only this soon after State's confirmation, milliseconds: the fence does not reach the MDT.
const STATE_FRESH: u64 = 2_000;
/// Nothing is cleared by a registry that was read longer ago than this, milliseconds.
const REGISTRY_FRESH: u64 = 10_000;
/// Memory of the ledger of one run, bytes, and the longest list of chunk and window that may be on its way.
const LEDGER_BYTES: usize = 1 << 20;
const IN_FLIGHT: usize = WINDOW + 200;

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
    topic: usize,
    /// Where it began, by partition.
    from: Vec<u64>,
    acked: HashSet<u64>,
    /// Not its concern: published before it came, or lost to a deletion and accepted so by its operator.
    exempt: HashSet<u64>,
    /// Deleted before it read them.
    evicted: HashSet<u64>,
    leave: Option<Leave>,
    /// Cleared on the MDT before the group had them.
    released: HashSet<u64>,
    /// Its floor was checked up to here.
    checked: u64,
}

impl Group {
    fn has(&self, uid: u64) -> bool {
        self.acked.contains(&uid) || self.exempt.contains(&uid)
    }
}

/// See the module.
pub struct Judge {
    /// Groups by name, once the bridge registered them.
    groups: BTreeMap<String, Group>,
    leaves: BTreeMap<String, Leave>,
    /// By topic and partition.
    seen: Vec<Vec<Seen>>,
    /// Nothing has to be acknowledged while there is no group.
    durable_is_enough: bool,
    /// Contents that may be cleared, and those that were, by us or by force.
    approved: HashSet<u64>,
    gone: HashSet<u64>,
    /// Purged by the server: contents, and their indexes.
    missed: HashSet<u64>,
    missed_at: HashSet<u64>,
    /// Contents taken back, and the first content that came after.
    taken: HashMap<u64, u64>,
    /// The highest frontier that ever was durable, and how far it was checked that all before it is published.
    frontier: u64,
    checked: u64,
    /// When a life heard that its State is durable.
    told: HashMap<u64, u64>,
    /// The highest clear that any life issued.
    issued: u64,
    states: u64,
    deletions: bool,
    pub cleared: u64,
    pub trimmed: u64,
    pub retracted: u64,
}

impl Judge {
    pub fn new(partitions: [usize; FEEDS], durable_is_enough: bool) -> Self {
        Self {
            groups: BTreeMap::new(),
            leaves: BTreeMap::new(),
            seen: partitions.into_iter().map(|n| (0..n).map(|_| Seen::default()).collect()).collect(),
            durable_is_enough,
            approved: HashSet::new(),
            gone: HashSet::new(),
            missed: HashSet::new(),
            missed_at: HashSet::new(),
            taken: HashMap::new(),
            frontier: 0,
            checked: 0,
            told: HashMap::new(),
            issued: 0,
            states: 0,
            deletions: false,
            cleared: 0,
            trimmed: 0,
            retracted: 0,
        }
    }

    /// How far this group may be let go.
    pub fn may_leave(&mut self, name: &str, leave: Leave) {
        self.leaves.insert(name.to_owned(), leave);
    }

    /// A bridge registered a group that begins at these positions.
    pub fn joined(&mut self, name: &str, topic: usize, broker: &Broker, from: &[u64]) {
        let mut group = Group { topic, from: from.to_vec(), leave: self.leaves.get(name).copied(), ..Group::default() };
        for ((p, from), seen) in broker.logs[topic].partitions.iter().zip(from).zip(&self.seen[topic]) {
            let later: HashSet<u64> = p.entries.range(p.place(*from)..).map(|e| e.uid).collect();
            group.exempt.extend(seen.ever().filter(|uid| !later.contains(uid)));
        }
        self.groups.insert(name.to_owned(), group);
    }

    /// A bridge has read that only these groups are registered.
    pub fn registered(&mut self, registry: &Registry) {
        self.groups.retain(|name, _| registry.groups.contains_key(name));
    }

    /// A member finished its work on these contents and the group committed them.
    pub fn acknowledged(&mut self, group: &str, uids: impl Iterator<Item = u64>) {
        if let Some(g) = self.groups.get_mut(group) {
            g.acked.extend(uids);
        }
    }

    /// An operator says that a group goes on without what was deleted; `but`: what it is given again.
    pub fn goes_on_without(&mut self, group: &str, but: &[u64]) {
        if let Some(g) = self.groups.get_mut(group) {
            let evicted = std::mem::take(&mut g.evicted);
            g.exempt.extend(evicted.into_iter().filter(|uid| !but.contains(uid)));
        }
    }

    /// State became durable: everything up to its frontier must be published (invariant 2), and it must stay small (6).
    pub fn stored(&mut self, state: &State, mdt: &Mdt, now: u64) -> Result<(), String> {
        self.states += 1;
        if self.states.is_multiple_of(64) {
            let bytes = serde_json::to_vec(state).unwrap().len();
            if bytes > STATE_MAX_BYTES {
                return Err(format!("State has {bytes} bytes"));
            }
        }
        // Until a retraction is everywhere, State may tell of what was before it.
        let ahead = |s: &Seen| s.retractions.last().is_some_and(|r| r.incarnation > state.incarnation);
        self.frontier = self.frontier.max(state.frontier.map_or(0, |f| f.id.index.get()));
        if let Some(f) = state.frontier.filter(|_| !self.seen.iter().flatten().any(ahead)) {
            let index = f.id.index.get();
            if mdt.at(index).is_some_and(|r| digest(r.index, r.uid) == f.digest) && index > self.checked {
                for r in mdt.history(self.checked, index).filter(|r| !self.gone.contains(&r.uid)) {
                    if let Some(topic) = (0..FEEDS).find(|t| takes(*t, r.uid) && !self.stands(*t, r.uid)) {
                        return Err(format!("a frontier of {} without {} in topic {topic}", f.id, r.index));
                    }
                }
                self.checked = index;
            }
        }
        self.intended(state, mdt, now);
        Ok(())
    }

    /// A bridge is about to name this clear in State: what may be cleared now may be cleared later, even if a group comes
    /// in between, since the clear may already be in the kernel when the next life repeats it.
    pub fn intended(&mut self, state: &State, mdt: &Mdt, now: u64) {
        let frontier = self.frontier.max(state.frontier.map_or(0, |f| f.id.index.get()));
        let may_go = |r: &Rec| self.may_go(r, frontier, now).is_ok();
        let ok: Vec<u64> = self.unapproved(mdt, state.last_clear).filter(may_go).map(|r| r.uid).collect();
        self.approved.extend(ok);
    }

    fn stands(&self, topic: usize, uid: u64) -> bool {
        self.seen[topic][partition_of(uid, self.seen[topic].len())].stands(uid)
    }

    /// A life heard that its State is durable.
    pub fn told(&mut self, life: u64, now: u64) {
        self.told.insert(life, now);
    }

    fn unapproved<'a>(&'a self, mdt: &'a Mdt, upto: u64) -> impl Iterator<Item = Rec> + 'a {
        mdt.readable(0).take_while(move |r| r.index <= upto).filter(|r| !self.approved.contains(&r.uid))
    }

    /// Whether a record may be cleared (invariant 1).
    fn may_go(&self, r: &Rec, frontier: u64, now: u64) -> Result<(), String> {
        let named = || format!("early clear: record {} (content {})", r.index, r.uid);
        if r.index > frontier {
            return Err(format!("{} is behind every durable frontier", named()));
        }
        if dropped(r.uid) {
            return Ok(());
        }
        if self.groups.is_empty() && !self.durable_is_enough {
            return Err(format!("{} without any group", named()));
        }
        for topic in (0..FEEDS).filter(|t| takes(*t, r.uid)) {
            if !self.stands(topic, r.uid) {
                return Err(format!("{} is not durable in topic {topic}", named()));
            }
            for (name, g) in self.groups.iter().filter(|(_, g)| g.topic == topic && !g.has(r.uid)) {
                let leave = g.leave.unwrap_or_default();
                let by_count = leave.backlog.is_some_and(|backlog| r.index + backlog <= frontier);
                let by_age = leave.age.is_some_and(|age| r.time + age <= now);
                if !(by_count || by_age) {
                    return Err(format!("{} not acknowledged by {name}, and not released", named()));
                }
            }
        }
        Ok(())
    }

    /// A bridge sends a clear towards the MDT (invariants 1 and 7): durable State, no older than the fence allows, must
    /// name it, the registry must have been read lately, no life may go back behind another, and a crash of the MDT
    /// must not be able to take any of it back.
    pub fn issued(
        &mut self,
        life: u64,
        registry_at: u64,
        upto: u64,
        broker: &Broker,
        mdt: &Mdt,
        now: u64,
    ) -> Result<(), String> {
        let named = broker.state.as_ref().map_or(0, |s| s.last_clear);
        if upto > named {
            return Err(format!("a clear of {upto} was issued, but State names {named}"));
        }
        let told = self.told.get(&life);
        if told.is_none_or(|at| now - at >= STATE_FRESH) {
            return Err(format!("a clear of {upto} was issued by State of {told:?}, at {now}"));
        }
        if upto < self.issued {
            return Err(format!("a clear of {upto} behind one of {}", self.issued));
        }
        let new: Vec<Rec> = self.unapproved(mdt, upto).collect();
        if !new.is_empty() && now - registry_at > REGISTRY_FRESH + STATE_FRESH {
            return Err(format!("a clear of {upto} by a registry of {registry_at}, at {now}"));
        }
        if upto > mdt.safe() {
            return Err(format!("a clear of {upto}, but a crash would take back what is above {}", mdt.safe()));
        }
        for r in &new {
            self.may_go(r, self.frontier, now)?;
        }
        self.approved.extend(new.iter().map(|r| r.uid));
        self.issued = upto;
        Ok(())
    }

    /// The MDT carried out a clear of these records.
    pub fn cleared(&mut self, recs: &[Rec]) -> Result<(), String> {
        self.cleared += recs.len() as u64;
        for r in recs {
            if !self.approved.contains(&r.uid) {
                return Err(format!("early clear: record {} (content {}) was no clear's business", r.index, r.uid));
            }
            self.gone.insert(r.uid);
            for g in self.groups.values_mut().filter(|g| takes(g.topic, r.uid) && !g.has(r.uid)) {
                g.released.insert(r.uid);
            }
        }
        Ok(())
    }

    /// The MDT took these back; `next` is the first content that may come after.
    pub fn crashed(&mut self, lost: &[Rec], safe: u64, next: u64) {
        self.checked = self.checked.min(safe);
        for r in lost {
            self.taken.insert(r.uid, next);
            self.seen.iter_mut().flatten().for_each(|s| s.taken_back(r.uid, next));
        }
    }

    /// The server forgot these by force.
    pub fn purged(&mut self, recs: &[Rec]) {
        for r in recs {
            self.gone.insert(r.uid);
            self.missed.insert(r.uid);
            self.missed_at.insert(r.index);
            if (0..FEEDS).any(|t| takes(t, r.uid) && !self.stands(t, r.uid)) || dropped(r.uid) {
                self.seen.iter_mut().flatten().for_each(|s| s.hidden(r.index));
            }
        }
    }

    /// What a bridge believes after it heard of its groups (invariants 1, 6 and 7): a floor is true, what cannot be
    /// known holds back and is told, memory is bounded.
    pub fn looked(
        &mut self,
        core: &Core,
        in_flight: usize,
        mdt: &Mdt,
        bent: impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        if in_flight > IN_FLIGHT || core.ledger().bytes() > LEDGER_BYTES {
            return Err(format!("memory: {in_flight} records on their way, ledger {} bytes", core.ledger().bytes()));
        }
        for (_, told) in core.ledger().groups() {
            let (name, floor) = (&told.spec.name, told.floor());
            if let Some(Hold::Evicted { .. }) = told.hold()
                && !self.deletions
            {
                return Err(format!("{name} is held for an eviction, although only the bridge trimmed"));
            }
            if bent(name) && told.hold().is_none() {
                return Err(format!("the position of {name} cannot be believed, and nothing is said of it"));
            }
            let Some(group) = self.groups.get(name) else { continue };
            for r in mdt.history(group.checked, floor).filter(|r| takes(group.topic, r.uid) && !group.has(r.uid)) {
                if self.stands(group.topic, r.uid) {
                    return Err(format!("the floor of {name} is {floor}, but it did not acknowledge {}", r.index));
                }
            }
            let checked = floor.min(self.checked);
            let group = self.groups.get_mut(name).unwrap();
            group.checked = group.checked.max(checked);
        }
        Ok(())
    }

    /// How often a record was cleared that a released group did not have yet.
    pub fn released(&self) -> u64 {
        self.groups.values().map(|g| g.released.len() as u64).sum()
    }

    /// At the end: nothing lost, nothing taken back that was not retracted, every retraction in every partition, and
    /// every group has everything, also what was released.
    pub fn end(&self, mdt: &Mdt, broker: &Broker) -> Result<(), String> {
        let all = || self.seen.iter().flatten();
        for r in all().flat_map(|s| &s.retractions) {
            if all().any(|s| !s.retractions.iter().any(|o| o.incarnation >= r.incarnation && o.from <= r.from)) {
                return Err(format!("a partition lacks the retraction of incarnation {}", r.incarnation));
            }
        }
        if let Some(index) = all().flat_map(Seen::unretracted).find(|i| !self.missed_at.contains(i)) {
            return Err(format!("record {index} was taken back and not retracted"));
        }
        for r in mdt.history(0, u64::MAX - 1).filter(|r| !self.missed.contains(&r.uid)) {
            for topic in (0..FEEDS).filter(|t| takes(*t, r.uid)) {
                if !self.stands(topic, r.uid) {
                    return Err(format!("lost: record {} (content {}) in topic {topic}", r.index, r.uid));
                }
                if let Some((name, g)) = self.groups.iter().find(|(_, g)| g.topic == topic && !g.has(r.uid)) {
                    let released = if g.released.contains(&r.uid) { ", for which it was released" } else { "" };
                    return Err(format!("record {} never reached {name}{released}", r.index));
                }
            }
        }
        let gap = broker.state.as_ref().map_or(0, |s| s.gap_records);
        if gap > self.missed.len() as u64 {
            return Err(format!("{gap} records counted as missing, {} were purged", self.missed.len()));
        }
        Ok(())
    }
}
