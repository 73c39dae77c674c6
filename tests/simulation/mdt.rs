//! The model MDT: a log with a commit point. A crash takes back records and clears behind it, and reuses indexes.

use std::collections::BTreeMap;

use clbridge::source::Probe;
use clbridge_schemas::ids::Digest;

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
    next_uid: u64,
    /// Everything that was ever emitted and not taken back.
    pub taken_back: Vec<Rec>,
    pub crashes: u64,
}

/// An open descriptor: what it has prefetched it delivers, whatever happened since.
#[derive(Default)]
pub struct Descriptor {
    position: u64,
    prefetched: std::collections::VecDeque<Rec>,
    ended: bool,
}

const PREFETCH: usize = 32;

impl Mdt {
    pub fn new() -> Self {
        let start = Point { next: 1, cleared: 0 };
        Self { history: BTreeMap::new(), now: start, committed: start, next_uid: 1, taken_back: Vec::new(), crashes: 0 }
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
    }

    /// Back to the commit point; then `replayed` operations come back with new content under the same indexes.
    pub fn crash(&mut self, replayed: u64, time: u64) -> u64 {
        let lost: Vec<Rec> = self.history.split_off(&self.committed.next).into_values().collect();
        let count = lost.len() as u64;
        self.taken_back.extend(lost);
        self.now = self.committed;
        self.crashes += 1;
        self.emit(replayed, time);
        self.commit();
        count
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

    fn readable(&self, from: u64) -> impl Iterator<Item = Rec> + '_ {
        self.history.range(from.max(self.now.cleared + 1)..).map(|(_, r)| *r)
    }

    pub fn probe(&self, index: u64) -> Probe {
        match self.readable(index).next() {
            Some(r) if r.index == index => Probe::Found(Digest(r.uid)),
            Some(r) => Probe::Gone { next: r.index },
            None => Probe::Nothing,
        }
    }

    pub fn oldest(&self) -> Option<u64> {
        self.readable(0).next().map(|r| r.index)
    }

    pub fn scan(&self, from: u64, to: u64) -> Vec<(u64, Digest)> {
        self.readable(from).take_while(|r| r.index <= to).map(|r| (r.index, Digest(r.uid))).collect()
    }

    /// Err: beyond the newest index. Otherwise the records that were cleared by this.
    pub fn clear(&mut self, upto: u64) -> Result<Vec<Rec>, ()> {
        if upto >= self.now.next {
            return Err(());
        }
        let cleared: Vec<Rec> = if upto > self.now.cleared {
            self.history.range(self.now.cleared + 1..=upto).map(|(_, r)| *r).collect()
        } else {
            Vec::new()
        };
        self.now.cleared = self.now.cleared.max(upto);
        Ok(cleared)
    }

    /// Records of the history as it is now, cleared ones included.
    pub fn surviving(&self) -> impl Iterator<Item = &Rec> {
        self.history.values()
    }

    /// Whether this content is what the history has under this index.
    pub fn has(&self, index: u64, uid: u64) -> bool {
        self.history.get(&index).is_some_and(|r| r.uid == uid)
    }

    pub fn newest(&self) -> u64 {
        self.now.next - 1
    }

    pub fn cleared(&self) -> u64 {
        self.now.cleared
    }
}
