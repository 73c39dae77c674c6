//! Applies the registry to one MDT: new groups get their first positions before anything counts as read by them,
//! removed ones let go, commands (`accept`, `repair`) are carried out once.

use std::collections::BTreeSet;

use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{GroupObserver, GroupSpec, Registry, SinkError, State, Topic};
use tracing::{info, warn};

use super::{Shared, clock};
use crate::core::Event;
use crate::core::ledger::group::GroupProgress;

/// The topic of this MDT that a group takes, if it takes this MDT.
#[must_use]
pub fn topic_of<'a>(spec: &GroupSpec, mdt: &MdtName, topics: &'a [Topic]) -> Option<&'a Topic> {
    spec.mdts.takes(mdt).then(|| topics.iter().find(|t| t.feed == spec.feed)).flatten()
}

/// Writes first positions of every registered group that State does not know, before this life publishes anything:
/// a group's first commit can then not jump over a record. Returns the groups to begin with.
///
/// # Errors
/// The broker cannot be asked.
pub async fn at_start(
    mdt: &MdtName,
    registry: &Registry,
    state: Option<&State>,
    topics: &[Topic],
    observer: &dyn GroupObserver,
) -> Result<Vec<(Topic, GroupProgress)>, SinkError> {
    let mut groups = Vec::new();
    for spec in registry.groups.values() {
        let Some(topic) = topic_of(spec, mdt, topics) else { continue };
        let known =
            state.and_then(|s| s.groups.get(&spec.name)).filter(|g| g.feed == spec.feed.clone().unwrap_or_default());
        let group = match known {
            Some(s) => GroupProgress::remembered(spec.clone(), s, topic.partitions),
            None => {
                let first = observer.register(&spec.name, topic, spec.from).await?;
                info!(%mdt, group = spec.name, topic = topic.name, ?first, "group registered");
                GroupProgress::registered(spec.clone(), first, 0)
            }
        };
        groups.push((topic.clone(), group));
    }
    Ok(groups)
}

/// Applies a registry that was read again.
///
/// # Errors
/// The broker cannot be asked.
pub async fn apply(
    mdt: &MdtName,
    registry: &Registry,
    topics: &[Topic],
    observer: &dyn GroupObserver,
    shared: &Shared,
) -> Result<(), SinkError> {
    let (known, accepts): (BTreeSet<String>, Vec<(Topic, GroupSpec)>) = {
        let core = shared.core();
        let known = core.ledger().groups().map(|(t, g)| format!("{}\0{}", t.name, g.spec.name)).collect();
        let accepts = core
            .ledger()
            .groups()
            .filter_map(|(t, g)| {
                let spec = registry.groups.get(&g.spec.name)?;
                (spec.accept > g.applied().0 && g.hold().is_some()).then(|| (t.clone(), spec.clone()))
            })
            .collect();
        (known, accepts)
    };
    // What is accepted where nothing is committed is a position written anew.
    for (topic, spec) in accepts {
        let first = observer.register(&spec.name, &topic, spec.from).await?;
        warn!(%mdt, group = spec.name, topic = topic.name, positions = ?first, "accepted by command");
    }
    let mut wanted = BTreeSet::new();
    for spec in registry.groups.values() {
        let Some(topic) = topic_of(spec, mdt, topics) else { continue };
        let id = format!("{}\0{}", topic.name, spec.name);
        if known.contains(&id) {
            shared.core().on(Event::GroupChanged(spec.clone()), clock::now());
        } else {
            let first = observer.register(&spec.name, topic, spec.from).await?;
            info!(%mdt, group = spec.name, topic = topic.name, ?first, "group registered");
            shared.core().on(Event::GroupAdded { topic: topic.ix, spec: spec.clone(), first }, clock::now());
        }
        wanted.insert(id);
    }
    for gone in known.difference(&wanted) {
        let name = gone.split('\0').nth(1).unwrap_or_default();
        info!(%mdt, group = name, "group no longer registered: it holds nothing back");
        shared.core().on(Event::GroupRemoved(name), clock::now());
    }
    shared.core().on(Event::Registry { version: registry.version }, clock::now());
    Ok(())
}
