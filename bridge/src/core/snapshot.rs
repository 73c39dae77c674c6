//! What `status` says of one MDT, as far as the core knows it.

use super::machine::Core;
use super::{Hold, Now, Reason};
use crate::status::{GroupStatus, Holding, MdtStatus, Phase};

impl Core {
    /// A snapshot; rates, backlog forecast and members are the caller's to fill in.
    #[must_use]
    pub fn snapshot(&self, user: &str, now: Now) -> MdtStatus {
        let groups: Vec<GroupStatus> = self
            .ledger
            .topics()
            .iter()
            .flat_map(|t| {
                self.ledger.groups().filter(move |(topic, _)| topic.ix == t.topic.ix).map(move |(_, g)| (t, g))
            })
            .map(|(t, g)| {
                let holding = g.hold().map(|h| holding_of(h, &g.spec.name));
                let repairing = g.repair_topic().map(|topic| {
                    let text = format!("the group has not yet read its repaired records in {topic}");
                    holding_for(Reason::RepairUnread, text, format!("clbridge consume --group {}", g.spec.name))
                });
                let caught_up = t.caught_up(g);
                GroupStatus {
                    name: g.spec.name.clone(),
                    topic: t.topic.name.clone(),
                    floor: g.floor(),
                    committed: g.seen().clone(),
                    lag_records: if caught_up { 0 } else { self.ledger.frontier().saturating_sub(g.floor()) },
                    lag_positions: t.lag_positions(g),
                    lag_s: if caught_up { 0.0 } else { self.timeline.age_behind(g.floor(), now).as_secs_f64() },
                    members: 0,
                    released: g.released(),
                    state: String::new(),
                    holding: holding.or(repairing),
                }
            })
            .collect();
        let mut holding = Vec::new();
        let mut hold = |reason: Reason, text: String, command: String| {
            holding.push(holding_for(reason, text, command));
        };
        if let Some((what, why)) = &self.unanswered {
            hold(*what, why.clone(), "ends by itself when the broker answers again".into());
        }
        if groups.is_empty() && self.settings.without_groups == super::ledger::WithoutGroups::Hold {
            hold(
                Reason::NoGroups,
                "no persistent group is registered for this MDT: nothing is cleared".into(),
                "clbridge groups add NAME".into(),
            );
        }
        if let Some(text) = &self.clear_refused {
            hold(
                Reason::ClearRefused,
                text.clone(),
                format!("lctl --device {} changelog_register (on the MDS), then set source.users", self.mdt),
            );
        }
        for g in groups.iter().filter_map(|g| g.holding.clone()) {
            holding.push(g);
        }
        MdtStatus {
            mdt: self.mdt.clone(),
            phase: Phase::Running,
            user: user.to_owned(),
            read: self.read,
            published: self.read,
            durable: self.ledger.frontier(),
            stable: self.stable(),
            cleared: self.clears.cleared(),
            acknowledged: self.acknowledged(now),
            incarnation: self.incarnation,
            crashes: 0,
            dropped: self.dropped,
            gap_records: self.gap_records,
            read_per_s: 0.0,
            cleared_per_s: 0.0,
            backlog: self.read.saturating_sub(self.clears.cleared()),
            backlog_full_in_s: None,
            holding,
            topics: self.ledger.topics().iter().map(|t| t.topic.name.clone()).collect(),
            groups,
        }
    }
}

/// A group's hold as `status` says it.
#[must_use]
pub fn holding_of(h: Hold, group: &str) -> Holding {
    holding_for(Reason::from(h), format!("group {group}: {}", h.text()), h.command(group))
}

fn holding_for(reason: Reason, text: String, command: String) -> Holding {
    Holding { reason: reason.as_str().into(), text, command }
}
