//! Groups that the configuration registers: those that it names, and those whose names match its patterns.
//!
//! It only ever adds to the registry. Writing first positions is the pipelines' work, when they read the registry.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clbridge_sinks::{GroupObserver, GroupSpec, Registry, Sink, SinkError, Topic, TopicIx};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::assembly;
use crate::config::Config;

/// Pause before the broker is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// The task that keeps the registry in step with the configuration.
pub struct Membership {
    task: JoinHandle<()>,
    registered: watch::Receiver<bool>,
}

impl Membership {
    /// Registers the configured groups as soon as the broker answers, and then looks for groups that match a pattern.
    #[must_use]
    pub fn start(config: &Arc<Config>, sink: Arc<dyn Sink>, observer: Arc<dyn GroupObserver>) -> Self {
        let config = config.clone();
        let (tell, registered) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Err(e) = register_named(&config, observer.as_ref()).await {
                warn!("registering the configured groups: {e}");
                tokio::time::sleep(RETRY).await;
            }
            tell.send_replace(true);
            while !config.patterns.is_empty() {
                if let Err(e) = register_matching(&config, sink.as_ref(), observer.as_ref()).await {
                    warn!("looking for groups that match a pattern: {e:#}");
                }
                tokio::time::sleep(config.poll.members).await;
            }
        });
        Self { task, registered }
    }

    /// Waits until the groups that the configuration names stand in the registry: what is published before a group
    /// is registered is not that group's concern, so nothing may be published before.
    pub fn registered(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut registered = self.registered.clone();
        async move {
            // The sender is gone only once the membership was stopped; then nothing is started any more.
            if registered.wait_for(|done| *done).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends it. A change of the registry that is under way is either written or not.
    pub async fn stop(self) {
        self.task.abort();
        // It was aborted, or had ended: both are what is wanted.
        let _ = self.task.await;
    }
}

/// Puts the groups that the configuration names into the registry, or changes them to what it says.
///
/// # Errors
/// The broker cannot be asked.
pub async fn register_named(config: &Config, observer: &dyn GroupObserver) -> Result<(), SinkError> {
    let wanted: Vec<GroupSpec> = config.groups.iter().map(|(name, group)| group.spec(name)).collect();
    if merge(&mut observer.registry().await?, &wanted) {
        let written = observer
            .change_registry(&mut |registry| {
                merge(registry, &wanted);
            })
            .await?;
        info!(version = written.version, groups = wanted.len(), "configured groups registered");
    }
    Ok(())
}

/// True if anything changed. Numbers of commands stay.
fn merge(registry: &mut Registry, wanted: &[GroupSpec]) -> bool {
    let mut changed = false;
    for spec in wanted {
        let known = registry.groups.get(&spec.name);
        let (accept, repair) = known.map_or((0, 0), |k| (k.accept, k.repair));
        let spec = GroupSpec { accept, repair, ..spec.clone() };
        if known != Some(&spec) {
            registry.groups.insert(spec.name.clone(), spec);
            changed = true;
        }
    }
    changed
}

/// Registers groups whose name matches a pattern and that have committed on one of our topics.
///
/// # Errors
/// The broker cannot be asked, or the place where MDTs are looked for cannot be read.
pub async fn register_matching(config: &Config, sink: &dyn Sink, observer: &dyn GroupObserver) -> anyhow::Result<()> {
    let registry = observer.registry().await?;
    let unknown: Vec<(String, GroupSpec)> = observer
        .list()
        .await?
        .into_iter()
        .filter(|g| !registry.groups.contains_key(&g.name))
        .filter_map(|g| {
            let pattern = config.patterns.iter().find(|p| p.pattern.matches(&g.name))?;
            Some((g.name.clone(), pattern.spec(&g.name)))
        })
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let topics = published_topics(config, sink).await?;
    let names: Vec<String> = unknown.iter().map(|(name, _)| name.clone()).collect();
    let progress = observer.progress(&names, &topics).await?;
    let committed: BTreeSet<(&String, Option<&str>)> = topics
        .iter()
        .filter_map(|t| Some((t, progress.topics.get(&t.name)?)))
        .flat_map(|(t, p)| p.groups.iter().map(move |(group, offsets)| (t, group, offsets)))
        .filter(|(_, _, offsets)| offsets.iter().any(Option::is_some))
        .map(|(t, group, _)| (group, t.feed.as_deref()))
        .collect();
    let wanted: Vec<GroupSpec> = unknown
        .iter()
        .filter(|(name, spec)| committed.contains(&(name, spec.feed.as_deref())))
        .map(|(_, spec)| spec.clone())
        .collect();
    if !wanted.is_empty() {
        let written = observer
            .change_registry(&mut |registry| {
                // Whoever was registered meanwhile by name is not a pattern's.
                let new: Vec<_> = wanted.iter().filter(|s| !registry.groups.contains_key(&s.name)).cloned().collect();
                merge(registry, &new);
            })
            .await?;
        info!(version = written.version, groups = ?wanted.iter().map(|s| &s.name).collect::<Vec<_>>(), "groups registered by pattern");
    }
    Ok(())
}

/// The topics that State pins, for asking about them only.
async fn published_topics(config: &Config, sink: &dyn Sink) -> anyhow::Result<Vec<Topic>> {
    let of_config = config.clone();
    let mdts = tokio::task::spawn_blocking(move || assembly::mdts(&of_config)).await??;
    let mut topics = Vec::new();
    for mdt in mdts {
        let Some(state) = sink.peek_state(&mdt).await? else { continue };
        for (ix, (feed, pinned)) in (0u16..).zip(&state.topics) {
            topics.push(Topic {
                ix: TopicIx(ix),
                name: pinned.name.clone(),
                feed: (!feed.is_empty()).then(|| feed.clone()),
                mdt: mdt.clone(),
                id: pinned.id.clone(),
                partitions: pinned.partitions,
                created: false,
                replicas: 0,
            });
        }
    }
    Ok(topics)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::testing::FakeBroker;
    use crate::config::{GroupConfig, GroupPattern, NamePattern};

    fn config() -> Config {
        let mut config = Config::default();
        config.source.mdts = vec!["fs-MDT0000".parse().unwrap()];
        config
    }

    #[tokio::test]
    async fn configured_groups_are_registered_once_and_keep_their_command_numbers() {
        let broker = FakeBroker::with_topic(1, 2);
        let mut config = config();
        config.groups.insert("lake".into(), GroupConfig::default());
        register_named(&config, &broker).await.unwrap();
        register_named(&config, &broker).await.unwrap();
        assert_eq!(broker.log(), ["registry 1"]);
        broker.change_registry(&mut |r| r.groups.get_mut("lake").unwrap().accept = 4).await.unwrap();
        config.groups.get_mut("lake").unwrap().mdts = vec!["fs-MDT0001".parse().unwrap()];
        register_named(&config, &broker).await.unwrap();
        let registry = broker.registry().await.unwrap();
        assert_eq!(registry.groups["lake"].accept, 4);
        assert!(!registry.groups["lake"].mdts.takes(&"fs-MDT0000".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_group_that_matches_a_pattern_is_registered_only_once_it_has_committed() {
        let broker = FakeBroker::with_topic(2, 2);
        let mut config = config();
        config.patterns.push(GroupPattern {
            pattern: NamePattern::new("audit-.*").unwrap(),
            feed: None,
            policy: crate::config::PolicyConfig::Hold,
        });
        broker.exists(&["audit-eu", "other"]);
        broker.commit("other", "lustre.fs-MDT0000", vec![Some(3), Some(4)]);
        register_matching(&config, &broker, &broker).await.unwrap();
        assert!(broker.log().is_empty());
        broker.commit("audit-eu", "lustre.fs-MDT0000", vec![None, Some(12)]);
        register_matching(&config, &broker, &broker).await.unwrap();
        let registry = broker.registry().await.unwrap();
        assert_eq!(registry.groups.keys().collect::<Vec<_>>(), ["audit-eu"]);
        assert!(registry.groups["audit-eu"].by_pattern);
    }
}
