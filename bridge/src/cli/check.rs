//! `clbridge check`: validates, tries the connections, and says what is still to be done by hand.
//!
//! It changes nothing: no topic is made, no position written, nothing cleared.

use std::process::ExitCode;
use std::sync::Arc;

use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{GroupObserver, Policy, Sink};

use crate::assembly;
use crate::config::{Config, SourceKind, WithoutGroups};

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// What was looked at, in the order of looking.
#[derive(Default)]
struct Report {
    text: String,
    failures: usize,
    /// Typed on the MDS.
    commands: Vec<String>,
}

impl Report {
    fn good(&mut self, what: impl AsRef<str>) {
        self.text += &format!("ok      {}\n", what.as_ref());
    }

    fn note(&mut self, what: impl AsRef<str>) {
        self.text += &format!("note    {}\n", what.as_ref());
    }

    fn bad(&mut self, what: impl AsRef<str>) {
        self.failures += 1;
        self.text += &format!("FAILED  {}\n", what.as_ref());
    }
}

/// The configuration was read, so it is valid: what is left is the world.
pub(super) async fn run(_: &Args, config: Arc<Config>) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    report.good(format!("configuration (instance {})", config.instance));
    let mdts = {
        let config = config.clone();
        let (part, mdts) = tokio::task::spawn_blocking(move || sources(&config)).await?;
        report.text += &part.text;
        report.failures += part.failures;
        mdts
    };
    match super::broker::connect(&config).await {
        Ok(broker) => sink(&mut report, &config, broker.as_ref(), broker.as_ref(), &mdts).await,
        Err(e) => report.bad(format!("broker: {e:#}")),
    }
    print!("{}", report.text);
    if !report.commands.is_empty() {
        println!(
            "\nIf it was not done yet, type on the MDS, and put the user id that is printed into source.user or source.users:"
        );
        for command in &report.commands {
            println!("    {command}");
        }
        println!(
            "`lctl get_param mdd.*.changelog_users` there shows the users that are registered; a client cannot see them."
        );
    }
    if report.failures > 0 {
        println!("\n{} of the above failed", report.failures);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Finds the MDTs and reads each one's oldest record.
fn sources(config: &Config) -> (Report, Vec<MdtName>) {
    let mut report = Report::default();
    let place = match config.source.kind {
        SourceKind::Lustre => format!("{}/changelog-*", config.source.dir.display()),
        SourceKind::Sim => format!("mdt-sim at {}", config.source.address.as_deref().unwrap_or_default()),
        SourceKind::Replay => "source.files".to_owned(),
    };
    let (mdts, factory) = match (assembly::mdts(config), assembly::sources(config)) {
        (Ok(mdts), Ok(factory)) => (mdts, factory),
        (Err(e), _) | (_, Err(e)) => {
            report.bad(format!("{place}: {e:#}"));
            return (report, Vec::new());
        }
    };
    if mdts.is_empty() {
        report.bad(format!("{place}: no MDT was found; is the file system mounted on this machine, and do source.fs and source.mdts fit?"));
    }
    for mdt in &mdts {
        let oldest = factory.open(mdt, config.source.user_of(mdt)).and_then(|(_, mut clearer)| clearer.oldest());
        match oldest {
            Ok(Some(index)) => report.good(format!("{mdt}: readable, oldest record {index}")),
            Ok(None) => report.good(format!("{mdt}: readable, no records")),
            Err(e) => report.bad(format!("{mdt}: {e}")),
        }
    }
    (report, mdts)
}

async fn sink(report: &mut Report, config: &Config, sink: &dyn Sink, observer: &dyn GroupObserver, mdts: &[MdtName]) {
    let registry = match observer.registry().await {
        Ok(registry) => {
            report.good(format!("broker: reached; group registry version {}", registry.version));
            registry
        }
        Err(e) => {
            report.bad(format!("broker: {e}"));
            return;
        }
    };
    for mdt in mdts {
        let state = match sink.peek_state(mdt).await {
            Ok(state) => state,
            Err(e) => {
                report.bad(format!("{mdt}: State: {e}"));
                continue;
            }
        };
        let Some(state) = state else {
            report.note(format!("{mdt}: never published; `clbridge run` makes its topics"));
            report.commands.push(registration(mdt));
            continue;
        };
        if state.last_clear == 0 {
            report.commands.push(registration(mdt));
        }
        match sink.prepare(&assembly::pinned_specs(&state), Some(&state)).await {
            Ok(topics) => {
                for topic in &topics {
                    report
                        .good(format!("{}: {} partitions, {} replicas", topic.name, topic.partitions, topic.replicas));
                }
                let release = registry.groups.values().filter(|g| g.policy != Policy::Hold && g.mdts.takes(mdt));
                for group in release {
                    for topic in topics.iter().filter(|t| t.feed == group.feed && t.replicas < 2) {
                        report.bad(format!(
                            "group {}: has a release policy, but {} has only {} replica",
                            group.name, topic.name, topic.replicas
                        ));
                    }
                }
            }
            Err(e) => report.bad(format!("{mdt}: {e}")),
        }
    }
    let groups = config.groups.len() + config.patterns.len() + registry.groups.len();
    if groups == 0 && config.clear.without_groups == WithoutGroups::Hold {
        report.note(
            "no persistent group is registered or configured: nothing will be cleared (`clbridge groups add NAME`)",
        );
    }
}

fn registration(mdt: &MdtName) -> String {
    format!("lctl --device {mdt} changelog_register")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::testing::FakeBroker;

    fn mdt() -> MdtName {
        "fs-MDT0000".parse().unwrap()
    }

    #[tokio::test]
    async fn an_mdt_that_was_never_published_gets_its_registration_command() {
        let (mut report, broker) = (Report::default(), FakeBroker::empty());
        sink(&mut report, &Config::default(), &broker, &broker, &[mdt()]).await;
        assert_eq!(report.commands, ["lctl --device fs-MDT0000 changelog_register"]);
        assert_eq!(report.failures, 0, "{}", report.text);
        assert!(report.text.contains("nothing will be cleared"), "{}", report.text);
        assert!(broker.log().is_empty());
    }

    #[tokio::test]
    async fn an_mdt_that_was_cleared_needs_no_command_and_its_topics_are_shown() {
        let (mut report, mut broker) = (Report::default(), FakeBroker::with_topic(4, 3));
        broker.state.as_mut().unwrap().last_clear = 9;
        sink(&mut report, &Config::default(), &broker, &broker, &[mdt()]).await;
        assert!(report.commands.is_empty());
        assert!(report.text.contains("lustre.fs-MDT0000: 4 partitions, 3 replicas"), "{}", report.text);
    }

    #[tokio::test]
    async fn a_release_policy_on_an_unreplicated_topic_fails() {
        let (mut report, broker) = (Report::default(), FakeBroker::with_topic(4, 1));
        let mut spec = crate::config::GroupConfig::default().spec("lake");
        spec.policy = Policy::Release { backlog: Some(1), age: None };
        broker.change_registry(&mut |r| drop(r.groups.insert("lake".into(), spec.clone()))).await.unwrap();
        sink(&mut report, &Config::default(), &broker, &broker, &[mdt()]).await;
        assert_eq!(report.failures, 1, "{}", report.text);
    }
}
