//! `clbridge reset`: a stopped MDT begins anew, at its oldest record, as a new incarnation.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{Durable, Publisher, Refused, Retraction, Sink, State, Stored, Topic, TopicState};

use crate::assembly;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The MDT, FS-MDTxxxx
    mdt: MdtName,
    /// Do it; without, only what would be done is shown
    #[arg(long)]
    yes: bool,
}

/// How long writing State may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(args: &Args, config: Arc<Config>) -> anyhow::Result<ExitCode> {
    let oldest = oldest(config.clone(), args.mdt.clone()).await?;
    let broker = super::broker::connect(&config).await?;
    let specs = assembly::wanted_specs(&config, &args.mdt);
    let number = begin_anew(broker.as_ref(), &specs, &args.mdt, &config.instance, oldest, args.yes).await?;
    Ok(if number.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asked of the MDT itself: it has to answer before anything is decided about it.
async fn oldest(config: Arc<Config>, mdt: MdtName) -> anyhow::Result<Option<u64>> {
    let asked = tokio::task::spawn_blocking(move || -> anyhow::Result<Option<u64>> {
        let (_, mut clearer) = assembly::sources(&config)?.open(&mdt, config.source.user_of(&mdt))?;
        Ok(clearer.oldest()?)
    });
    asked.await?.context("the MDT has to be readable for a reset")
}

/// Shows what is there and what a reset makes of it, and does it if `really`. Returns the number of the State written.
async fn begin_anew(
    sink: &dyn Sink,
    specs: &[clbridge_sinks::TopicSpec],
    mdt: &MdtName,
    owner: &str,
    oldest: Option<u64>,
    really: bool,
) -> anyhow::Result<Option<u64>> {
    let old = sink.peek_state(mdt).await?;
    match &old {
        Some(s) => println!(
            "{mdt}: State {} by {}: incarnation {}, frontier {}, last clear {}",
            s.number,
            s.owner,
            s.incarnation,
            s.frontier.map_or("none".to_owned(), |m| m.id.index.to_string()),
            s.last_clear
        ),
        None => println!("{mdt}: there is no State"),
    }
    println!("the MDT's oldest readable record is {}", oldest.map_or("none".to_owned(), |o| o.to_string()));
    println!(
        "a reset publishes everything that stands on the MDT again, as a new incarnation. What was published before stays \
         in the topics and is not retracted: whether it still holds, only you can know. No acknowledgement of it clears \
         anything any more."
    );
    if !really {
        println!(
            "nothing was changed; stop the bridges that read {mdt}, or be sure that they have stopped on it, and add --yes"
        );
        return Ok(None);
    }
    // Not pinned: a topic that was made anew is accepted by this command.
    let topics = sink.prepare(specs, None).await?;
    let mut found = sink.recover(mdt, &topics).await?;
    let state = fresh_state(found.state.as_ref(), &found.tails, &topics, mdt, owner, oldest, now_ms());
    let number = state.number;
    let atomic = sink.capabilities().atomic_state;
    tokio::task::spawn_blocking(move || write(found.publisher.as_mut(), &state, atomic)).await??;
    println!(
        "done: State {number} by {owner} is written; a bridge of that name goes on at once, others take it over as usual"
    );
    Ok(Some(number))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The State that begins a new incarnation at the source's oldest record.
///
/// - It is above every incarnation that was ever published, so no identity is used twice.
/// - All that lies in the topics is void *for the bridge's own bookkeeping*: a tail is neither a frontier nor a reason
///   to skip, and counts for no floor.
/// - A group keeps its positions where the topic is the same one, and loses its floor: what it acknowledged are other
///   records. In a topic that was made anew it is registered again.
/// - The last clear is kept only if the MDT's oldest record is above it, which is what it then means: everything up to
///   it is gone. Else the changelog began anew, and a clear below it must be possible.
fn fresh_state(
    old: Option<&State>,
    tails: &[Vec<Option<Stored>>],
    topics: &[Topic],
    mdt: &MdtName,
    owner: &str,
    oldest: Option<u64>,
    written_ms: u64,
) -> State {
    let published = || tails.iter().flatten().flatten().map(|t| t.head.id());
    let highest_incarnation = published().map(|id| id.incarnation).chain(old.map(|s| s.incarnation)).max().unwrap_or(0);
    let highest_index = published()
        .map(|id| id.index.get())
        .chain(old.and_then(|s| s.frontier).map(|m| m.id.index.get()))
        .max()
        .unwrap_or(0);
    let mut state = State::first(mdt.clone(), owner.to_owned());
    state.incarnation = highest_incarnation + 1;
    state.retractions = vec![Retraction { incarnation: state.incarnation, from: 1, to: highest_index }];
    state.written_ms = written_ms;
    state.topics = topics
        .iter()
        .map(|t| {
            let pinned = TopicState { name: t.name.clone(), id: t.id.clone(), partitions: t.partitions };
            (t.feed.clone().unwrap_or_default(), pinned)
        })
        .collect();
    if let Some(old) = old {
        state.number = old.number + 1;
        state.last_clear = if oldest.is_some_and(|o| o > old.last_clear) { old.last_clear } else { 0 };
        state.registry_version = old.registry_version;
        state.gap_records = old.gap_records;
        for (name, group) in &old.groups {
            if state.topics.contains_key(&group.feed) && state.topics.get(&group.feed) == old.topics.get(&group.feed) {
                let mut group = group.clone();
                group.floor = 0;
                state.groups.insert(name.clone(), group);
            }
        }
    } else {
        state.number = 1;
    }
    state
}

/// Writes State and waits until it is durable.
fn write(publisher: &mut dyn Publisher, state: &State, atomic: bool) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut durable = false;
    let mut asked = false;
    while !durable {
        if !asked {
            let answer = if atomic { publisher.seal(None, Some(state)) } else { publisher.store(state) };
            match answer {
                Ok(()) => asked = true,
                Err(Refused::Full) => {}
                Err(Refused::Dead(e)) => return Err(e.into()),
            }
        }
        publisher.poll(Duration::from_millis(50), &mut |d| durable |= d == Durable::State(state.number))?;
        if !durable && Instant::now() > until {
            bail!(
                "State {} was not confirmed within {} s: look with `clbridge status` before trying again",
                state.number,
                PATIENCE.as_secs()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::testing::{FakeBroker, stored};
    use clbridge_sinks::GroupState;

    fn mdt() -> MdtName {
        "fs-MDT0000".parse().unwrap()
    }

    fn used() -> FakeBroker {
        let mut broker = FakeBroker::with_topic(2, 1);
        broker.records = vec![vec![stored(0, 50, 3, 700, false)], vec![stored(1, 60, 3, 650, false)]];
        let state = broker.state.as_mut().unwrap();
        (state.number, state.incarnation, state.last_clear, state.registry_version) = (41, 2, 600, 7);
        state.groups.insert(
            "lake".into(),
            GroupState { committed: vec![Some(40), Some(61)], floor: 620, ..GroupState::default() },
        );
        broker
    }

    async fn reset(broker: &FakeBroker, oldest: Option<u64>) -> State {
        let specs = broker.state.as_ref().map(assembly::pinned_specs).unwrap();
        begin_anew(broker, &specs, &mdt(), "bridge-b", oldest, true).await.unwrap();
        broker.states().pop().unwrap()
    }

    #[tokio::test]
    async fn a_reset_begins_an_incarnation_above_all_that_was_published() {
        let state = reset(&used(), Some(5)).await;
        assert_eq!((state.number, state.incarnation, state.owner.as_str()), (42, 4, "bridge-b"));
        assert_eq!((state.frontier, state.stable), (None, None));
        assert_eq!(state.retractions, [Retraction { incarnation: 4, from: 1, to: 700 }]);
        assert_eq!(state.registry_version, 7);
    }

    #[tokio::test]
    async fn what_a_group_acknowledged_before_clears_nothing_but_its_positions_stay() {
        let state = reset(&used(), Some(5)).await;
        assert_eq!(state.groups["lake"].floor, 0);
        assert_eq!(state.groups["lake"].committed, [Some(40), Some(61)]);
    }

    #[tokio::test]
    async fn a_group_is_registered_again_where_the_topic_was_made_anew() {
        let mut broker = used();
        broker.state.as_mut().unwrap().topics.get_mut("").unwrap().id = "life-0".into();
        let state = reset(&broker, Some(5)).await;
        assert!(state.groups.is_empty());
        assert_eq!(state.topics[""].id, "life-1");
    }

    #[tokio::test]
    async fn the_last_clear_is_kept_only_where_everything_up_to_it_is_gone() {
        assert_eq!(reset(&used(), Some(601)).await.last_clear, 600);
        assert_eq!(reset(&used(), Some(600)).await.last_clear, 0);
        assert_eq!(reset(&used(), None).await.last_clear, 0);
    }

    #[tokio::test]
    async fn without_yes_nothing_is_written() {
        let broker = used();
        assert_eq!(begin_anew(&broker, &[], &mdt(), "b", Some(1), false).await.unwrap(), None);
        assert!(broker.states().is_empty());
    }

    #[test]
    fn a_used_topic_without_state_gets_a_first_one() {
        let tails = vec![vec![Some(stored(0, 50, 1, 700, false)), None]];
        let state = fresh_state(None, &tails, &[], &mdt(), "b", Some(3), 0);
        assert_eq!((state.number, state.incarnation, state.last_clear), (1, 2, 0));
    }
}
