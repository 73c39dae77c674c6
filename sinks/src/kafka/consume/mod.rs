//! The other side: members of groups, and ephemeral readers.
//!
//! A member commits only what `done` was called for, and never moves a position back: records of a partition that
//! was taken away meanwhile are somebody else's by then.

mod ephemeral;
mod member;

use clbridge_schemas::ids::MdtName;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};

use super::config::KafkaConfig;
use super::read::{place, retracts_header};
use super::sort_kafka;
use crate::error::SinkError;
use crate::record::retracts;
use crate::registry::MdtSelection;
use crate::topic::Position;
use crate::traits::{Consumed, Subscription};
pub(super) use ephemeral::Ephemeral;
pub(super) use member::Member;

/// The topics as a pattern of librdkafka; with `group` those of its repairs too.
fn pattern(what: &Subscription, config: &KafkaConfig, group: Option<&str>) -> String {
    let mdts = match &what.mdts {
        MdtSelection::All => "[A-Za-z0-9_-]+-MDT[0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f]".to_owned(),
        MdtSelection::List(l) => {
            format!("({})", l.iter().map(MdtName::as_str).map(escape).collect::<Vec<_>>().join("|"))
        }
    };
    let feed = what.feed.as_deref().map(|f| format!("\\.{}", escape(f))).unwrap_or_default();
    let repair = group.map(|g| format!("(\\.repair\\.{})?", escape(g))).unwrap_or_default();
    format!("^{}\\.{mdts}{feed}{repair}$", escape(&config.topic_prefix))
}

/// Whether a topic is among them.
fn takes(what: &Subscription, config: &KafkaConfig, topic: &str) -> bool {
    let rest = topic.strip_prefix(&config.topic_prefix).and_then(|r| r.strip_prefix('.'));
    let Some(rest) = rest else { return false };
    let (mdt, feed) = rest.split_once('.').map_or((rest, None), |(m, f)| (m, Some(f)));
    feed == what.feed.as_deref() && mdt.parse::<MdtName>().is_ok_and(|m| what.mdts.takes(&m))
}

fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| (!c.is_ascii_alphanumeric() && c != '_' && c != '-').then_some('\\').into_iter().chain([c]))
        .collect()
}

fn consumed(m: &BorrowedMessage<'_>) -> Result<Consumed, SinkError> {
    let at = Position { partition: m.partition() as u32, offset: m.offset() as u64 };
    Ok(Consumed {
        topic: m.topic().to_owned(),
        at,
        key: m.key().map(<[u8]>::to_vec),
        payload: m.payload().unwrap_or_default().to_vec(),
        retracts: retracts(&place(m.topic(), at), retracts_header(m))?,
    })
}

/// Lets pass what librdkafka mends by itself.
fn passing(what: &str, e: KafkaError) -> Result<(), SinkError> {
    match e {
        KafkaError::MessageConsumption(
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress,
        ) => {
            tracing::debug!(what, error = %e, "passing client error");
            Ok(())
        }
        e => Err(sort_kafka(what, e)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_subscription_takes_its_mdts_and_its_feed_only() {
        let config = KafkaConfig::default();
        let all = Subscription::default();
        assert!(takes(&all, &config, "lustre.my-fs-MDT0003"));
        for other in ["lustre.my-fs-MDT0003.slow", "lustre.my-fs-MDT0003.repair.g", "lustre.x", "other.my-fs-MDT0003"] {
            assert!(!takes(&all, &config, other), "{other}");
        }
        let one = Subscription {
            mdts: MdtSelection::List(vec!["a-MDT0000".parse().unwrap()]),
            feed: Some("slow".to_owned()),
        };
        assert!(takes(&one, &config, "lustre.a-MDT0000.slow"));
        assert!(!takes(&one, &config, "lustre.a-MDT0001.slow"));
        assert_eq!(pattern(&one, &config, Some("g.1")), "^lustre\\.(a-MDT0000)\\.slow(\\.repair\\.g\\.1)?$");
    }
}
