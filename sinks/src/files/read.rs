//! Reading a topic, as far as it is durable.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clbridge_schemas::avro::{Framing, Retracts, SchemaVersion, body_length};

use super::container::{Header, block_at, bodies, read_header_of};
use super::disk::sort;
use super::parts::{self, Part};
use super::{Shared, stand};
use crate::error::SinkError;
use crate::record::{foreign, stored};
use crate::retraction::header_of;
use crate::state::Retraction;
use crate::topic::{Position, Stored, Topic};

/// One record as it lies in a file.
pub(super) struct Lying {
    pub(super) position: u64,
    pub(super) payload: Vec<u8>,
    pub(super) retracts: Option<Retracts>,
}

/// A file that is open.
struct Open {
    first: u64,
    path: PathBuf,
    file: File,
    header: Header,
    /// Where the next block begins, and the position of its first record.
    at: u64,
    next: u64,
}

/// Takes records one behind the other, from a position on.
pub(super) struct Cursor {
    dir: PathBuf,
    /// The position of the record that comes next, if it is there.
    position: u64,
    open: Option<Open>,
    block: VecDeque<Lying>,
}

/// How far a topic may be read.
pub(super) struct Limit {
    /// The file that is written: its first position, and how many bytes of it count; `None`: closed files only.
    written: Option<(u64, u64)>,
}

impl Limit {
    pub(super) fn of(end: Option<&stand::End>) -> Self {
        Self { written: end.map(|end| (end.file, end.length)) }
    }

    fn parts(&self, dir: &Path) -> Result<Vec<Part>, SinkError> {
        parts::durable(dir, self.written.map(|(file, _)| file))
    }

    fn bytes(&self, first: u64) -> u64 {
        self.written.filter(|(file, _)| *file == first).map_or(u64::MAX, |(_, length)| length)
    }
}

impl Cursor {
    pub(super) fn new(dir: &Path, position: u64) -> Self {
        Self { dir: dir.to_owned(), position, open: None, block: VecDeque::new() }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next record within the limit.
    pub(super) fn next(&mut self, limit: &Limit) -> Result<Option<Lying>, SinkError> {
        loop {
            while let Some(record) = self.block.pop_front() {
                if record.position >= self.position {
                    self.position = record.position + 1;
                    return Ok(Some(record));
                }
            }
            if !self.fill(limit)? && !self.follow(limit)? {
                return Ok(None);
            }
        }
    }

    /// Takes the block of the open file that holds the position, or the first one behind it.
    fn fill(&mut self, limit: &Limit) -> Result<bool, SinkError> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let most = limit.bytes(open.first);
        let failed = |e: io::Error| sort("reading", &open.path, &e);
        while let Some(block) = block_at(&open.file, &open.header, open.at, most).map_err(failed)? {
            let first = open.next;
            (open.at, open.next) = (block.end, first + block.count);
            if open.next <= self.position {
                continue;
            }
            let records = bodies(&open.file, &open.header, &block).map_err(failed)?;
            self.block = split(&open.path, &open.header, first, block.count, &records)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Opens the file that holds the position, or the first one behind it, if that is not the open one.
    fn follow(&mut self, limit: &Limit) -> Result<bool, SinkError> {
        let parts = limit.parts(&self.dir)?;
        let holds = parts.iter().rposition(|p| p.first <= self.position);
        let Some(part) = parts.get(holds.unwrap_or(0)) else { return Ok(false) };
        if self.open.as_ref().is_some_and(|open| open.first == part.first) {
            // Read to its end; what follows it directly was found, what follows a hole begins behind it.
            let Some(part) = parts.iter().find(|p| p.first > self.position) else { return Ok(false) };
            return self.open_part(part);
        }
        self.open_part(part)
    }

    fn open_part(&mut self, part: &Part) -> Result<bool, SinkError> {
        let Some(open) = open_part(part)? else { return Ok(false) };
        self.open = Some(open);
        Ok(true)
    }
}

/// Opens a file; `None` if nothing is in it yet, or if it was removed.
fn open_part(part: &Part) -> Result<Option<Open>, SinkError> {
    let opened = match File::open(&part.path) {
        // It was closed in this moment.
        Err(e) if e.kind() == io::ErrorKind::NotFound && part.open => File::open(part.closed()),
        other => other,
    };
    let file = match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| sort("opening", &part.path, &e))?,
    };
    let header = read_header_of(&file).map_err(|e| sort("reading", &part.path, &e))?;
    let header = header.map_err(|why| foreign(&part.path.display(), why))?;
    Ok(header.map(|header| Open {
        first: part.first,
        path: part.path.clone(),
        file,
        at: header.length,
        next: part.first,
        header,
    }))
}

/// How many records stand in whole blocks of a file within `limit` bytes, and where the last of these blocks ends.
pub(super) fn whole(part: &Part, limit: u64) -> Result<(u64, u64), SinkError> {
    let Some(mut open) = open_part(part)? else { return Ok((0, 0)) };
    let mut any = false;
    while let Some(block) =
        block_at(&open.file, &open.header, open.at, limit).map_err(|e| sort("reading", &part.path, &e))?
    {
        (open.at, open.next, any) = (block.end, open.next + block.count, true);
    }
    Ok(if any { (open.next - open.first, open.at) } else { (0, 0) })
}

/// A block's records, framed as they were published.
fn split(path: &Path, header: &Header, first: u64, count: u64, mut rest: &[u8]) -> Result<VecDeque<Lying>, SinkError> {
    let mut records = VecDeque::new();
    for position in first..first + count {
        let place = || format!("{}, position {position}", path.display());
        let length = body_length(header.version, rest).map_err(|e| foreign(&place(), e.to_string()))?;
        let (body, behind) = rest.split_at(length);
        rest = behind;
        records.push_back(Lying { position, payload: framed(header.version, body), retracts: header.retracts });
    }
    if rest.is_empty() {
        return Ok(records);
    }
    Err(foreign(&path.display(), format!("{} bytes follow the record at position {}", rest.len(), first + count - 1)))
}

fn framed(version: SchemaVersion, body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(10 + body.len());
    Framing::SingleObject.write(version, &mut payload);
    payload.extend_from_slice(body);
    payload
}

/// Understands a record that lies in a topic.
fn understood(topic: &Topic, record: &Lying) -> Result<Stored, SinkError> {
    let at = Position { partition: 0, offset: record.position };
    let place = format!("{}, position {}", topic.name, record.position);
    // The header of a retraction names the incarnation that begins, what is kept the one that is void.
    let header = record.retracts.map(|void| {
        header_of(&Retraction { incarnation: void.incarnation.saturating_add(1), from: void.from, to: void.to })
    });
    stored(topic, at, &place, &record.payload, header.as_deref().map(str::as_bytes))
}

impl Shared {
    /// Where a topic begins: the first position that is there, or that will be.
    pub(super) fn low(&self, topic: &Topic, end: Option<&stand::End>) -> Result<u64, SinkError> {
        let parts = Limit::of(end).parts(&self.config.topic_dir(&topic.name))?;
        Ok(parts.first().map_or(end.map_or(0, |end| end.end), |part| part.first))
    }

    /// The position behind the last durable record.
    pub(super) fn end(&self, topic: &Topic, end: Option<&stand::End>) -> Result<u64, SinkError> {
        if let Some(end) = end {
            return Ok(end.end);
        }
        let parts = Limit::of(None).parts(&self.config.topic_dir(&topic.name))?;
        parts.last().map_or(Ok(0), |part| whole(part, u64::MAX).map(|(count, _)| part.first + count))
    }

    /// The last durable record.
    pub(super) fn tail(&self, topic: &Topic, end: Option<&stand::End>) -> Result<Option<Stored>, SinkError> {
        let Some(last) = self.end(topic, end)?.checked_sub(1) else { return Ok(None) };
        Ok(self.read_at_within(topic, &[Position { partition: 0, offset: last }], &Limit::of(end))?.pop().flatten())
    }

    pub(super) fn read_at(&self, topic: &Topic, at: &[Position]) -> Result<Vec<Option<Stored>>, SinkError> {
        self.read_at_within(topic, at, &Limit::of(self.end_of(topic)?.as_ref()))
    }

    fn read_at_within(&self, topic: &Topic, at: &[Position], limit: &Limit) -> Result<Vec<Option<Stored>>, SinkError> {
        let mut order: Vec<usize> = (0..at.len()).collect();
        order.sort_by_key(|i| at[*i].offset);
        let mut found: Vec<Option<Stored>> = vec![None; at.len()];
        let mut last: Option<Lying> = None;
        let mut cursor: Option<Cursor> = None;
        for i in order {
            let wanted = at[i].offset;
            if last.as_ref().is_none_or(|l| l.position < wanted) {
                let mut from = match cursor.take() {
                    Some(mut from) => {
                        from.position = wanted.max(from.position);
                        from
                    }
                    None => Cursor::new(&self.config.topic_dir(&topic.name), wanted),
                };
                last = from.next(limit)?;
                cursor = Some(from);
            }
            found[i] = last.as_ref().filter(|l| l.position >= wanted).map(|l| understood(topic, l)).transpose()?;
        }
        Ok(found)
    }

    pub(super) fn read_back(
        &self,
        topic: &Topic,
        incarnation: u32,
        above: u64,
        each: &mut dyn FnMut(Stored) -> bool,
    ) -> Result<(), SinkError> {
        let limit = Limit::of(self.end_of(topic)?.as_ref());
        let dir = self.config.topic_dir(&topic.name);
        let parts = limit.parts(&dir)?;
        // One file earlier than the names say: a module may have put a record before another of a lower index.
        let holds = parts.iter().rposition(|p| p.begins <= (incarnation, above)).unwrap_or(0);
        let Some(part) = parts.get(holds.saturating_sub(1)) else { return Ok(()) };
        let mut cursor = Cursor::new(&dir, part.first);
        while let Some(record) = cursor.next(&limit)? {
            if !each(understood(topic, &record)?) {
                break;
            }
        }
        Ok(())
    }
}
