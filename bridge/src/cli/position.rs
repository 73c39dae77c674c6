//! `clbridge where`: at which positions a record lies, and which groups have read it.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_sinks::{GroupObserver, Position, Registry, Sink, State, Stored, Topic, TopicProgress};
use std::num::NonZeroU64;

use super::table::Table;
use crate::assembly;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The MDT, FS-MDTxxxx
    mdt: MdtName,
    /// The record's index
    index: NonZeroU64,
}

pub(super) async fn run(args: &Args, config: Arc<Config>) -> anyhow::Result<ExitCode> {
    let broker = super::broker::connect(&config).await?;
    let (text, found) = locate(broker.as_ref(), broker.as_ref(), &args.mdt, args.index).await?;
    print!("{text}");
    Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn locate(
    sink: &dyn Sink,
    observer: &dyn GroupObserver,
    mdt: &MdtName,
    index: NonZeroU64,
) -> anyhow::Result<(String, bool)> {
    let Some(state) = sink.peek_state(mdt).await? else {
        bail!("{mdt}: there is no State of this MDT in the broker; nothing of it was ever published");
    };
    let topics = sink.prepare(&assembly::pinned_specs(&state), Some(&state)).await?;
    let registry = observer.registry().await?;
    let names: Vec<String> = registry.groups.keys().cloned().collect();
    let progress = observer.progress(&names, &topics).await?;
    let mut table = Table::new(&["TOPIC", ">PARTITION", ">POSITION", ">INCARN.", "STATE", "READ BY", "NOT YET BY"]);
    for topic in &topics {
        let at = progress.topics.get(&topic.name).with_context(|| format!("topic {} is gone", topic.name))?;
        for incarnation in 1..=state.incarnation {
            let id = RecordId::new(incarnation, index);
            for found in search(sink, topic, at, id).await? {
                table.row(row(&state, &registry, topic, at, &found));
            }
        }
    }
    if table.is_empty() {
        return Ok((absent(&state, mdt, index), false));
    }
    Ok((table.to_string(), true))
}

fn row(state: &State, registry: &Registry, topic: &Topic, at: &TopicProgress, found: &Stored) -> Vec<String> {
    let partition = found.at.partition;
    let id = found.head.id();
    let voided = state.retractions.iter().filter(|r| r.incarnation > id.incarnation);
    let void = voided.filter(|r| (r.from..=r.to).contains(&id.index.get())).map(|r| r.incarnation).min();
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    for spec in registry.groups.values().filter(|s| s.feed == topic.feed && s.mdts.takes(&topic.mdt)) {
        let committed = at.groups.get(&spec.name).and_then(|o| o.get(partition as usize).copied().flatten());
        match committed {
            Some(committed) if committed > found.at.offset => read.push(spec.name.as_str()),
            _ => unread.push(spec.name.as_str()),
        }
    }
    let list = |names: Vec<&str>| if names.is_empty() { "-".to_owned() } else { names.join(",") };
    vec![
        topic.name.clone(),
        partition.to_string(),
        found.at.offset.to_string(),
        id.incarnation.to_string(),
        void.map_or("stands".to_owned(), |by| format!("void since incarnation {by}")),
        list(read),
        list(unread),
    ]
}

/// Within a partition records are in the order of their identity, so each partition is searched by halves, all of
/// them together.
async fn search(sink: &dyn Sink, topic: &Topic, at: &TopicProgress, id: RecordId) -> anyhow::Result<Vec<Stored>> {
    struct Part {
        partition: u32,
        from: u64,
        to: u64,
        best: Option<Stored>,
    }
    let mut parts: Vec<Part> = (0u32..)
        .zip(at.low.iter().zip(&at.end))
        .map(|(partition, (from, to))| Part { partition, from: *from, to: *to, best: None })
        .collect();
    loop {
        let open: Vec<usize> = (0..parts.len()).filter(|i| parts[*i].from < parts[*i].to).collect();
        if open.is_empty() {
            break;
        }
        let middle = |p: &Part| p.from + (p.to - p.from) / 2;
        let asked: Vec<Position> =
            open.iter().map(|i| Position { partition: parts[*i].partition, offset: middle(&parts[*i]) }).collect();
        let answers = sink.read_at(topic, &asked).await?;
        for ((i, asked), answer) in open.into_iter().zip(&asked).zip(answers) {
            let part = &mut parts[i];
            match answer {
                Some(stored) if before(&stored, id) => part.from = stored.at.offset + 1,
                Some(stored) => {
                    part.to = asked.offset;
                    part.best = Some(stored);
                }
                None => part.to = asked.offset,
            }
        }
    }
    Ok(parts.into_iter().filter_map(|p| p.best).filter(|s| s.head.id() == id).collect())
}

/// A retraction has the identity of the first record of its incarnation, and stands before it.
fn before(stored: &Stored, id: RecordId) -> bool {
    stored.head.id() < id || (stored.head.id() == id && stored.head.retracts.is_some())
}

fn absent(state: &State, mdt: &MdtName, index: NonZeroU64) -> String {
    let frontier = state.frontier.map_or(0, |m| m.id.index.get());
    if index.get() > frontier {
        return format!("{mdt} record {index} is not published yet: the frontier is {frontier}\n");
    }
    format!(
        "{mdt} record {index} lies in no topic: it was dropped by every feed's filter, trimmed after every group had read \
         it, or is an index that the MDT never used (the frontier is {frontier}, cleared up to {})\n",
        state.last_clear
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::testing::{FakeBroker, stored};
    use clbridge_sinks::Retraction;

    fn mdt() -> MdtName {
        "fs-MDT0000".parse().unwrap()
    }

    async fn at(broker: &FakeBroker, index: u64) -> (String, bool) {
        locate(broker, broker, &mdt(), NonZeroU64::new(index).unwrap()).await.unwrap()
    }

    /// Two partitions with holes; incarnation 2 began at index 8.
    fn broker() -> FakeBroker {
        let mut broker = FakeBroker::with_topic(2, 1);
        broker.records = vec![
            vec![
                stored(0, 12, 1, 3, false),
                stored(0, 20, 1, 9, false),
                stored(0, 40, 2, 8, true),
                stored(0, 41, 2, 9, false),
            ],
            vec![stored(1, 15, 1, 8, false), stored(1, 90, 2, 8, true), stored(1, 91, 2, 8, false)],
        ];
        let state = broker.state.as_mut().unwrap();
        state.incarnation = 2;
        state.retractions = vec![Retraction { incarnation: 2, from: 8, to: 9 }];
        state.frontier = None;
        broker
    }

    #[tokio::test]
    async fn a_record_is_found_in_every_incarnation_and_the_void_one_is_called_so() {
        let (text, found) = at(&broker(), 9).await;
        assert!(found);
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains(" 20 ") && lines[0].contains("void since incarnation 2"), "{text}");
        assert!(lines[1].contains(" 41 ") && lines[1].contains("stands"), "{text}");
    }

    #[tokio::test]
    async fn a_retraction_is_not_taken_for_the_record_whose_identity_it_bears() {
        let (text, _) = at(&broker(), 8).await;
        assert!(
            text.contains(" 15 ") && text.contains(" 91 ") && !text.contains(" 90 ") && !text.contains(" 40 "),
            "{text}"
        );
    }

    #[tokio::test]
    async fn groups_that_have_read_it_are_told_from_those_that_have_not() {
        let broker = broker();
        for group in ["lake", "robinhood"] {
            let spec = crate::config::GroupConfig::default().spec(group);
            broker.change_registry(&mut |r| drop(r.groups.insert(group.into(), spec.clone()))).await.unwrap();
        }
        broker.commit("lake", "lustre.fs-MDT0000", vec![Some(13), None]);
        broker.commit("robinhood", "lustre.fs-MDT0000", vec![Some(12), None]);
        let (text, _) = at(&broker, 3).await;
        let line = text.lines().nth(1).unwrap();
        assert!(line.contains("lake") && line.trim_end().ends_with("robinhood"), "{text}");
    }

    #[tokio::test]
    async fn a_record_that_is_nowhere_says_what_may_have_become_of_it() {
        let (text, found) = at(&broker(), 500).await;
        assert!(!found && text.contains("not published yet"), "{text}");
    }
}
