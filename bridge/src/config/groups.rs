//! `[groups.NAME]` and `[[patterns]]`: who must have acknowledged a record before its MDT may forget it.

use std::fmt;
use std::time::Duration;

use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{GroupSpec, MdtSelection, Policy, StartAt};
use regex::Regex;
use serde::{Deserialize, Serialize, de};

/// A persistent group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupConfig {
    /// The MDTs it takes; empty: all, those that appear later included.
    pub mdts: Vec<MdtName>,
    /// The feed it takes; none: the default feed.
    pub feed: Option<String>,
    /// Where it begins in a topic that already holds records.
    pub from: StartAt,
    /// What happens when it stays behind.
    pub policy: PolicyConfig,
}

/// What happens when a group stays behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum PolicyConfig {
    /// The MDT keeps the records until the group has acknowledged them.
    #[default]
    Hold,
    /// Beyond the first of these limits the MDT may forget, since the replicated topic still holds the records.
    Release {
        /// Largest number of records that the group may hold back on one MDT.
        #[serde(default)]
        backlog: Option<u64>,
        /// Longest time that the group may hold a record back.
        #[serde(default, with = "humantime_serde")]
        age: Option<Duration>,
    },
}

impl PolicyConfig {
    /// The same in the registry's words.
    #[must_use]
    pub fn policy(&self) -> Policy {
        match *self {
            Self::Hold => Policy::Hold,
            Self::Release { backlog, age } => Policy::Release { backlog, age },
        }
    }
}

impl GroupConfig {
    /// What the registry is to say about it.
    #[must_use]
    pub fn spec(&self, name: &str) -> GroupSpec {
        GroupSpec {
            name: name.to_owned(),
            mdts: if self.mdts.is_empty() { MdtSelection::All } else { MdtSelection::List(self.mdts.clone()) },
            feed: self.feed.clone(),
            from: self.from,
            policy: self.policy.policy(),
            accept: 0,
            repair: 0,
            by_pattern: false,
        }
    }
}

/// Groups whose name matches become persistent as soon as they commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupPattern {
    /// A regular expression for the whole name.
    pub pattern: NamePattern,
    /// The feed that they take; none: the default feed.
    #[serde(default)]
    pub feed: Option<String>,
    /// What happens when one stays behind.
    #[serde(default)]
    pub policy: PolicyConfig,
}

impl GroupPattern {
    /// What the registry is to say about a group that it brought in. The group already runs, so it is registered at
    /// what it has committed, and where it has not committed it holds.
    #[must_use]
    pub fn spec(&self, name: &str) -> GroupSpec {
        GroupSpec {
            name: name.to_owned(),
            mdts: MdtSelection::All,
            feed: self.feed.clone(),
            from: StartAt::Newest,
            policy: self.policy.policy(),
            accept: 0,
            repair: 0,
            by_pattern: true,
        }
    }
}

/// A regular expression that a whole name has to match.
#[derive(Clone)]
pub struct NamePattern {
    text: String,
    whole: Regex,
}

impl NamePattern {
    /// # Errors
    /// The text is not a regular expression.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        // Alone first: what is no expression by itself must not become one by our brackets.
        Regex::new(text)?;
        Ok(Self { text: text.to_owned(), whole: Regex::new(&format!("^(?:{text})$"))? })
    }

    /// Whether the whole name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.whole.is_match(name)
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for NamePattern {}

impl fmt::Debug for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for NamePattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for NamePattern {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::new(&text).map_err(|e| de::Error::custom(format!("\"{text}\" is not a regular expression: {e}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names_only() {
        let pattern = NamePattern::new("lake-.*|audit").unwrap();
        assert!(pattern.matches("lake-eu") && pattern.matches("audit"));
        assert!(!pattern.matches("my-lake-eu") && !pattern.matches("audit2"));
        assert!(NamePattern::new("a)|(b").is_err());
    }
}
