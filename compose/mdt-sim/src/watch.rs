//! A real directory on this machine, whose activity becomes records, so that anyone can try clbridge on a laptop.
//! It says only what the system tells: no job, no client but this machine, and inode numbers as FIDs.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, MetadataKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};

use crate::mdt::{Mdt, Stamp};
use crate::workload::{Draft, Report, encode, kind};

/// `0@lo` in the big-endian form.
const LO: [u8; 20] = [0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// How often the end of the watch is looked for.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Clone, Copy)]
struct Object {
    fid: (u64, u32, u32),
    owner: (u32, u32),
    dir: bool,
    link: bool,
    links: u64,
}

struct Watch<'a> {
    mdt: &'a Mdt,
    /// What a path was when it was last seen: a removed one can no longer be asked.
    known: HashMap<PathBuf, Object>,
    /// Created, but moved on before it could be looked at: its new name will show what it is.
    moved_on: HashSet<PathBuf>,
    report: Report,
}

fn look(path: &Path) -> Option<Object> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    let ino = meta.ino();
    Some(Object {
        fid: (0x2_0000_0400 + (ino >> 32), ino as u32, 0),
        owner: (meta.uid(), meta.gid()),
        dir: meta.is_dir(),
        link: meta.file_type().is_symlink(),
        links: meta.nlink(),
    })
}

fn watch_error(dir: &Path, e: &notify::Error) -> io::Error {
    io::Error::other(format!("watch {}: {e}", dir.display()))
}

/// Watches `dir` and everything below it until `ended` is set.
///
/// # Errors
/// A directory that cannot be watched, those of the disk.
pub(crate) fn run(dir: &Path, mdt: &Mdt, ended: &AtomicBool) -> io::Result<Report> {
    let dir = dir.canonicalize().map_err(|e| io::Error::new(e.kind(), format!("watch {}: {e}", dir.display())))?;
    let (send, receive) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(send).map_err(|e| watch_error(&dir, &e))?;
    watcher.watch(&dir, RecursiveMode::Recursive).map_err(|e| watch_error(&dir, &e))?;
    let mut watch = Watch { mdt, known: HashMap::new(), moved_on: HashSet::new(), report: Report::default() };
    watch.learn(&dir);
    while !ended.load(Ordering::Relaxed) {
        match receive.recv_timeout(LOOK) {
            Ok(Ok(event)) => watch.on(&event)?,
            Ok(Err(e)) => tracing::warn!(error = %e, dir = %dir.display(), "watch"),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(watch.report)
}

impl Watch<'_> {
    /// Takes in what is already there, without making records of it.
    fn learn(&mut self, path: &Path) {
        let Some(object) = look(path) else { return };
        self.known.insert(path.to_owned(), object);
        if object.dir
            && let Ok(entries) = std::fs::read_dir(path)
        {
            for entry in entries.flatten() {
                self.learn(&entry.path());
            }
        }
    }

    fn on(&mut self, event: &Event) -> io::Result<()> {
        let Some(path) = event.paths.first() else {
            return Ok(());
        };
        match event.kind {
            EventKind::Create(_) => self.created(path),
            EventKind::Remove(what) => self.removed(path, what),
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => match event.paths.get(1) {
                Some(to) => self.renamed(path, to),
                None => Ok(()),
            },
            // Moved in from elsewhere, or out: like new, like gone. A move inside also comes as `Both`, afterwards.
            EventKind::Modify(ModifyKind::Name(RenameMode::To))
                if !self.known.contains_key(path) && event.tracker().is_none() =>
            {
                self.created(path)
            }
            EventKind::Modify(ModifyKind::Metadata(what)) => {
                let flags = match what {
                    MetadataKind::Permissions => 0x14,
                    MetadataKind::Ownership => 0x64,
                    _ => 0x4,
                };
                self.touched(path, kind::SATTR, flags)
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => self.touched(path, kind::CLOSE, 0x42),
            _ => Ok(()),
        }
    }

    fn log(&mut self, object: &Object, draft: Draft<'_>) -> io::Result<()> {
        let mut record = Vec::new();
        encode(&Draft { owner: Some(object.owner), nid: Some(&LO), ..draft }, &mut record);
        self.report.add(self.mdt.emit(&record, Stamp::Now)?);
        Ok(())
    }

    fn parent(&mut self, path: &Path) -> (u64, u32, u32) {
        let Some(parent) = path.parent() else {
            return (0, 0, 0);
        };
        if let Some(known) = self.known.get(parent) {
            return known.fid;
        }
        look(parent).map_or((0, 0, 0), |o| o.fid)
    }

    fn name(path: &Path) -> &[u8] {
        path.file_name().map_or(&[], OsStrExt::as_bytes)
    }

    fn created(&mut self, path: &Path) -> io::Result<()> {
        match look(path) {
            Some(object) => self.new_object(path, object),
            None => {
                self.moved_on.insert(path.to_owned());
                Ok(())
            }
        }
    }

    fn new_object(&mut self, path: &Path, object: Object) -> io::Result<()> {
        let kind = match (object.dir, object.link) {
            (true, _) => kind::MKDIR,
            (_, true) => kind::SLINK,
            _ if object.links > 1 => kind::HLINK,
            _ => kind::CREAT,
        };
        let pfid = self.parent(path);
        self.known.insert(path.to_owned(), object);
        self.log(&object, Draft { kind, tfid: object.fid, pfid, name: Self::name(path), ..Draft::default() })
    }

    fn removed(&mut self, path: &Path, what: RemoveKind) -> io::Result<()> {
        self.moved_on.remove(path);
        let Some(object) = self.known.remove(path) else {
            return Ok(());
        };
        let dir = object.dir || what == RemoveKind::Folder;
        let last = dir || !self.known.values().any(|o| o.fid == object.fid);
        let pfid = self.parent(path);
        let kind = if dir { kind::RMDIR } else { kind::UNLNK };
        self.log(
            &object,
            Draft { kind, flags: u16::from(last), tfid: object.fid, pfid, name: Self::name(path), ..Draft::default() },
        )
    }

    fn renamed(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.moved_on.remove(from) {
            match look(to) {
                Some(object) => self.new_object(from, object)?,
                None => {
                    self.moved_on.insert(to.to_owned());
                    return Ok(());
                }
            }
        }
        let Some(object) = self.known.remove(from).or_else(|| look(to)) else {
            return Ok(());
        };
        let overwritten = self.known.insert(to.to_owned(), object);
        let (source_parent, pfid) = (self.parent(from), self.parent(to));
        if object.dir {
            // What lies below has moved along.
            let below: Vec<PathBuf> = self.known.keys().filter(|p| p.starts_with(from)).cloned().collect();
            for old in below {
                if let (Some(known), Ok(rest)) = (self.known.remove(&old), old.strip_prefix(from)) {
                    self.known.insert(to.join(rest), known);
                }
            }
        }
        self.log(
            &object,
            Draft {
                kind: kind::RENME,
                flags: u16::from(overwritten.is_some()),
                tfid: overwritten.map_or((0, 0, 0), |o| o.fid),
                pfid,
                rename: Some((object.fid, source_parent, Self::name(from))),
                name: Self::name(to),
                ..Draft::default()
            },
        )
    }

    fn touched(&mut self, path: &Path, kind: u32, flags: u16) -> io::Result<()> {
        let Some(object) = look(path) else {
            return Ok(());
        };
        self.known.insert(path.to_owned(), object);
        self.log(&object, Draft { kind, flags, tfid: object.fid, ..Draft::default() })
    }
}
