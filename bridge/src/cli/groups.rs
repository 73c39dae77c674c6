//! `clbridge groups`: the registry of persistent groups, and their first positions.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{GroupObserver, GroupSpec, MdtSelection, Policy, Sink, StartAt, Topic};

use super::table::Table;
use crate::assembly;
use crate::config::Config;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Register a group: nothing that it has not acknowledged is cleared from then on
    Add(AddArgs),
    /// Forget a group: it holds nothing back any more
    Remove(NameArgs),
    /// Show all groups, their members and positions
    List,
    /// Believe what a holding group has committed now; records that it skipped are counted
    Accept(NameArgs),
    /// Publish again, for one group, records that were deleted before it read them and that the MDT still has
    Repair(NameArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct NameArgs {
    /// The group's name (Kafka: group.id)
    name: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The group's name (Kafka: group.id)
    name: String,
    /// Only this MDT; may be given several times. Default: all, those that appear later included
    #[arg(long, value_name = "FS-MDTxxxx")]
    mdt: Vec<MdtName>,
    /// The feed that it takes. Default: the default feed
    #[arg(long)]
    feed: Option<String>,
    /// Where it begins in a topic that already holds records
    #[arg(long, value_enum, default_value_t = From::Newest)]
    from: From,
    /// Release policy: let the MDT forget when the group holds back more records than this
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    release_backlog: Option<u64>,
    /// Release policy: let the MDT forget what the group has held back longer than this, for instance 3d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    release_age: Option<Duration>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum From {
    /// Behind the newest record
    Newest,
    /// At the oldest record that the topic still holds
    Oldest,
}

impl AddArgs {
    fn spec(&self) -> GroupSpec {
        GroupSpec {
            name: self.name.clone(),
            mdts: if self.mdt.is_empty() { MdtSelection::All } else { MdtSelection::List(self.mdt.clone()) },
            feed: self.feed.clone(),
            from: match self.from {
                From::Newest => StartAt::Newest,
                From::Oldest => StartAt::Oldest,
            },
            policy: match (self.release_backlog, self.release_age) {
                (None, None) => Policy::Hold,
                (backlog, age) => Policy::Release { backlog, age },
            },
            accept: 0,
            repair: 0,
            by_pattern: false,
        }
    }
}

pub(super) async fn run(command: &Command, config: Arc<Config>) -> anyhow::Result<ExitCode> {
    let broker = super::broker::connect(&config).await?;
    match command {
        Command::Add(args) => {
            let spec = args.spec();
            ensure!(
                config.feed(spec.feed.as_deref()).is_some(),
                "feed {} is not in the configuration (feeds.{0})",
                spec.feed.as_deref().unwrap_or_default()
            );
            let mdts = super::broker::known_mdts(&config, &spec.mdts);
            print!("{}", add(broker.as_ref(), broker.as_ref(), spec, &mdts).await?);
        }
        Command::Remove(NameArgs { name }) => print!("{}", remove(broker.as_ref(), name).await?),
        Command::List => {
            let mdts = super::broker::known_mdts(&config, &MdtSelection::All);
            print!("{}", list(broker.as_ref(), broker.as_ref(), &mdts).await?);
        }
        Command::Accept(NameArgs { name }) => {
            let mdts = super::broker::known_mdts(&config, &MdtSelection::All);
            print!("{}", raise(broker.as_ref(), broker.as_ref(), name, Raise::Accept, &mdts).await?);
        }
        Command::Repair(NameArgs { name }) => {
            let mdts = super::broker::known_mdts(&config, &MdtSelection::All);
            print!("{}", raise(broker.as_ref(), broker.as_ref(), name, Raise::Repair, &mdts).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Registers a group and writes its first positions in the topics that exist. Where a topic does not exist yet the
/// bridge makes it, and writes the positions before the first record.
async fn add(
    sink: &dyn Sink,
    observer: &dyn GroupObserver,
    spec: GroupSpec,
    mdts: &[MdtName],
) -> anyhow::Result<String> {
    let mut out = String::new();
    let mut topics = Vec::new();
    for mdt in mdts {
        match topic_of(sink, mdt, spec.feed.as_deref()).await? {
            Some(topic) => topics.push(topic),
            None => {
                out += &format!("{mdt}: no topic yet; the bridge writes the first positions when it makes it\n");
                if spec.policy != Policy::Hold {
                    out += &format!(
                        "{mdt}: releases nothing while its topic has fewer than 2 replicas; `clbridge check` says so\n"
                    );
                }
            }
        }
    }
    // Released records must be replicated: the topic is then the only place that has them.
    if spec.policy != Policy::Hold
        && let Some(topic) = topics.iter().find(|t| t.replicas < 2)
    {
        bail!(
            "group {}: a release policy is refused, since the broker keeps only {} copy of {}, and what is released is \
             no longer on the MDT: raise the topic's replication factor to at least 2, or leave the policy out (hold)",
            spec.name,
            topic.replicas,
            topic.name
        );
    }
    let mut conflict = None;
    let written = observer
        .change_registry(&mut |registry| {
            let known = registry.groups.get(&spec.name);
            conflict = known.filter(|k| k.feed != spec.feed).map(|k| k.feed.clone());
            if conflict.is_none() {
                let (accept, repair) = known.map_or((0, 0), |k| (k.accept, k.repair));
                registry.groups.insert(spec.name.clone(), GroupSpec { accept, repair, ..spec.clone() });
            }
        })
        .await?;
    if let Some(feed) = conflict {
        bail!(
            "group {} takes the {} already, and a group takes one feed: `clbridge groups remove {0}` first, or choose another name",
            spec.name,
            feed.map_or("default feed".to_owned(), |f| format!("feed {f}"))
        );
    }
    out += &format!("group {} is registered (registry version {})\n", spec.name, written.version);
    for topic in &topics {
        let positions = observer.register(&spec.name, topic, spec.from).await?;
        for (partition, position) in positions.iter().enumerate() {
            out += &match position {
                Some(at) => format!("{} partition {partition}: position {at}\n", topic.name),
                None => format!(
                    "{} partition {partition}: holds (no_first_position): the group has live members and the topic holds \
                     records; ends when the group commits there, or with: clbridge groups accept {}\n",
                    topic.name, spec.name
                ),
            };
        }
    }
    Ok(out)
}

/// The topic of a feed as State pinned it; `None` if there is none yet.
async fn topic_of(sink: &dyn Sink, mdt: &MdtName, feed: Option<&str>) -> anyhow::Result<Option<Topic>> {
    let Some(state) = sink.peek_state(mdt).await? else { return Ok(None) };
    let specs: Vec<_> = assembly::pinned_specs(&state).into_iter().filter(|s| s.feed.as_deref() == feed).collect();
    if specs.is_empty() {
        return Ok(None);
    }
    Ok(sink.prepare(&specs, Some(&state)).await?.into_iter().next())
}

async fn remove(observer: &dyn GroupObserver, name: &str) -> anyhow::Result<String> {
    let mut known = false;
    let written = observer.change_registry(&mut |registry| known = registry.groups.remove(name).is_some()).await?;
    ensure!(known, "group {name} is not registered; `clbridge groups list` shows those that are");
    let mut out = format!("group {name} is no longer registered (registry version {})\n", written.version);
    if written.groups.is_empty() {
        out += "no group is registered any more: nothing is cleared unless clear.without_groups = \"durable\"\n";
    }
    Ok(out)
}

#[derive(Clone, Copy)]
enum Raise {
    Accept,
    Repair,
}

/// The number tells every bridge, each of which applies it once to every MDT where the group holds. A bridge goes by
/// the positions that it knew before, so it is safe to move those that lie below a topic's start already now.
async fn raise(
    sink: &dyn Sink,
    observer: &dyn GroupObserver,
    name: &str,
    what: Raise,
    mdts: &[MdtName],
) -> anyhow::Result<String> {
    let mut known = false;
    observer
        .change_registry(&mut |registry| {
            let group = registry.groups.get_mut(name);
            known = group.is_some();
            if let Some(group) = group {
                match what {
                    Raise::Accept => group.accept += 1,
                    Raise::Repair => group.repair += 1,
                }
            }
        })
        .await?;
    ensure!(known, "group {name} is not registered; `clbridge groups list` shows those that are");
    let done = match what {
        Raise::Accept => {
            format!(
                "what group {name} has committed is believed from now on; `clbridge status` shows what it skipped\n"
            )
        }
        Raise::Repair => format!(
            "what the MDTs still have of the records that group {name} lost is published into its repair topics; \
             `clbridge status` shows how far it has read them\n"
        ),
    };
    Ok(done + &skip_deleted(sink, observer, name, mdts).await?)
}

/// Where records were deleted, a group without members is moved to what is left; says where that was not possible.
async fn skip_deleted(
    sink: &dyn Sink,
    observer: &dyn GroupObserver,
    name: &str,
    mdts: &[MdtName],
) -> anyhow::Result<String> {
    let mut out = String::new();
    let registry = observer.registry().await?;
    let Some(spec) = registry.groups.get(name) else { return Ok(out) };
    for mdt in mdts.iter().filter(|mdt| spec.mdts.takes(mdt)) {
        let Some(state) = sink.peek_state(mdt).await? else { continue };
        for topic in sink.prepare(&assembly::pinned_specs(&state), Some(&state)).await? {
            if topic.feed == spec.feed && !observer.skip_deleted(name, &topic).await? {
                out += &format!(
                    "its members stand below the start of {}: start them again with auto.offset.reset=earliest, or stop \
                     all of them and repeat this\n",
                    topic.name
                );
            }
        }
    }
    Ok(out)
}

async fn list(sink: &dyn Sink, observer: &dyn GroupObserver, mdts: &[MdtName]) -> anyhow::Result<String> {
    let registry = observer.registry().await?;
    if registry.groups.is_empty() {
        return Ok("no group is registered\n".to_owned());
    }
    let members = observer.list().await?;
    let mut table = Table::new(&["GROUP", "MDTS", "FEED", "FROM", "POLICY", ">MEMBERS", "BY"]);
    for spec in registry.groups.values() {
        table.row(vec![
            spec.name.clone(),
            match &spec.mdts {
                MdtSelection::All => "all".to_owned(),
                MdtSelection::List(list) => list.iter().map(MdtName::as_str).collect::<Vec<_>>().join(","),
            },
            spec.feed.clone().unwrap_or_else(|| "(default)".to_owned()),
            match spec.from {
                StartAt::Newest => "newest".to_owned(),
                StartAt::Oldest => "oldest".to_owned(),
            },
            policy_text(&spec.policy),
            members.iter().find(|m| m.name == spec.name).map_or(0, |m| m.members).to_string(),
            if spec.by_pattern { "pattern" } else { "name" }.to_owned(),
        ]);
    }
    let mut out = format!("registry version {}\n{table}", registry.version);
    let positions = positions(sink, observer, &registry, mdts).await?;
    if !positions.is_empty() {
        out += &format!("\n{positions}");
    }
    Ok(out)
}

async fn positions(
    sink: &dyn Sink,
    observer: &dyn GroupObserver,
    registry: &clbridge_sinks::Registry,
    mdts: &[MdtName],
) -> anyhow::Result<Table> {
    let names: Vec<String> = registry.groups.keys().cloned().collect();
    let mut table = Table::new(&["GROUP", "TOPIC", ">PARTITION", ">COMMITTED", ">END"]);
    for mdt in mdts {
        let Some(state) = sink.peek_state(mdt).await? else { continue };
        let topics = sink.prepare(&assembly::pinned_specs(&state), Some(&state)).await?;
        let progress = observer.progress(&names, &topics).await?;
        for topic in &topics {
            let Some(at) = progress.topics.get(&topic.name) else { continue };
            for (group, offsets) in &at.groups {
                let takes = registry.groups.get(group).is_some_and(|s| s.feed == topic.feed && s.mdts.takes(mdt));
                for (partition, committed) in offsets.iter().enumerate().filter(|_| takes) {
                    table.row(vec![
                        group.clone(),
                        topic.name.clone(),
                        partition.to_string(),
                        committed.map_or_else(|| "-".to_owned(), |c| c.to_string()),
                        at.end.get(partition).map_or_else(|| "-".to_owned(), u64::to_string),
                    ]);
                }
            }
        }
    }
    Ok(table)
}

fn policy_text(policy: &Policy) -> String {
    match policy {
        Policy::Hold => "hold".to_owned(),
        Policy::Release { backlog, age } => {
            let backlog = backlog.map(|n| format!("{n} records"));
            let age = age.map(|a| humantime::format_duration(a).to_string());
            format!("release at {}", [backlog, age].into_iter().flatten().collect::<Vec<_>>().join(" or "))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::testing::FakeBroker;

    fn spec(name: &str) -> GroupSpec {
        crate::config::GroupConfig::default().spec(name)
    }

    fn mdt() -> MdtName {
        "fs-MDT0000".parse().unwrap()
    }

    #[tokio::test]
    async fn adding_a_group_writes_the_registry_and_then_its_first_positions() {
        let broker = FakeBroker::with_topic(3, 2);
        let out = add(&broker, &broker, spec("lake"), &[mdt()]).await.unwrap();
        assert!(out.contains("lustre.fs-MDT0000 partition 2: position 100"), "{out}");
        assert_eq!(broker.log(), ["registry 1", "register lake lustre.fs-MDT0000"]);
        let out = list(&broker, &broker, &[mdt()]).await.unwrap();
        assert!(out.contains("lake") && out.contains("100"), "{out}");
    }

    #[tokio::test]
    async fn a_partition_that_cannot_be_written_says_why_it_holds_and_what_ends_it() {
        let broker = FakeBroker::with_topic(2, 2);
        broker.members_are_live();
        let out = add(&broker, &broker, spec("lake"), &[mdt()]).await.unwrap();
        assert!(out.contains("no_first_position") && out.contains("clbridge groups accept lake"), "{out}");
    }

    #[tokio::test]
    async fn an_mdt_without_a_topic_is_left_to_the_bridge() {
        let broker = FakeBroker::empty();
        let out = add(&broker, &broker, spec("lake"), &[mdt()]).await.unwrap();
        assert!(out.contains("fs-MDT0000: no topic yet"), "{out}");
        assert_eq!(broker.log(), ["registry 1"]);
        let release = GroupSpec { policy: Policy::Release { backlog: Some(5), age: None }, ..spec("audit") };
        let out = add(&broker, &broker, release, &[mdt()]).await.unwrap();
        assert!(out.contains("releases nothing while its topic has fewer than 2 replicas"), "{out}");
    }

    #[tokio::test]
    async fn a_release_policy_on_an_unreplicated_topic_is_refused_before_anything_is_written() {
        let broker = FakeBroker::with_topic(3, 1);
        let release = GroupSpec { policy: Policy::Release { backlog: Some(5), age: None }, ..spec("lake") };
        let error = add(&broker, &broker, release, &[mdt()]).await.unwrap_err().to_string();
        assert!(error.contains("lustre.fs-MDT0000") && error.contains("replication factor"), "{error}");
        assert!(broker.log().is_empty());
    }

    #[tokio::test]
    async fn adding_again_changes_the_policy_and_keeps_what_was_accepted() {
        let broker = FakeBroker::with_topic(1, 2);
        add(&broker, &broker, spec("lake"), &[mdt()]).await.unwrap();
        raise(&broker, &broker, "lake", Raise::Accept, &[mdt()]).await.unwrap();
        let release = GroupSpec { policy: Policy::Release { backlog: Some(5), age: None }, ..spec("lake") };
        add(&broker, &broker, release.clone(), &[mdt()]).await.unwrap();
        let now = broker.registry().await.unwrap();
        assert_eq!((now.groups["lake"].accept, &now.groups["lake"].policy), (1, &release.policy));
        let other_feed = GroupSpec { feed: Some("names".into()), ..spec("lake") };
        let error = add(&broker, &broker, other_feed, &[mdt()]).await.unwrap_err().to_string();
        assert!(error.contains("takes the default feed already"), "{error}");
    }

    #[tokio::test]
    async fn accept_and_repair_raise_their_numbers_and_remove_forgets() {
        let broker = FakeBroker::with_topic(1, 2);
        add(&broker, &broker, spec("lake"), &[mdt()]).await.unwrap();
        raise(&broker, &broker, "lake", Raise::Accept, &[mdt()]).await.unwrap();
        raise(&broker, &broker, "lake", Raise::Repair, &[mdt()]).await.unwrap();
        let now = broker.registry().await.unwrap();
        assert_eq!((now.groups["lake"].accept, now.groups["lake"].repair, now.version), (1, 1, 3));
        assert!(remove(&broker, "lake").await.unwrap().contains("nothing is cleared"));
        for error in [remove(&broker, "lake").await, raise(&broker, &broker, "lake", Raise::Accept, &[mdt()]).await] {
            assert!(error.unwrap_err().to_string().contains("not registered"));
        }
    }
}
