//! What the file system says, sorted; and the few moves that make a change durable.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::SinkError;

/// Sorts what the file system said of doing something to `path`.
pub(super) fn sort(doing: &str, path: &Path, e: &io::Error) -> SinkError {
    let what = format!("{doing} {}", path.display());
    match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            SinkError::Unauthorised { what, why: e.to_string() }
        }
        _ => SinkError::Unavailable { what, why: e.to_string() },
    }
}

/// Whether there is no room: it may come back by itself, and nothing else is wrong.
pub(super) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Whether an open file is the one at `path`.
pub(super) fn is_file_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Names in a folder are durable when this returns.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a folder and those above it; their names are durable when this returns.
pub(super) fn make_dir(path: &Path) -> Result<(), SinkError> {
    let made = |e: io::Error| sort("making folder", path, &e);
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(made)?;
    let mut above = path.parent();
    while let Some(dir) = above {
        // A folder above that may not be opened was not made here.
        if let Err(e) = sync_dir(dir)
            && e.kind() != io::ErrorKind::PermissionDenied
        {
            return Err(made(e));
        }
        above = dir.parent();
    }
    Ok(())
}

/// A name beside `path` that nobody else uses.
pub(super) fn beside(path: &Path) -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{count}.new", std::process::id()))
}

/// Puts a whole file in the place of another: afterwards there is the one or the other, durably.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), SinkError> {
    let written = || -> io::Result<()> {
        let new = beside(path);
        let put = || -> io::Result<()> {
            fs::write(&new, bytes)?;
            File::open(&new)?.sync_all()?;
            fs::rename(&new, path)
        };
        put().inspect_err(|_| drop(fs::remove_file(&new)))?;
        path.parent().map_or(Ok(()), sync_dir)
    };
    written().map_err(|e| sort("writing", path, &e))
}

/// A file's bytes; `None` if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, SinkError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(sort("reading", path, &e)),
    }
}

/// Names in a folder, sorted; none if it is not there.
pub(super) fn names(path: &Path) -> Result<Vec<String>, SinkError> {
    let list = || -> io::Result<Vec<String>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(path)? {
            all.extend(entry?.file_name().into_string().ok());
        }
        all.sort_unstable();
        Ok(all)
    };
    match list() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| sort("listing", path, &e)),
    }
}

/// Locks `path`, which is made if it is not there; `None` while another one holds the lock.
pub(super) fn try_lock(path: &Path) -> Result<Option<File>, SinkError> {
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = open().map_err(|e| sort("opening", path, &e))?;
    Ok(lock_now(&file, path)?.then_some(file))
}

/// Whether the lock of an open file could be taken.
pub(super) fn lock_now(file: &File, path: &Path) -> Result<bool, SinkError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(e)) => Err(sort("locking", path, &e)),
    }
}

/// As [`try_lock`], waiting for as long as a healthy holder may take.
pub(super) fn lock(path: &Path) -> Result<File, SinkError> {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        if let Some(file) = try_lock(path)? {
            return Ok(file);
        }
        if std::time::Instant::now() > until {
            return Err(SinkError::Unavailable {
                what: format!("locking {}", path.display()),
                why: "another process has held it for 10 s".to_owned(),
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
