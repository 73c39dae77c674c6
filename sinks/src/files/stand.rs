//! What is durable of an MDT: where each of its topics ends, and State, in one content of its file.
//!
//! A line of JSON with the ends, then State as it is everywhere. Both are replaced at once, which is what makes a batch
//! and State durable together: what lies in files behind these ends was never committed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clbridge_schemas::ids::MdtName;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::slots::{self, Slots};
use crate::error::SinkError;
use crate::state::{STATE_MAX_BYTES, State};
use crate::topic::Topic;

/// Room for State and the ends of many feeds.
pub(super) const ROOM: usize = 2 * STATE_MAX_BYTES;

/// Where a topic ends.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct End {
    /// The topic's life.
    pub(super) id: String,
    /// The first position of the last file that has something durable.
    pub(super) file: u64,
    /// How many bytes of it are.
    pub(super) length: u64,
    /// The position behind the last record; 0: none was ever written.
    pub(super) end: u64,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Line {
    topics: BTreeMap<String, End>,
}

/// What is durable of an MDT.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Stand {
    /// By topic name.
    pub(super) topics: BTreeMap<String, End>,
    /// State as it was written; empty if it never was.
    pub(super) state: Vec<u8>,
}

impl Stand {
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        let at = content.iter().position(|b| *b == b'\n')?;
        let line: Line = serde_json::from_slice(&content[..at]).ok()?;
        Some(Self { topics: line.topics, state: content[at + 1..].to_vec() })
    }

    pub(super) fn write(&self) -> Vec<u8> {
        // A map of strings to plain numbers: there is nothing that could not be written.
        let mut out = serde_json::to_vec(&Line { topics: self.topics.clone() }).unwrap_or_default();
        out.push(b'\n');
        out.extend_from_slice(&self.state);
        out
    }

    /// Where this life of a topic ends; `None` if nothing of it was ever durable.
    pub(super) fn end_of(&self, name: &str, id: &str) -> Option<&End> {
        self.topics.get(name).filter(|end| end.id == id && end.end > 0)
    }
}

impl Shared {
    pub(super) fn state_file(&self, mdt: &MdtName) -> PathBuf {
        self.config.state_dir().join(mdt.as_str())
    }

    /// The file of State that is being replaced, as long as the new one is empty.
    pub(super) fn state_before(&self, mdt: &MdtName) -> PathBuf {
        self.config.state_dir().join(format!("{mdt}.before"))
    }

    /// Makes the file of State if it is not there.
    pub(super) fn make_state_file(&self, mdt: &MdtName) -> Result<(), SinkError> {
        super::disk::make_dir(&self.config.state_dir())?;
        let path = self.state_file(mdt);
        if path.exists() || self.state_before(mdt).exists() {
            return Ok(());
        }
        Slots::create(&path, ROOM, &Stand::default().write())
    }

    /// What is durable of an MDT; `None` if nobody ever wrote there.
    pub(super) fn stand(&self, mdt: &MdtName) -> Result<Option<Stand>, SinkError> {
        let path = self.state_file(mdt);
        let found = match slots::read(&path) {
            // A start replaces the file, or was cut off in the middle of it: the file before counts.
            Err(_) => match slots::read(&self.state_before(mdt))? {
                Some(before) => Some(before),
                // By now the start has ended.
                None => slots::read(&path)?,
            },
            Ok(found) => found,
        };
        found.map(|(number, content)| self.understand(mdt, number, &content)).transpose()
    }

    pub(super) fn understand(&self, mdt: &MdtName, number: u64, content: &[u8]) -> Result<Stand, SinkError> {
        Stand::read(content).ok_or_else(|| SinkError::Mismatch {
            what: format!("{}, content {number}", self.state_file(mdt).display()),
            why: "cannot be understood".to_owned(),
            hint: "run the version of clbridge that wrote it".to_owned(),
        })
    }

    pub(super) fn state_of(&self, mdt: &MdtName, stand: &Stand) -> Result<Option<State>, SinkError> {
        if stand.state.is_empty() {
            return Ok(None);
        }
        State::read(&format!("State of {mdt} in {}", self.state_file(mdt).display()), &stand.state).map(Some)
    }

    pub(super) fn peek_state(&self, mdt: &MdtName) -> Result<Option<State>, SinkError> {
        match self.stand(mdt)? {
            Some(stand) => self.state_of(mdt, &stand),
            None => Ok(None),
        }
    }

    /// Where a topic ends as far as it is durable; a repair's is never written by a publisher.
    pub(super) fn end_of(&self, topic: &Topic) -> Result<Option<End>, SinkError> {
        Ok(self.stand(&topic.mdt)?.and_then(|stand| stand.end_of(&topic.name, &topic.id).cloned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_another_life_of_a_topic_has_no_end() {
        let end = End { id: "a".to_owned(), file: 3, length: 100, end: 9 };
        let stand = Stand { topics: BTreeMap::from([("t".to_owned(), end.clone())]), state: b"{}\n".to_vec() };
        let again = Stand::read(&stand.write()).unwrap();
        assert_eq!(again, stand);
        assert_eq!(again.end_of("t", "a"), Some(&end));
        assert_eq!(again.end_of("t", "b"), None);
        assert_eq!(Stand::read(b"x"), None);
    }
}
