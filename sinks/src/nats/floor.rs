//! Whether a consumer's ack floor can be believed. The server moves it over messages that nobody acknowledged: evicted,
//! purged, terminated, delivered too often, skipped by a reset; each of these shows somewhere, and where one shows the
//! floor is nobody's acknowledgement any more. What is compared with is kept in the broker, so that a bridge that was
//! down notices too.

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy};
use serde::{Deserialize, Serialize};

use super::topology::time_text;

/// A server that was started again may tell a time of creation that is so much later, nanoseconds: seen were some 100,000.
const WRITTEN_LATER_NS: i128 = 1_000_000_000;

/// What a consumer was when it was last believed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Baseline {
    /// When its stream was created.
    pub(super) stream: String,
    /// When it was created, nanoseconds since 1970.
    pub(super) created: String,
    /// When the stream was created that keeps what the server says of it.
    pub(super) advisories: String,
    /// What the server said up to here is settled.
    pub(super) advisory: u64,
    /// Its filters, sorted; none: everything.
    pub(super) filters: Vec<String>,
    /// It was first given the message behind this one.
    pub(super) base: u64,
    /// Its floor.
    pub(super) floor: u64,
    /// Deliveries up to the floor less messages up to the floor. It never falls while nothing is skipped: each delivery
    /// counts, and redeliveries count more.
    pub(super) drift: i64,
    /// Its deliveries.
    pub(super) delivered: u64,
    /// Messages that were deleted from the middle of the stream.
    pub(super) deleted: u64,
    /// The server that was asked.
    pub(super) server: String,
}

/// A consumer, and what it depends on, as they are now.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) now: Baseline,
    /// What about its configuration excludes that its floor means acknowledgements.
    pub(super) fault: Option<String>,
    /// The first sequence that the stream still has.
    pub(super) low: u64,
    /// Several servers keep its state, so that a crash of one loses nothing of it.
    pub(super) replicated: bool,
}

impl Observed {
    /// Puts together what was asked. `stream`: when it was created, its first sequence, how many messages were deleted
    /// from its middle. `advisories`: when their stream was created, and its last sequence.
    pub(super) fn new(
        info: &consumer::Info,
        (stream, low, deleted): (String, u64, u64),
        (advisories, advisory): (String, u64),
        server: &str,
    ) -> Self {
        let base = match info.config.deliver_policy {
            DeliverPolicy::ByStartSequence { start_sequence } => start_sequence.saturating_sub(1),
            _ => 0,
        };
        let mut filters = info.config.filter_subjects.clone();
        filters.extend(Some(info.config.filter_subject.clone()).filter(|f| !f.is_empty()));
        filters.sort_unstable();
        filters.dedup();
        // An older server says 0 until the first acknowledgement.
        let floor = info.ack_floor.stream_sequence.max(base);
        let now = Baseline {
            stream,
            created: time_text(info.created),
            advisories,
            advisory,
            filters,
            base,
            floor,
            drift: info.ack_floor.consumer_sequence as i64 - floor as i64,
            delivered: info.delivered.consumer_sequence,
            deleted,
            server: server.to_owned(),
        };
        Self {
            now,
            fault: fault(&info.config),
            low,
            replicated: info.cluster.as_ref().is_some_and(|c| !c.replicas.is_empty()),
        }
    }

    /// Why its floor is nobody's acknowledgement; `None`: it is what members acknowledged.
    pub(super) fn doubt(&self, was: &Baseline) -> Option<String> {
        let now = &self.now;
        if now.stream != was.stream {
            return Some("its stream was deleted and created again".to_owned());
        }
        if !self.is_same_consumer(was) {
            return Some("its consumer was deleted and created again".to_owned());
        }
        if let Some(fault) = &self.fault {
            return Some(fault.clone());
        }
        if now.filters != was.filters {
            return Some(format!("its filters were [{}] and are [{}]", was.filters.join(", "), now.filters.join(", ")));
        }
        if now.advisories != was.advisories {
            return Some("the stream that keeps what the server says of it was deleted".to_owned());
        }
        if now.deleted > was.deleted {
            return Some(format!("{} messages were deleted from the middle of the stream", now.deleted - was.deleted));
        }
        // After a crash a single server may have forgotten the last moments of deliveries and acknowledgements.
        let forgot = now.server != was.server && !self.replicated;
        if now.floor <= was.floor || forgot {
            return None;
        }
        if now.filters.is_empty() {
            // What was deleted at the beginning is told by the beginning itself.
            let evicted = self.low.saturating_sub(1).saturating_sub(was.floor);
            if now.drift < was.drift - evicted as i64 {
                return Some(format!(
                    "its floor went from {} to {} over messages that were not delivered: a purge or a reset",
                    was.floor, now.floor
                ));
            }
        } else if now.delivered < was.delivered {
            return Some(format!(
                "its floor went from {} to {} while its deliveries fell from {} to {}: a reset",
                was.floor, now.floor, was.delivered, now.delivered
            ));
        }
        None
    }

    /// What to compare with next time, if it is believed now. What was deleted at the beginning stays to be seen until a
    /// command passes over it.
    pub(super) fn next(&self, was: &Baseline) -> Baseline {
        if self.evicted(was) {
            return was.clone();
        }
        Baseline {
            advisory: was.advisory,
            base: was.base.max(self.now.base),
            deleted: self.now.deleted,
            ..self.now.clone()
        }
    }

    /// Whether messages that it had not read were deleted at the beginning.
    pub(super) fn evicted(&self, was: &Baseline) -> bool {
        self.below_start(was) && self.now.drift < was.drift
    }

    /// Whether it was last believed below the first message that there is now.
    pub(super) fn below_start(&self, was: &Baseline) -> bool {
        self.low > was.floor.max(was.base) + 1 && self.now.stream == was.stream && self.is_same_consumer(was)
    }

    /// Whether it was created when it was. nats-server 2.9 tells a time of creation, writes a somewhat later one down, and
    /// tells that one once it was started again.
    fn is_same_consumer(&self, was: &Baseline) -> bool {
        let restarted = || self.now.server != was.server;
        let later = || Some(self.now.created.parse::<i128>().ok()? - was.created.parse::<i128>().ok()?);
        self.now.created == was.created || restarted() && later().is_some_and(|ns| (0..WRITTEN_LATER_NS).contains(&ns))
    }
}

/// What about a configuration excludes that the floor means acknowledgements.
pub(super) fn fault(c: &consumer::Config) -> Option<String> {
    let checks = [
        ("ack_policy", c.ack_policy == AckPolicy::Explicit, format!("{:?}", c.ack_policy), "explicit"),
        ("max_deliver", c.max_deliver <= 0, c.max_deliver.to_string(), "-1"),
        ("backoff", c.backoff.is_empty(), format!("{:?}", c.backoff), "none"),
        ("inactive_threshold", c.inactive_threshold.is_zero(), format!("{:?}", c.inactive_threshold), "0"),
        ("mem_storage", !c.memory_storage, c.memory_storage.to_string(), "false"),
        ("durable_name", c.durable_name.is_some(), "none".to_owned(), "set"),
        ("deliver_subject", c.deliver_subject.is_none(), "set".to_owned(), "none"),
    ];
    let wrong = checks.into_iter().find(|(_, right, _, _)| !right);
    wrong.map(|(setting, _, is, need)| format!("its consumer's {setting} is {is} and must be {need}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(floor: u64, deliveries: u64) -> Observed {
        let now = Baseline {
            stream: "s".into(),
            created: "c".into(),
            advisories: "a".into(),
            floor,
            drift: deliveries as i64 - floor as i64,
            delivered: deliveries,
            server: "x".into(),
            ..Baseline::default()
        };
        Observed { now, fault: None, low: 1, replicated: false }
    }

    #[test]
    fn acknowledgements_and_redeliveries_are_believed() {
        let was = at(5, 5).now;
        assert_eq!(at(9, 9).doubt(&was), None);
        assert_eq!(at(9, 14).doubt(&was), None);
        // a crash forgot some acknowledgements, which then come again
        assert_eq!(at(3, 4).doubt(&was), None);
    }

    #[test]
    fn a_floor_that_passes_what_was_not_delivered_is_not_believed() {
        // a reset to a later message, which starts counting anew
        assert!(at(9, 0).doubt(&at(5, 5).now).unwrap().contains("reset"));
        // filtered, deliveries say it
        let filtered = |mut o: Observed| {
            o.now.filters = vec!["lustre.all.fs.MDT0000.*.MARK".into()];
            o
        };
        let was = filtered(at(5, 4)).now;
        assert!(filtered(at(9, 0)).doubt(&was).unwrap().contains("reset"));
        assert_eq!(filtered(at(900, 5)).doubt(&was), None);
    }

    #[test]
    fn what_was_deleted_at_the_beginning_is_told_by_the_beginning() {
        let was = at(5, 5).now;
        let purged = Observed { low: 20, ..at(19, 5) };
        assert_eq!(purged.doubt(&was), None);
        assert!(purged.evicted(&was));
        assert_eq!(purged.next(&was), was, "it stays to be seen");
        // but a reset further on is not hidden by it
        let further = Observed { low: 20, ..at(30, 5) };
        assert!(further.doubt(&was).is_some());
        // and our own trimming, which passes nothing unread, shows nothing
        let trimmed = Observed { low: 6, ..at(8, 8) };
        assert!(!trimmed.evicted(&was) && trimmed.doubt(&was).is_none());
    }

    #[test]
    fn a_restarted_server_may_have_forgotten_some_deliveries_unless_others_know() {
        let was = at(5, 9).now;
        let mut now = at(8, 8);
        assert!(now.doubt(&was).is_some());
        now.now.server = "y".into();
        assert_eq!(now.doubt(&was), None);
        now.replicated = true;
        assert!(now.doubt(&was).is_some());
    }

    #[test]
    fn an_older_server_tells_a_slightly_later_creation_once_it_was_started_again() {
        let created = |ns: &str, server: &str| {
            let mut seen = at(5, 5);
            (seen.now.created, seen.now.server) = (ns.into(), server.into());
            seen
        };
        let was = created("1764000000000000000", "x").now;
        assert_eq!(created("1764000000000136000", "y").doubt(&was), None);
        for (ns, server) in [
            // the same server; later by a second; earlier
            ("1764000000000136000", "x"),
            ("1764000001000000000", "y"),
            ("1763999999999999999", "y"),
        ] {
            assert!(created(ns, server).doubt(&was).is_some(), "{ns} {server}");
        }
    }

    #[test]
    fn another_life_of_anything_is_not_believed() {
        let was = at(5, 5).now;
        for (change, word) in [
            ((|b: &mut Baseline| b.stream = "t".into()) as fn(&mut Baseline), "stream"),
            (|b| b.created = "d".into(), "consumer was deleted"),
            (|b| b.advisories = "b".into(), "keeps what the server says"),
            (|b| b.filters = vec!["f".into()], "filters"),
            (|b| b.deleted = 3, "3 messages"),
        ] {
            let mut now = at(5, 5);
            change(&mut now.now);
            let told = now.doubt(&was).unwrap();
            assert!(told.contains(word), "{told}");
        }
    }
}
