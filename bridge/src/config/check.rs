//! Combinations that make no sense, each refused with the key to change.

use std::time::Duration;

use clbridge_schemas::lustre::RecordType;

use super::{Bytes, Chosen, Config, ConfigError, FeedConfig, FramingName, PolicyConfig, SourceKind};
use crate::modules::TypeSet;

const LEAST_MEMORY: Bytes = Bytes::mib(32);

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    if config.instance.is_empty() || config.instance.len() > 128 {
        return Err(ConfigError::impossible("instance", "a bridge's name has 1 to 128 bytes"));
    }
    source(config)?;
    clear(config)?;
    feed("feed", &config.feed)?;
    for (name, one) in &config.feeds {
        feed_name(name)?;
        feed(&format!("feeds.{name}"), one)?;
    }
    groups(config)?;
    config.sink.check()?;
    framing(config)?;
    limits(config)
}

/// A file has its schema within: there is no place for the id that a registry gave it.
fn framing(config: &Config) -> Result<(), ConfigError> {
    if !matches!(config.sink.chosen(), Chosen::Files(_)) {
        return Ok(());
    }
    for (name, feed) in config.all_feeds() {
        if feed.framing != FramingName::SingleObject {
            let table = name.map_or_else(|| "feed".to_owned(), |name| format!("feeds.{name}"));
            return Err(ConfigError::impossible(
                format!("{table}.framing"),
                "files have their schema within: `sink.files` knows single-object framing only",
            ));
        }
    }
    Ok(())
}

fn positive(key: &str, value: Duration) -> Result<(), ConfigError> {
    if value.is_zero() { Err(ConfigError::impossible(key, "must be longer than 0")) } else { Ok(()) }
}

fn source(config: &Config) -> Result<(), ConfigError> {
    let source = &config.source;
    let sim = source.kind == SourceKind::Sim;
    if sim && source.address.is_none() {
        return Err(ConfigError::impossible("source.address", "`source.kind = \"sim\"` needs the server's address"));
    }
    if !sim && source.address.is_some() {
        return Err(ConfigError::impossible("source.address", "only `source.kind = \"sim\"` has an address"));
    }
    let replay = source.kind == SourceKind::Replay;
    if replay && source.files.is_empty() {
        return Err(ConfigError::impossible("source.files", "`source.kind = \"replay\"` needs the files of an MDT"));
    }
    if !replay && !source.files.is_empty() {
        return Err(ConfigError::impossible("source.files", "only `source.kind = \"replay\"` reads files"));
    }
    if let (Some(fs), Some(mdt)) = (&source.fs, source.mdts.iter().find(|m| source.fs.as_deref() != Some(m.fsname()))) {
        return Err(ConfigError::impossible(
            "source.mdts",
            format!("{mdt} is not of the file system `{fs}` (source.fs)"),
        ));
    }
    if let Some(mdt) = source.standby.iter().find(|m| !source.takes(m)) {
        return Err(ConfigError::impossible(
            "source.standby",
            format!("{mdt} is not read by this bridge (source.mdts, source.fs)"),
        ));
    }
    user("source.user", &source.user)?;
    for (mdt, id) in &source.users {
        user(&format!("source.users.{mdt}"), id)?;
        if !source.takes(mdt) {
            return Err(ConfigError::impossible(
                format!("source.users.{mdt}"),
                "this MDT is not read (source.mdts, source.fs)",
            ));
        }
    }
    if !(0.0..=1.0).contains(&source.reopen_share) {
        return Err(ConfigError::impossible("source.reopen_share", "is a share of time, from 0 to 1"));
    }
    positive("source.poll_min", source.poll_min)?;
    if source.poll_max < source.poll_min {
        return Err(ConfigError::impossible("source.poll_max", "must not be shorter than source.poll_min"));
    }
    Ok(())
}

/// `clN`, or `clN-NAME` as `changelog_register -u` prints it.
fn user(key: &str, id: &str) -> Result<(), ConfigError> {
    let number = id.strip_prefix("cl").map(|rest| rest.split_once('-').map_or(rest, |(n, _)| n));
    let good = number
        .is_some_and(|n| !n.starts_with('0') && n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u32>().is_ok());
    if good {
        return Ok(());
    }
    Err(ConfigError::impossible(
        key,
        format!(
            "\"{id}\" is not a changelog user id: expected what `lctl changelog_register` printed, for instance cl1"
        ),
    ))
}

fn clear(config: &Config) -> Result<(), ConfigError> {
    let clear = &config.clear;
    positive("clear.min_age", clear.min_age)?;
    positive("clear.every", clear.every)?;
    positive("clear.heartbeat", clear.heartbeat)?;
    positive("clear.state_fresh", clear.state_fresh)?;
    if clear.batch == 0 {
        return Err(ConfigError::impossible("clear.batch", "must be at least 1 record"));
    }
    // Whoever takes over waits until State stood still for takeover_after. A clear that trusts an old State longer
    // than a small part of that could be issued by a bridge that is already fenced.
    if clear.state_fresh * 4 > config.takeover_after {
        return Err(ConfigError::impossible(
            "clear.state_fresh",
            "must be at most a quarter of takeover_after, else a bridge that was replaced could still clear",
        ));
    }
    Ok(())
}

fn feed_name(name: &str) -> Result<(), ConfigError> {
    let good = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if good && name != "repair" && name != "all" {
        return Ok(());
    }
    Err(ConfigError::impossible(
        format!("feeds.{name}"),
        "a feed's name has 1 to 64 of the characters A-Z a-z 0-9 _ - and is neither `repair` nor `all`",
    ))
}

fn feed(key: &str, feed: &FeedConfig) -> Result<(), ConfigError> {
    if !(1..=5).contains(&feed.schema_version) {
        return Err(ConfigError::impossible(format!("{key}.schema_version"), "is one of 1, 2, 3, 4, 5"));
    }
    if feed.partitions == 0 || feed.partitions > 4096 {
        return Err(ConfigError::impossible(format!("{key}.partitions"), "must be from 1 to 4096"));
    }
    if let Some(types) = &feed.types {
        TypeSet::of_names(types).map_err(|e| ConfigError::impossible(format!("{key}.types"), e.to_string()))?;
        if types.iter().all(|t| Some(t.as_str()) == RecordType::MARK.name()) {
            return Err(ConfigError::impossible(format!("{key}.types"), "names no type but MARK, which always passes"));
        }
    }
    Ok(())
}

fn groups(config: &Config) -> Result<(), ConfigError> {
    let known = |feed: &Option<String>| feed.as_ref().is_none_or(|f| config.feeds.contains_key(f));
    for (name, group) in &config.groups {
        let key = format!("groups.{name}");
        if name.is_empty() || name.len() > 255 {
            return Err(ConfigError::impossible(key, "a group's name has 1 to 255 bytes"));
        }
        if !known(&group.feed) {
            return Err(ConfigError::impossible(format!("{key}.feed"), "there is no such feed under `feeds`"));
        }
        if let Some(mdt) = group.mdts.iter().find(|m| !config.source.takes(m)) {
            return Err(ConfigError::impossible(
                format!("{key}.mdts"),
                format!("{mdt} is not read by this bridge (source.mdts, source.fs)"),
            ));
        }
        policy(&key, &group.policy)?;
    }
    for (i, pattern) in config.patterns.iter().enumerate() {
        let key = format!("patterns[{i}]");
        if !known(&pattern.feed) {
            return Err(ConfigError::impossible(format!("{key}.feed"), "there is no such feed under `feeds`"));
        }
        policy(&key, &pattern.policy)?;
    }
    Ok(())
}

fn policy(key: &str, policy: &PolicyConfig) -> Result<(), ConfigError> {
    match policy {
        PolicyConfig::Hold => Ok(()),
        PolicyConfig::Release { backlog: None, age: None } => {
            Err(ConfigError::impossible(format!("{key}.policy.release"), "needs `backlog`, `age` or both"))
        }
        PolicyConfig::Release { backlog: Some(0), .. } => {
            Err(ConfigError::impossible(format!("{key}.policy.release.backlog"), "must be at least 1 record"))
        }
        PolicyConfig::Release { age: Some(age), .. } => positive(&format!("{key}.policy.release.age"), *age),
        PolicyConfig::Release { .. } => Ok(()),
    }
}

fn limits(config: &Config) -> Result<(), ConfigError> {
    positive("takeover_after", config.takeover_after)?;
    positive("poll.groups", config.poll.groups)?;
    positive("poll.members", config.poll.members)?;
    positive("poll.mdts", config.poll.mdts)?;
    positive("batch.max_age", config.batch.max_age)?;
    if config.backlog_limit == Some(0) {
        return Err(ConfigError::impossible(
            "backlog_limit",
            "must be at least 1 record; leave it out for no forecast",
        ));
    }
    if config.memory.limit < LEAST_MEMORY {
        return Err(ConfigError::impossible("memory.limit", format!("must be at least {LEAST_MEMORY}")));
    }
    if config.batch.max_bytes.0 == 0 || config.batch.max_bytes.0 > config.memory.limit.0 / 4 {
        return Err(ConfigError::impossible(
            "batch.max_bytes",
            "must be above 0 and at most a quarter of memory.limit, so that the next batch is filled while one is on its way",
        ));
    }
    tracing_subscriber::EnvFilter::try_new(&config.log.filter)
        .map(drop)
        .map_err(|e| ConfigError::impossible("log.filter", e.to_string()))
}
