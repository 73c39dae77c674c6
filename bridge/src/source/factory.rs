//! Opens the readers and clearers of a Lustre client's MDTs, and finds out which there are.

use std::path::PathBuf;

use clbridge_schemas::ids::MdtName;

use super::clearer::DeviceClearer;
use super::clock::BootClock;
use super::device::{Device, UserId};
use super::lustre::{DEVICE_DIR, LustreDevice, discover};
use super::pace::PaceSettings;
use super::reader::DeviceSource;
use super::{Opened, SourceError, SourceFactory};

/// A reader and a clearer over one device each, so that neither waits for the other.
///
/// # Errors
/// The user cannot be one, or the device cannot be opened.
pub(super) fn open_both<D: Device + 'static>(
    mdt: &MdtName,
    user: &str,
    pace: PaceSettings,
    device: impl Fn() -> D,
) -> Result<Opened, SourceError> {
    let user: UserId = user.parse().map_err(|source| SourceError::User { mdt: mdt.clone(), source })?;
    let source = DeviceSource::new(mdt.clone(), device(), BootClock, pace).begin()?;
    let clearer = DeviceClearer::new(mdt.clone(), device(), user, BootClock);
    Ok((Box::new(source), Box::new(clearer)))
}

/// The MDTs of the Lustre file systems that are mounted on this machine.
#[derive(Clone, Debug)]
pub struct LustreFactory {
    dir: PathBuf,
    fsname: Option<String>,
    pace: PaceSettings,
}

impl LustreFactory {
    /// All MDTs in [`DEVICE_DIR`], or those of the file system `fsname`.
    #[must_use]
    pub fn new(fsname: Option<String>, pace: PaceSettings) -> Self {
        Self::in_dir(DEVICE_DIR.into(), fsname, pace)
    }

    /// The same with the device nodes in another folder, for containers that have them elsewhere.
    #[must_use]
    pub fn in_dir(dir: PathBuf, fsname: Option<String>, pace: PaceSettings) -> Self {
        Self { dir, fsname, pace }
    }
}

impl SourceFactory for LustreFactory {
    fn discover(&self) -> Result<Vec<MdtName>, SourceError> {
        discover(&self.dir, self.fsname.as_deref())
            .map_err(|source| SourceError::Discovery { place: self.dir.display().to_string(), source })
    }

    fn open(&self, mdt: &MdtName, user: &str) -> Result<Opened, SourceError> {
        open_both(mdt, user, self.pace, || LustreDevice::new(&self.dir, mdt))
    }
}
