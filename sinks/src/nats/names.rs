//! Names: of streams, subjects, consumers and buckets. A stream's or consumer's name has no dots, a subject's token none
//! either.

use clbridge_schemas::ids::MdtName;
use clbridge_schemas::lustre::RecordType;

use super::config::NatsConfig;
use crate::error::SinkError;
use crate::topic::Topic;

/// The token of the default feed in a subject.
const DEFAULT_FEED: &str = "all";

impl NatsConfig {
    /// The name of an MDT's record stream in a feed.
    #[must_use]
    pub fn stream_name(&self, mdt: &MdtName, feed: Option<&str>) -> String {
        match feed {
            None => format!("{}_{mdt}", self.prefix),
            Some(feed) => format!("{}_{mdt}_{feed}", self.prefix),
        }
    }

    /// What the subjects of an MDT's records in a feed begin with; partition and type follow.
    #[must_use]
    pub fn subject_root(&self, mdt: &MdtName, feed: Option<&str>) -> String {
        let (fs, mdt) = mdt.as_str().rsplit_once('-').unwrap_or((mdt.as_str(), ""));
        format!("{}.{}.{fs}.{mdt}", self.prefix, feed.unwrap_or(DEFAULT_FEED))
    }

    pub(super) fn state_bucket(&self) -> String {
        format!("{}_state", self.own_prefix)
    }

    pub(super) fn group_bucket(&self) -> String {
        format!("{}_groups", self.own_prefix)
    }

    /// The bucket that holds Avro schemas by fingerprint, in hexadecimal digits.
    #[must_use]
    pub fn schema_bucket(&self) -> String {
        format!("{}_schemas", self.own_prefix)
    }

    /// The stream that keeps what the server said of a record stream and its consumers.
    pub(super) fn advisory_stream(&self, stream: &str) -> String {
        format!("{}_advisories_{stream}", self.own_prefix)
    }

    /// The subject root of a topic: a record stream, or the repair stream of a group.
    pub(super) fn topic_root(&self, topic: &Topic) -> String {
        let root = self.subject_root(&topic.mdt, topic.feed.as_deref());
        let plain = self.stream_name(&topic.mdt, topic.feed.as_deref());
        match topic.name.strip_prefix(&format!("{plain}_repair_")) {
            Some(group) => format!("{root}.repair.{group}"),
            None => root,
        }
    }

    pub(super) fn repair_name(&self, topic: &Topic, group: &str) -> String {
        format!("{}_repair_{group}", topic.name)
    }

    /// The MDT, the feed and, of a repair, the group that a stream is for; `None`: it is none of ours.
    pub(super) fn parse_stream(&self, stream: &str) -> Option<(MdtName, Option<String>, Option<String>)> {
        let rest = stream.strip_prefix(&self.prefix)?.strip_prefix('_')?;
        let at = rest.match_indices("-MDT").map(|(at, _)| at + 8).find(|end| {
            rest.get(end - 4..*end).is_some_and(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()))
                && rest.get(*end..).is_some_and(|r| r.is_empty() || r.starts_with('_'))
        })?;
        let mdt = rest.get(..at)?.parse().ok()?;
        let (feed, group) = match rest.get(at..)?.strip_prefix('_') {
            None => (None, None),
            Some(rest) => match (rest.strip_prefix("repair_"), rest.split_once("_repair_")) {
                (Some(group), _) => (None, Some(group.to_owned())),
                (None, Some((feed, group))) => (Some(feed.to_owned()), Some(group.to_owned())),
                (None, None) => (Some(rest.to_owned()), None),
            },
        };
        Some((mdt, feed, group))
    }
}

/// The last token of a record's subject.
pub(super) fn type_token(kind: RecordType) -> String {
    kind.name().map_or_else(|| format!("T{}", kind.0), str::to_owned)
}

/// The partition in a record's subject: the token before the last.
pub(super) fn partition_of(subject: &str) -> Option<u32> {
    subject.rsplit('.').nth(1)?.parse().ok()
}

/// Whether a group's name can be that of a consumer.
pub(super) fn check_group(group: &str) -> Result<(), SinkError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=64).contains(&group.len()) && group.chars().all(fine) {
        return Ok(());
    }
    Err(SinkError::Mismatch {
        what: format!("group {group}"),
        why: "cannot be the name of a JetStream consumer".to_owned(),
        hint: "use 1 to 64 of the characters A-Z a-z 0-9 _ -".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stream_s_name_tells_mdt_feed_and_repaired_group() {
        let c = NatsConfig::default();
        let mdt: MdtName = "my_fs-MDT00a3".parse().unwrap();
        assert_eq!(c.stream_name(&mdt, Some("slow")), "lustre_my_fs-MDT00a3_slow");
        assert_eq!(c.subject_root(&mdt, None), "lustre.all.my_fs.MDT00a3");
        for (stream, feed, group) in [
            ("lustre_my_fs-MDT00a3", None, None),
            ("lustre_my_fs-MDT00a3_slow", Some("slow"), None),
            ("lustre_my_fs-MDT00a3_repair_lake", None, Some("lake")),
            ("lustre_my_fs-MDT00a3_slow_repair_lake", Some("slow"), Some("lake")),
        ] {
            let told = c.parse_stream(stream).unwrap();
            assert_eq!(told, (mdt.clone(), feed.map(str::to_owned), group.map(str::to_owned)), "{stream}");
        }
        for stream in ["lustre_x", "other_my_fs-MDT00a3", "lustre_my_fs-MDT00a3x", "lustremy_fs-MDT00a3"] {
            assert_eq!(c.parse_stream(stream), None, "{stream}");
        }
    }

    #[test]
    fn a_subject_tells_its_partition() {
        assert_eq!(partition_of("lustre.all.fs.MDT0000.12.CREAT"), Some(12));
        assert_eq!(partition_of("lustre.all.fs.MDT0000.repair.lake.0.CREAT"), Some(0));
        assert_eq!(partition_of("CREAT"), None);
        assert_eq!((type_token(RecordType::CREAT), type_token(RecordType(40))), ("CREAT".to_owned(), "T40".to_owned()));
    }

    #[test]
    fn a_group_whose_name_no_consumer_can_have_is_refused() {
        check_group("audit-eu_1").unwrap();
        assert!(check_group("audit.eu").unwrap_err().to_string().contains("audit.eu"));
    }
}
