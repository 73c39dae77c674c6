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
                let never = (g.drained() && !caught_up).then(|| {
                    let (name, topic) = (&g.spec.name, &t.topic.name);
                    let text = format!(
                        "group {name}: nothing of {topic} is left for it and nobody reads, but it has not acknowledged \
                         all: something was taken away without its answer"
                    );
                    let command =
                        format!("clbridge groups remove {name}, with the bridge stopped delete its queue, clbridge groups add {name}");
                    holding_for(Reason::NeverAnswered, text, command)
                });
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
                    holding: holding.or(repairing).or(never),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZeroU64;
    use std::time::Duration;

    use clbridge_schemas::ids::{Digest, RecordId};
    use clbridge_sinks::state::{Mark, Owner, State};
    use clbridge_sinks::{
        Durable, GroupSpec, MdtSelection, Policy, Position, Progress, StartAt, Topic, TopicIx, TopicProgress,
    };

    use crate::core::clears::ClearSettings;
    use crate::core::ledger::WithoutGroups;
    use crate::core::{Core, Event, Now, Plan, Settings};

    const SOON: Now = Duration::from_secs(1);

    fn plan() -> Plan {
        Plan { incarnation: 1, skip: vec![vec![None]], ..Plan::default() }
    }

    /// Record 1 is durable, and group `lake` begins before it.
    fn core() -> Core {
        let clears = ClearSettings { batch: 1, every: SOON, heartbeat: SOON, state_fresh: SOON, retry: SOON };
        let settings = Settings {
            min_age: SOON,
            clears,
            without_groups: WithoutGroups::Hold,
            state_every: SOON,
            answers_fresh: SOON,
            reads: 1,
        };
        let topic = Topic {
            ix: TopicIx(0),
            name: "lustre.fs-MDT0000".into(),
            feed: None,
            mdt: "fs-MDT0000".parse().unwrap(),
            id: "1".into(),
            partitions: 1,
            created: true,
            replicas: 1,
        };
        let spec = GroupSpec {
            name: "lake".into(),
            mdts: MdtSelection::default(),
            feed: None,
            from: StartAt::Oldest,
            policy: Policy::Hold,
            accept: 0,
            repair: 0,
            by_pattern: false,
        };
        let owner = Owner { name: "bridge".into(), run: "1".into() };
        let state = State::first(topic.mdt.clone(), "bridge".into());
        let mut core = Core::new(settings, owner, &state, &plan(), vec![topic], &[vec![None]], SOON);
        core.on(Event::GroupAdded { topic: TopicIx(0), spec, first: vec![Some(0)] }, SOON);
        let id = RecordId { incarnation: 1, index: NonZeroU64::MIN };
        let mark = Mark { id, digest: Digest(1) };
        core.on(Event::Read { last: mark, records: 1, dropped: 0 }, SOON);
        core.on(Event::Sealed(mark), SOON);
        core.on(Event::Durable(Durable::At { topic: TopicIx(0), at: Position { partition: 0, offset: 7 }, id }), SOON);
        core.on(Event::Durable(Durable::Frontier(id)), SOON);
        core
    }

    /// What holds once the broker has said this.
    fn holding(core: &mut Core, committed: u64, drained: bool) -> Vec<String> {
        let topic = TopicProgress {
            low: vec![0],
            end: vec![8],
            id: "1".into(),
            groups: [("lake".to_owned(), vec![Some(committed)])].into(),
            drained: drained.then(|| "lake".to_owned()).into_iter().collect(),
        };
        core.on(Event::Progress(&Progress { topics: [("lustre.fs-MDT0000".to_owned(), topic)].into() }), SOON);
        core.snapshot("cl1", SOON).holding.into_iter().map(|h| h.reason).collect()
    }

    #[test]
    fn a_group_for_which_nothing_is_left_holds_by_that_name_until_it_has_acknowledged_all() {
        let mut core = core();
        assert!(holding(&mut core, 7, false).is_empty());
        assert_eq!(holding(&mut core, 7, true), ["never_answered"]);
        // the word alone changes nothing
        assert_eq!(core.ledger().acknowledged(), 0);
        // whatever is said of a group that has all
        assert!(holding(&mut core, 8, true).is_empty());
        assert_eq!(core.ledger().acknowledged(), 1);
    }
}
