//! The records of one MDT in order: the newest in memory, all of them in the journal.
//! It must never let a reader see past the newest record, nor drop from disk what a crash could still bring back.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::journal::{Journal, Meta, Place};
use crate::layout;

/// Records are written to the journal in blocks of about this many bytes, sooner at a commit.
const BLOCK: usize = 64 << 10;
/// A crash hands back at most this many of the newest lost records for replay.
const MAX_LOST: usize = 1 << 20;

#[derive(Debug)]
struct Block {
    place: Place,
    data: Option<Arc<Vec<u8>>>,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    journal: Journal,
    blocks: VecDeque<Block>,
    tail: Vec<u8>,
    tail_first: u64,
    tail_last: u64,
    tail_count: u32,
    /// Bytes of block data that may stay in memory, that do, and the first block that still has them.
    window: usize,
    resident: usize,
    resident_from: usize,
    /// The last block that was read back from disk, for readers that are behind.
    cached: Option<(u64, Arc<Vec<u8>>)>,
}

impl Log {
    pub(crate) fn new(journal: Journal, places: Vec<Place>, purged: u64, window: usize) -> Self {
        let blocks: VecDeque<Block> =
            places.into_iter().filter(|p| p.last > purged).map(|place| Block { place, data: None }).collect();
        Self {
            journal,
            resident_from: blocks.len(),
            blocks,
            tail: Vec::with_capacity(BLOCK + layout::MAX_RECORD),
            tail_first: 0,
            tail_last: 0,
            tail_count: 0,
            window,
            resident: 0,
            cached: None,
        }
    }

    /// Adds one record, already stamped with `index`.
    pub(crate) fn push(&mut self, record: &[u8], index: u64) -> io::Result<()> {
        if self.tail_count == 0 {
            self.tail_first = index;
        }
        self.tail_last = index;
        self.tail_count += 1;
        self.tail.extend_from_slice(record);
        if self.tail.len() >= BLOCK { self.seal() } else { Ok(()) }
    }

    fn seal(&mut self) -> io::Result<()> {
        if self.tail_count == 0 {
            return Ok(());
        }
        let place = self.journal.append(self.tail_first, self.tail_last, self.tail_count, &self.tail)?;
        self.resident += self.tail.len();
        let data = Some(Arc::new(self.tail.as_slice().to_vec()));
        self.tail.clear();
        self.tail_count = 0;
        self.blocks.push_back(Block { place, data });
        while self.resident > self.window && self.resident_from < self.blocks.len() {
            if self.blocks[self.resident_from].data.take().is_some() {
                self.resident -= self.blocks[self.resident_from].place.len as usize;
            }
            self.resident_from += 1;
        }
        Ok(())
    }

    /// Writes everything and the state to disk, and gives up what is purged.
    pub(crate) fn commit(&mut self, meta: &Meta) -> io::Result<()> {
        self.seal()?;
        self.journal.commit(meta)?;
        while self.blocks.front().is_some_and(|b| b.place.last <= meta.purged) {
            if let Some(block) = self.blocks.pop_front()
                && block.data.is_some()
            {
                self.resident -= block.place.len as usize;
            }
            self.resident_from = self.resident_from.saturating_sub(1);
        }
        self.journal.forget_before(self.blocks.front().map(|b| &b.place))
    }

    /// Takes back every record behind `committed` and returns them (the first million), oldest first.
    pub(crate) fn rollback(&mut self, committed: u64) -> io::Result<Vec<Vec<u8>>> {
        self.seal()?;
        let keep = self.blocks.partition_point(|b| b.place.last <= committed);
        let mut lost = Vec::new();
        for at in keep..self.blocks.len() {
            if lost.len() >= MAX_LOST {
                break;
            }
            let data = self.data(at)?;
            let mut rest = data.as_slice();
            while let Some(len) = layout::record_len(rest) {
                lost.push(rest[..len].to_vec());
                rest = &rest[len..];
            }
        }
        for block in self.blocks.drain(keep..) {
            if block.data.is_some() {
                self.resident -= block.place.len as usize;
            }
        }
        self.resident_from = self.resident_from.min(self.blocks.len());
        self.cached = None;
        self.journal.rollback()?;
        Ok(lost)
    }

    /// Forgets all records, as a new file system has none; durable with the next commit.
    pub(crate) fn reset(&mut self, meta: &Meta) -> io::Result<()> {
        self.tail.clear();
        self.tail_count = 0;
        self.blocks.clear();
        self.resident = 0;
        self.resident_from = 0;
        self.cached = None;
        self.commit(meta)
    }

    fn data(&mut self, at: usize) -> io::Result<Arc<Vec<u8>>> {
        let block = &self.blocks[at];
        if let Some(data) = &block.data {
            return Ok(Arc::clone(data));
        }
        let first = block.place.first;
        if let Some((cached, data)) = &self.cached
            && *cached == first
        {
            return Ok(Arc::clone(data));
        }
        let data = Arc::new(self.journal.read(&block.place)?);
        self.cached = Some((first, Arc::clone(&data)));
        Ok(data)
    }

    /// Calls `take` with every record from index `from` on, until it returns false or the end is reached. Returns
    /// true if the end was reached.
    pub(crate) fn read(&mut self, from: u64, mut take: impl FnMut(u64, &[u8]) -> bool) -> io::Result<bool> {
        let mut at = self.blocks.partition_point(|b| b.place.last < from);
        while at < self.blocks.len() {
            let data = self.data(at)?;
            if !walk(&data, from, &mut take) {
                return Ok(false);
            }
            at += 1;
        }
        Ok(self.tail_count == 0 || walk(&self.tail, from, &mut take))
    }

    /// Number of records from `first` up to, not including, `upto`; blocks count as a whole, so it is an estimate by
    /// some hundred records.
    pub(crate) fn count(&self, first: u64, upto: u64) -> u64 {
        let from = self.blocks.partition_point(|b| b.place.last < first);
        let to = self.blocks.partition_point(|b| b.place.last < upto);
        let blocks: u64 = self.blocks.range(from..to).map(|b| u64::from(b.place.count)).sum();
        blocks + if upto > self.tail_last { u64::from(self.tail_count) } else { 0 }
    }

    /// Bytes of records kept in memory.
    pub(crate) fn resident_bytes(&self) -> usize {
        self.resident + self.tail.len()
    }
}

fn walk(bytes: &[u8], from: u64, take: &mut impl FnMut(u64, &[u8]) -> bool) -> bool {
    let mut rest = bytes;
    while let Some(len) = layout::record_len(rest) {
        let index = layout::head(rest).map_or(0, |h| h.index);
        if index >= from && !take(index, &rest[..len]) {
            return false;
        }
        rest = &rest[len..];
    }
    true
}
