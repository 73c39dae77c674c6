//! The model MDT: a log with a commit point. A crash takes back records, clears and purges behind it, and gives indexes
//! anew.

use std::collections::{BTreeMap, VecDeque};

use clbridge::source::Probe;
use clbridge_schemas::ids::Digest;

use crate::content::digest;

/// One record; `uid` is its content: the same index with another content has another uid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rec {
    pub index: u64,
    pub uid: u64,
    /// Virtual milliseconds.
    pub time: u64,
}

#[derive(Clone, Copy, Default)]
struct Point {
    next: u64,
    cleared: u64,
}

/// See the module.
pub struct Mdt {
    /// Every record of the current history, cleared ones included, by index.
    history: BTreeMap<u64, Rec>,
    now: Point,
    committed: Point,
    pub next_uid: u64,
    /// How many records were ever taken back.
    pub taken_back: u64,
    /// Clears carried out since the commit point: after a crash the client may send them again.
    uncommitted_clears: Vec<u64>,
}

/// An open descriptor: what it has prefetched it delivers, whatever happened since.
#[derive(Default)]
pub struct Descriptor {
    position: u64,
    prefetched: VecDeque<Rec>,
    ended: bool,
}

const PREFETCH: usize = 32;

impl Mdt {
    pub fn new() -> Self {
        let start = Point { next: 1, cleared: 0 };
        Self {
            history: BTreeMap::new(),
            now: start,
            committed: start,
            next_uid: 1,
            taken_back: 0,
            uncommitted_clears: Vec::new(),
        }
    }

    pub fn emit(&mut self, count: u64, time: u64) {
        for _ in 0..count {
            let rec = Rec { index: self.now.next, uid: self.next_uid, time };
            self.next_uid += 1;
            self.history.insert(rec.index, rec);
            self.now.next += 1;
        }
    }

    pub fn commit(&mut self) {
        self.committed = self.now;
        self.uncommitted_clears.clear();
    }

    /// Back to the commit point; then `replayed` operations come back with new content under the same indexes. Returns
    /// what was taken back and the clears that may be carried out again.
    pub fn crash(&mut self, replayed: u64, time: u64) -> (Vec<Rec>, Vec<u64>) {
        let lost: Vec<Rec> = self.history.split_off(&self.committed.next).into_values().collect();
        self.taken_back += lost.len() as u64;
        self.now = self.committed;
        let again = std::mem::take(&mut self.uncommitted_clears);
        self.emit(replayed, time);
        self.commit();
        (lost, again)
    }

    /// Everything is forgotten, and indexes begin at 1 again. Returns what was there.
    pub fn reset(&mut self) -> Vec<Rec> {
        let lost = std::mem::take(&mut self.history).into_values().collect();
        self.now = Point { next: 1, cleared: 0 };
        self.commit();
        lost
    }

    /// The server forgets everything up to `upto`, at most to the commit point, whoever wanted it. Returns what went.
    pub fn purge(&mut self, upto: u64) -> Vec<Rec> {
        let upto = upto.min(self.committed.next - 1);
        let gone = self.readable(0).take_while(|r| r.index <= upto).collect();
        self.now.cleared = self.now.cleared.max(upto);
        self.committed.cleared = self.committed.cleared.max(upto);
        gone
    }

    pub fn open(&self, index: u64) -> Descriptor {
        Descriptor { position: index, ..Descriptor::default() }
    }

    pub fn read(&self, d: &mut Descriptor, max: usize) -> Vec<Rec> {
        if d.prefetched.is_empty() && !d.ended {
            d.prefetched.extend(self.readable(d.position).take(PREFETCH));
            d.ended = d.prefetched.is_empty();
        }
        let n = max.min(d.prefetched.len());
        let out: Vec<Rec> = d.prefetched.drain(..n).collect();
        if let Some(last) = out.last() {
            d.position = last.index + 1;
        }
        out
    }

    pub fn readable(&self, from: u64) -> impl Iterator<Item = Rec> + '_ {
        self.history.range(from.max(self.now.cleared + 1)..).map(|(_, r)| *r)
    }

    pub fn probe(&self, index: u64) -> Probe {
        match self.readable(index).next() {
            Some(r) if r.index == index => Probe::Found(digest(r.index, r.uid)),
            Some(r) => Probe::Gone { next: r.index },
            None => Probe::Nothing,
        }
    }

    pub fn oldest(&self) -> Option<u64> {
        self.readable(0).next().map(|r| r.index)
    }

    pub fn scan(&self, from: u64, to: u64) -> Vec<(u64, Digest)> {
        self.readable(from).take_while(|r| r.index <= to).map(|r| (r.index, digest(r.index, r.uid))).collect()
    }

    /// Err: beyond the newest index. Otherwise the records that were cleared by this.
    pub fn clear(&mut self, upto: u64) -> Result<Vec<Rec>, ()> {
        if upto >= self.now.next {
            return Err(());
        }
        let cleared: Vec<Rec> = self.readable(0).take_while(|r| r.index <= upto).collect();
        self.now.cleared = self.now.cleared.max(upto);
        self.uncommitted_clears.push(upto);
        Ok(cleared)
    }

    /// Records of the history as it is now, cleared ones included, above `above` up to `to`.
    pub fn history(&self, above: u64, to: u64) -> impl Iterator<Item = &Rec> {
        self.history
            .range(above.saturating_add(1)..=to.max(above.saturating_add(1)))
            .map(|(_, r)| r)
            .filter(move |r| r.index <= to)
    }

    /// What the history has under this index.
    pub fn at(&self, index: u64) -> Option<&Rec> {
        self.history.get(&index)
    }

    pub fn newest(&self) -> u64 {
        self.now.next - 1
    }

    /// The newest record that a crash cannot take back.
    pub fn safe(&self) -> u64 {
        self.committed.next - 1
    }

    pub fn cleared(&self) -> u64 {
        self.now.cleared
    }
}
