//! The thread that writes, syncs and commits.
//!
//! The order of a commit: the data of each file that was written is synced, the names of new files are, then the content
//! of the file of State that names the new ends is written and synced, then it is made sure that this file is still in
//! its place, which is the fence; only then it counts. Files that became whole with it get their last names.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use clbridge_schemas::avro::SchemaVersion;
use clbridge_schemas::ids::MdtName;

use super::super::config::{Codec, FilesConfig};
use super::super::container::{block, header};
use super::super::disk::{is_file_at, is_full, sort, sync_dir};
use super::super::parts::{self, closed_path, open_path};
use super::super::slots::Slots;
use super::super::stand::{End, Stand};
use super::packer::{Packed, Task};
use super::{Begin, Block, Commit};
use crate::error::SinkError;
use crate::topic::Topic;

/// How soon is looked whether there is room again.
const FULL_RETRY: Duration = Duration::from_millis(500);
/// How often it is said that there is none.
const FULL_SAID: Duration = Duration::from_secs(60);
/// How often is looked whether a file is old enough to be closed.
const IDLE: Duration = Duration::from_millis(200);

/// A file that is written.
struct Writing {
    path: PathBuf,
    file: File,
    sync: [u8; 16],
    version: SchemaVersion,
    /// It holds a retraction, and nothing else.
    alone: bool,
    since: Instant,
    first: u64,
    length: u64,
    /// Something of it is not synced.
    dirty: bool,
}

/// A topic as its files are written.
struct Track {
    topic: Topic,
    dir: PathBuf,
    writing: Option<Writing>,
    /// Complete, and to be renamed behind the next commit.
    complete: Vec<Writing>,
    /// Where it would end if all that is written were committed.
    end: End,
    /// A name in the folder is not synced.
    named: bool,
}

/// The thread's own.
pub(super) struct Writer {
    mdt: MdtName,
    codec: Codec,
    rotate_bytes: u64,
    rotate_after: Duration,
    slots: Slots,
    stand: Stand,
    tracks: Vec<Track>,
    waiting: Arc<AtomicUsize>,
    abandoned: Arc<AtomicBool>,
    /// When it was last said that there is no room.
    full: Option<Instant>,
    /// Something was written since the last commit.
    dirty: bool,
}

impl Writer {
    pub(super) fn new(
        config: &FilesConfig,
        begin: Begin,
        waiting: Arc<AtomicUsize>,
        abandoned: Arc<AtomicBool>,
    ) -> Self {
        let track = |topic: &Topic| Track {
            dir: config.topic_dir(&topic.name),
            writing: None,
            complete: Vec::new(),
            end: begin
                .stand
                .end_of(&topic.name, &topic.id)
                .cloned()
                .unwrap_or_else(|| End { id: topic.id.clone(), ..End::default() }),
            named: false,
            topic: topic.clone(),
        };
        Self {
            mdt: begin.mdt,
            codec: config.codec,
            rotate_bytes: config.rotate_bytes,
            rotate_after: config.rotate_after(),
            tracks: begin.topics.iter().map(track).collect(),
            slots: begin.slots,
            stand: begin.stand,
            waiting,
            abandoned,
            full: None,
            dirty: false,
        }
    }

    /// Until the publisher is gone, or the first failure, which is said.
    pub(super) fn run(mut self, tasks: &Receiver<Task>, say: &Sender<Result<Commit, SinkError>>) {
        while !self.abandoned.load(Ordering::Relaxed) {
            let done = match tasks.recv_timeout(IDLE) {
                Ok(Task::Block(packed)) => self.block(&packed),
                Ok(Task::Failed(e)) => Err(self.failed(&e)),
                Ok(Task::Commit(commit)) => match self.commit(&commit) {
                    // Whoever asked is gone: there is nobody to be told.
                    Ok(()) if say.send(Ok(commit)).is_err() => return,
                    other => other,
                },
                Err(RecvTimeoutError::Timeout) => self.close_old(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(e) = done {
                // Whoever took over has replaced files under this writer's hands: that is why, whatever it ran into.
                let fenced = matches!(self.slots.is_in_place(), Ok(false));
                drop(say.send(Err(if fenced { self.fenced() } else { e })));
                return;
            }
        }
    }

    fn fenced(&self) -> SinkError {
        SinkError::Fenced { what: format!("publishing {}", self.mdt), owner: None }
    }

    fn ensure_in_place(&self) -> Result<(), SinkError> {
        match self.slots.is_in_place() {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.fenced()),
            Err(e) => Err(self.failed(&e)),
        }
    }

    fn failed(&self, e: &io::Error) -> SinkError {
        SinkError::Unavailable { what: format!("publishing {}", self.mdt), why: e.to_string() }
    }

    /// Does what needs room, again and again while there is none.
    fn with_room(&mut self, mut write: impl FnMut(&mut Self) -> io::Result<()>) -> Result<(), SinkError> {
        loop {
            match write(self) {
                Ok(()) => {
                    if self.full.take().is_some() {
                        tracing::info!(mdt = %self.mdt, "there is room again");
                    }
                    return Ok(());
                }
                Err(e) if is_full(&e) => {
                    if self.full.is_none_or(|said| said.elapsed() > FULL_SAID) {
                        let dir = self.tracks.first().map(|t| t.dir.display().to_string());
                        tracing::warn!(mdt = %self.mdt, dir, "no room: {e}; nothing is published until there is");
                        self.full = Some(Instant::now());
                    }
                    // A new writer may have been started meanwhile.
                    self.ensure_in_place()?;
                    if self.abandoned.load(Ordering::Relaxed) {
                        return Err(self.failed(&e));
                    }
                    std::thread::sleep(FULL_RETRY);
                }
                Err(e) => return Err(self.failed(&e)),
            }
        }
    }

    fn block(&mut self, packed: &Packed) -> Result<(), SinkError> {
        let records = &packed.block;
        self.begin_for(records)?;
        let ix = records.topic;
        let Some(sync) = self.tracks[ix].writing.as_ref().map(|w| w.sync) else { return Ok(()) };
        let bytes = block(&sync, records.count, &packed.content);
        self.with_room(|own| {
            let Some(writing) = own.tracks[ix].writing.as_mut() else { return Ok(()) };
            append(writing, &bytes)
        })?;
        let track = &mut self.tracks[ix];
        if let Some(writing) = &track.writing {
            track.end.file = writing.first;
            track.end.length = writing.length;
            track.end.end = records.position + records.count;
        }
        self.dirty = true;
        self.waiting.fetch_sub(packed.size, Ordering::Relaxed);
        Ok(())
    }

    /// Makes sure that a file is open that this block may go into.
    fn begin_for(&mut self, records: &Block) -> Result<(), SinkError> {
        let (rotate_bytes, rotate_after) = (self.rotate_bytes, self.rotate_after);
        let track = &mut self.tracks[records.topic];
        let fits = track.writing.as_ref().is_some_and(|w| {
            let grown = w.length >= rotate_bytes || w.since.elapsed() >= rotate_after;
            !grown && !w.alone && records.retracts.is_none() && w.version == records.version
        });
        if fits {
            return Ok(());
        }
        track.complete.extend(track.writing.take());
        let (ix, first) = (records.topic, records.position);
        let path = open_path(&track.dir, first, records.first);
        self.ensure_in_place()?;
        self.remove_strays(ix)?;
        let (head, sync) =
            header(self.codec, records.version, records.retracts.as_deref()).map_err(|e| self.failed(&e))?;
        self.with_room(|own| {
            let opened = File::options().write(true).create_new(true).open(&path)?;
            let mut writing = Writing {
                path: path.clone(),
                file: opened,
                sync,
                version: records.version,
                alone: records.retracts.is_some(),
                since: Instant::now(),
                first,
                length: 0,
                dirty: true,
            };
            append(&mut writing, &head).inspect_err(|_| drop(fs::remove_file(&path)))?;
            own.tracks[ix].writing = Some(writing);
            own.tracks[ix].named = true;
            Ok(())
        })
    }

    /// Removes what a writer left that was fenced in the moment in which it began a file.
    fn remove_strays(&self, ix: usize) -> Result<(), SinkError> {
        let track = &self.tracks[ix];
        for part in parts::all(&track.dir)?.into_iter().filter(|part| part.open) {
            if !track.complete.iter().any(|own| own.path == part.path) {
                fs::remove_file(&part.path).map_err(|e| sort("removing", &part.path, &e))?;
            }
        }
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), SinkError> {
        if commit.empty && !self.dirty {
            return self.ensure_in_place();
        }
        for track in &mut self.tracks {
            for writing in track.complete.iter_mut().chain(&mut track.writing).filter(|w| w.dirty) {
                // No second attempt: after a failed sync nobody knows what is on the disk.
                writing.file.sync_data().map_err(|e| sort("syncing", &writing.path, &e))?;
                if !is_file_at(&writing.file, &writing.path).map_err(|e| sort("looking at", &writing.path, &e))? {
                    return Err(SinkError::Unavailable {
                        what: format!("writing {}", writing.path.display()),
                        why: "somebody removed it".to_owned(),
                    });
                }
                writing.dirty = false;
            }
            if track.named {
                sync_dir(&track.dir).map_err(|e| sort("syncing", &track.dir, &e))?;
                track.named = false;
            }
            if track.end.end > 0 {
                self.stand.topics.insert(track.topic.name.clone(), track.end.clone());
            }
        }
        if let Some(state) = &commit.state {
            self.stand.state.clone_from(state);
        }
        let content = self.stand.write();
        if content.len() > self.slots.room() {
            return Err(SinkError::Mismatch {
                what: format!("State of {} and the ends of its topics", self.mdt),
                why: format!("have {} bytes, at most {} have room", content.len(), self.slots.room()),
                hint: "remove groups or feeds that are no longer used".to_owned(),
            });
        }
        self.with_room(|own| own.slots.put(&content))?;
        self.ensure_in_place()?;
        self.slots.announce().map_err(|e| self.failed(&e))?;
        self.dirty = false;
        self.rename_complete()
    }

    /// Gives files that are whole and committed their last names.
    fn rename_complete(&mut self) -> Result<(), SinkError> {
        for track in &mut self.tracks {
            let any = !track.complete.is_empty();
            for writing in track.complete.drain(..) {
                let closed = closed_path(&writing.path);
                match fs::rename(&writing.path, &closed) {
                    // Whoever fenced this writer meanwhile has done so.
                    Err(e) if e.kind() == io::ErrorKind::NotFound && closed.exists() => {}
                    other => other.map_err(|e| sort("closing", &writing.path, &e))?,
                }
            }
            if any {
                sync_dir(&track.dir).map_err(|e| sort("syncing", &track.dir, &e))?;
            }
        }
        Ok(())
    }

    /// Closes files that are old or large enough while nothing comes.
    fn close_old(&mut self) -> Result<(), SinkError> {
        if self.dirty {
            return Ok(());
        }
        let (rotate_bytes, rotate_after) = (self.rotate_bytes, self.rotate_after);
        let due = |w: &Writing| w.alone || w.length >= rotate_bytes || w.since.elapsed() >= rotate_after;
        if !self.tracks.iter().any(|t| t.writing.as_ref().is_some_and(due)) {
            return Ok(());
        }
        self.ensure_in_place()?;
        for track in &mut self.tracks {
            if track.writing.as_ref().is_some_and(due) {
                track.complete.extend(track.writing.take());
            }
        }
        self.rename_complete()
    }
}

/// Appends all of it or nothing.
fn append(writing: &mut Writing, bytes: &[u8]) -> io::Result<()> {
    match writing.file.write_all_at(bytes, writing.length) {
        Ok(()) => {
            writing.length += bytes.len() as u64;
            writing.dirty = true;
            Ok(())
        }
        Err(e) => {
            writing.file.set_len(writing.length)?;
            Err(e)
        }
    }
}
