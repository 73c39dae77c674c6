//! What an operator sets for files. Impossible values are errors here, never surprises later.

use std::path::PathBuf;
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use serde::{Deserialize, Serialize};

use crate::error::SinkError;

/// How a file's blocks are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Not at all.
    Null,
    /// Deflate, which every Avro implementation reads.
    #[default]
    Deflate,
    /// Zstandard: faster and smaller.
    Zstd,
}

/// The files sink's settings. Times are in milliseconds, sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FilesConfig {
    /// The folder that holds everything; made if it is not there.
    pub dir: PathBuf,
    /// What the names of record folders (`PREFIX.FS-MDT0000[.FEED]`) begin with.
    pub prefix: String,
    /// What the names of clbridge's own folders begin with.
    pub own_prefix: String,
    /// How blocks are compressed; files that are there keep their own.
    pub codec: Codec,
    /// A block is written when its records have this many bytes, 1 KiB to 16 MiB.
    pub block_bytes: u32,
    /// The file that is written is closed when it has this many bytes, 4 KiB to 1 TiB.
    pub rotate_bytes: u64,
    /// Or when it is this old, 1,000 ms to 30 days.
    pub rotate_after_ms: u64,
    /// Bound of the memory for records on their way, for each MDT, at least 1 MiB.
    pub memory_bytes: usize,
    /// Name of this bridge.
    pub instance: String,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/var/lib/clbridge/files"),
            prefix: "lustre".to_owned(),
            own_prefix: "clbridge".to_owned(),
            codec: Codec::default(),
            block_bytes: 64 << 10,
            rotate_bytes: 64 << 20,
            rotate_after_ms: 3_600_000,
            memory_bytes: 64 << 20,
            instance: "clbridge".to_owned(),
        }
    }
}

fn wrong(key: &str, why: impl Into<String>, hint: impl Into<String>) -> SinkError {
    SinkError::Mismatch { what: format!("setting files.{key}"), why: why.into(), hint: hint.into() }
}

impl FilesConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`SinkError::Mismatch`] that names the key, what is wrong with it and what to do.
    pub fn check(&self) -> Result<(), SinkError> {
        if !self.dir.is_absolute() {
            return Err(wrong("dir", format!("is \"{}\"", self.dir.display()), "give an absolute path"));
        }
        for (key, text) in [("prefix", &self.prefix), ("own_prefix", &self.own_prefix)] {
            if !is_name(text) {
                return Err(wrong(key, format!("is \"{text}\""), "use 1 to 64 of the characters A-Z a-z 0-9 _ -"));
            }
        }
        if self.prefix == self.own_prefix {
            return Err(wrong("own_prefix", "is the same as files.prefix", "give it another value"));
        }
        for (key, value, from, to) in [
            ("block_bytes", u64::from(self.block_bytes), 1 << 10, 16 << 20),
            ("rotate_bytes", self.rotate_bytes, 4 << 10, 1 << 40),
            ("rotate_after_ms", self.rotate_after_ms, 1_000, 30 * 86_400_000),
            ("memory_bytes", self.memory_bytes as u64, 1 << 20, 1 << 40),
        ] {
            if !(from..=to).contains(&value) {
                return Err(wrong(key, format!("is {value}"), format!("set it between {from} and {to}")));
            }
        }
        Ok(())
    }

    /// The name of a topic, which is that of its folder.
    #[must_use]
    pub fn topic_name(&self, mdt: &MdtName, feed: Option<&str>) -> String {
        match feed {
            None => format!("{}.{mdt}", self.prefix),
            Some(feed) => format!("{}.{mdt}.{feed}", self.prefix),
        }
    }

    /// MDT, feed, and the group whose repairs it holds, of a topic's name; `None` for the name of anything else.
    pub(super) fn parse_topic(&self, name: &str) -> Option<(MdtName, Option<String>, Option<String>)> {
        let rest = name.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        let (mdt, rest) = rest.split_once('.').unwrap_or((rest, ""));
        let (feed, group) = match rest.strip_prefix("repair.") {
            Some(group) => ("", Some(group)),
            None => rest.split_once(".repair.").map_or((rest, None), |(feed, group)| (feed, Some(group))),
        };
        Some((mdt.parse().ok()?, (!feed.is_empty()).then(|| feed.to_owned()), group.map(str::to_owned)))
    }

    pub(super) fn topic_dir(&self, topic: &str) -> PathBuf {
        self.dir.join(topic)
    }

    /// Where State lies, a file for each MDT.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.dir.join(format!("{}.state", self.own_prefix))
    }

    /// Where the groups' positions lie, a folder for each group.
    pub(super) fn groups_dir(&self) -> PathBuf {
        self.dir.join(format!("{}.groups", self.own_prefix))
    }

    /// Where schemas lie, a file for each fingerprint.
    #[must_use]
    pub fn schemas_dir(&self) -> PathBuf {
        self.dir.join(format!("{}.schemas", self.own_prefix))
    }

    /// The registry of groups.
    pub(super) fn registry_file(&self) -> PathBuf {
        self.dir.join(format!("{}.registry.json", self.own_prefix))
    }

    pub(super) fn rotate_after(&self) -> Duration {
        Duration::from_millis(self.rotate_after_ms)
    }
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Refuses a group whose name can be no folder's.
pub(super) fn check_group(group: &str) -> Result<(), SinkError> {
    let fits = (1..=128).contains(&group.len()) && !group.starts_with('.');
    if fits && group.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) {
        return Ok(());
    }
    Err(SinkError::Mismatch {
        what: format!("group \"{group}\""),
        why: "its name can be no folder's".to_owned(),
        hint: "use 1 to 128 of the characters A-Z a-z 0-9 _ - . and no dot in front".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(change: impl FnOnce(&mut FilesConfig)) -> String {
        let mut c = FilesConfig::default();
        change(&mut c);
        c.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_possible() {
        FilesConfig::default().check().unwrap();
    }

    #[test]
    fn an_impossible_value_is_an_error_that_names_its_key() {
        for (key, told) in [
            ("dir", refused(|c| c.dir = "relative".into())),
            ("prefix", refused(|c| c.prefix = "a.b".into())),
            ("own_prefix", refused(|c| c.own_prefix = c.prefix.clone())),
            ("block_bytes", refused(|c| c.block_bytes = 1)),
            ("rotate_bytes", refused(|c| c.rotate_bytes = 1)),
            ("rotate_after_ms", refused(|c| c.rotate_after_ms = 1)),
            ("memory_bytes", refused(|c| c.memory_bytes = 1)),
        ] {
            assert!(told.contains(&format!("files.{key}:")), "{key}: {told}");
        }
    }

    #[test]
    fn a_folder_s_name_says_what_it_holds() {
        let c = FilesConfig::default();
        let mdt: MdtName = "fs-MDT0001".parse().unwrap();
        let (slow, g) = (Some("slow".to_owned()), Some("g.1".to_owned()));
        for (name, expected) in [
            ("lustre.fs-MDT0001", Some((mdt.clone(), None, None))),
            ("lustre.fs-MDT0001.slow", Some((mdt.clone(), slow.clone(), None))),
            ("lustre.fs-MDT0001.repair.g.1", Some((mdt.clone(), None, g.clone()))),
            ("lustre.fs-MDT0001.slow.repair.g.1", Some((mdt, slow, g))),
            ("lustre.other", None),
            ("clbridge.state", None),
        ] {
            assert_eq!(c.parse_topic(name), expected, "{name}");
        }
    }

    #[test]
    fn a_group_is_named_like_a_folder() {
        check_group("lake.2-x").unwrap();
        for bad in ["", ".", "..", "a/b", "a b"] {
            assert!(check_group(bad).is_err(), "{bad}");
        }
    }
}
