//! `[source]`: which MDTs are read, how, and as which changelog user.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use serde::{Deserialize, Serialize};

/// What records are read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// The character devices of a Lustre client.
    #[default]
    Lustre,
    /// A simulated MDT server (`mdt-sim serve`).
    Sim,
    /// Files that hold what a device once returned.
    Replay,
}

/// Which MDTs are read, how, and as which changelog user.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// What records are read from.
    pub kind: SourceKind,
    /// `lustre`: the folder of the devices `changelog-FS-MDTxxxx`.
    pub dir: PathBuf,
    /// Only MDTs of this file system; none: of all that are found.
    pub fs: Option<String>,
    /// These MDTs; empty: all that are found, those that appear later included.
    pub mdts: Vec<MdtName>,
    /// MDTs that another bridge should have: they are taken up only when nobody has had them for `takeover_after`.
    pub standby: Vec<MdtName>,
    /// `sim`: the server, `HOST:PORT` or `unix:PATH`.
    pub address: Option<String>,
    /// `replay`: the files of each MDT, in order.
    pub files: BTreeMap<MdtName, Vec<PathBuf>>,
    /// Changelog user id on every MDT that is not in `users`.
    pub user: String,
    /// Changelog user ids by MDT, where they differ.
    pub users: BTreeMap<MdtName, String>,
    /// Largest share of its time that a reader spends on reopening a device for low latency, 0 to 1; above it the
    /// reader follows, which looks for new records once a second.
    pub reopen_share: f64,
    /// Shortest time between two looks at a quiet MDT.
    #[serde(with = "humantime_serde")]
    pub poll_min: Duration,
    /// Longest time between two looks at a quiet MDT.
    #[serde(with = "humantime_serde")]
    pub poll_max: Duration,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            kind: SourceKind::Lustre,
            dir: PathBuf::from("/dev"),
            fs: None,
            mdts: Vec::new(),
            standby: Vec::new(),
            address: None,
            files: BTreeMap::new(),
            user: "cl1".to_owned(),
            users: BTreeMap::new(),
            reopen_share: 0.05,
            poll_min: Duration::from_millis(1),
            poll_max: Duration::from_millis(100),
        }
    }
}

impl SourceConfig {
    /// The changelog user id on this MDT.
    #[must_use]
    pub fn user_of(&self, mdt: &MdtName) -> &str {
        self.users.get(mdt).unwrap_or(&self.user)
    }

    /// Whether this MDT is to be read.
    #[must_use]
    pub fn takes(&self, mdt: &MdtName) -> bool {
        self.fs.as_deref().is_none_or(|fs| fs == mdt.fsname()) && (self.mdts.is_empty() || self.mdts.contains(mdt))
    }
}
