//! What a reader of one partition, who heeds retractions, would hold for true.

use std::collections::HashMap;

use clbridge_schemas::ids::RecordId;
use clbridge_sinks::state::Retraction;

use crate::broker::Entry;

#[derive(Default)]
pub struct Seen {
    last: Option<(RecordId, bool)>,
    /// Contents that stand, and under which identity.
    standing: HashMap<u64, RecordId>,
    /// Of these, those that the MDT took back, and the first content that came after.
    void: HashMap<u64, u64>,
    /// Every content that was ever here.
    ever: Vec<u64>,
    pub retractions: Vec<Retraction>,
}

impl Seen {
    /// The next record. `taken_back`: the MDT has taken it back by now, and what content came next.
    pub fn append(&mut self, e: &Entry, taken_back: Option<u64>) -> Result<(), String> {
        if let Some((last, retraction)) = self.last
            && (last > e.id || last == e.id && !(retraction && e.retracts.is_none()))
        {
            return Err(format!("order: {last} before {}", e.id));
        }
        self.last = Some((e.id, e.retracts.is_some()));
        if let Some(r) = e.retracts {
            let stays = |id: &RecordId| id.incarnation >= r.incarnation || id.index.get() < r.from;
            self.standing.retain(|_, id| stays(id));
            let standing = &self.standing;
            self.void.retain(|uid, _| standing.contains_key(uid));
            self.retractions.push(r);
            return Ok(());
        }
        if let Some((uid, _)) = self.void.iter().find(|(_, next)| e.uid >= **next) {
            let void = self.standing[uid];
            return Err(format!("{} (content {}) follows {void}, which was taken back and not retracted", e.id, e.uid));
        }
        if let Some(id) = self.standing.insert(e.uid, e.id) {
            return Err(format!("twice: content {} as {id} and as {}", e.uid, e.id));
        }
        self.ever.push(e.uid);
        if let Some(next) = taken_back {
            self.void.insert(e.uid, next);
        }
        Ok(())
    }

    pub fn stands(&self, uid: u64) -> bool {
        self.standing.contains_key(&uid)
    }

    /// Under which identity a content stands.
    pub fn identity(&self, uid: u64) -> Option<RecordId> {
        self.standing.get(&uid).copied()
    }

    pub fn ever(&self) -> impl Iterator<Item = u64> {
        self.ever.iter().copied()
    }

    /// The MDT took this content back.
    pub fn taken_back(&mut self, uid: u64, next: u64) {
        if self.standing.contains_key(&uid) {
            self.void.insert(uid, next);
        }
    }

    /// What took this index anew was purged before anybody could see it: nobody can know that it was taken back.
    pub fn hidden(&mut self, index: u64) {
        let standing = &self.standing;
        self.void.retain(|uid, _| standing[uid].index.get() != index);
    }

    /// Indexes that stand here although the MDT took them back.
    pub fn unretracted(&self) -> impl Iterator<Item = u64> {
        self.void.keys().map(|uid| self.standing[uid].index.get())
    }
}
