//! Each command carried out on the MDTs that it names.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Command;
use crate::mask;
use crate::mdt::Mdt;
use crate::oracle::{self, Select};
use crate::server::Shared;
use crate::users::Errno;
use crate::workload::{self, Source};

fn targets(shared: &Shared, mdt: Option<&str>) -> io::Result<Vec<Arc<Mdt>>> {
    match mdt {
        None => Ok(shared.mdts.values().cloned().collect()),
        Some(name) => shared.mdts.get(name).cloned().map(|m| vec![m]).ok_or_else(|| {
            let known: Vec<&str> = shared.mdts.keys().map(String::as_str).collect();
            io::Error::new(io::ErrorKind::NotFound, format!("no MDT `{name}` here; there are {}", known.join(", ")))
        }),
    }
}

fn one(shared: &Shared, mdt: Option<&str>, what: &str) -> io::Result<Arc<Mdt>> {
    let mut all = targets(shared, mdt)?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{what}: say which MDT (`mdt`)"))),
    }
}

fn refused(result: Result<impl serde::Serialize, Errno>, what: &str) -> io::Result<Value> {
    match result {
        Ok(value) => Ok(json!(value)),
        Err(Errno(errno)) => {
            let error = io::Error::from_raw_os_error(errno);
            Err(io::Error::new(error.kind(), format!("{what}: {error}")))
        }
    }
}

/// Does `each` on every target at the same time (they may sleep) and collects the results by name.
fn together<T: serde::Serialize + Send>(
    mdts: &[Arc<Mdt>],
    each: impl Fn(&Arc<Mdt>) -> io::Result<T> + Sync,
) -> io::Result<Value> {
    let results: Vec<io::Result<T>> = std::thread::scope(|scope| {
        let each = &each;
        let running: Vec<_> = mdts.iter().map(|m| scope.spawn(move || each(m))).collect();
        running
            .into_iter()
            .map(|r| r.join().unwrap_or_else(|_| Err(io::Error::other("the command panicked"))))
            .collect()
    });
    let mut by_name = serde_json::Map::new();
    for (mdt, result) in mdts.iter().zip(results) {
        by_name.insert(mdt.name().to_owned(), json!(result?));
    }
    Ok(Value::Object(by_name))
}

pub(super) fn execute(shared: &Arc<Shared>, command: Command) -> io::Result<Value> {
    let all = |mdt: &Option<String>| targets(shared, mdt.as_deref());
    let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidInput, e);
    match command {
        Command::Mdts => Ok(json!(shared.mdts.keys().collect::<Vec<_>>())),
        Command::Stats { mdt } => together(&all(&mdt)?, |m| Ok(m.stats())),
        Command::Users { mdt, form } => {
            together(&all(&mdt)?, |m| Ok(json!({"text": m.users_text(form), "users": m.users()})))
        }
        Command::Register { mdt, name, mask } => {
            let mask = mask.as_deref().map(mask::parse).transpose().map_err(invalid)?;
            together(&all(&mdt)?, |m| refused(m.register(name.as_deref(), mask)?, "changelog_register"))
        }
        Command::Deregister { mdt, user, forced } => {
            together(&all(&mdt)?, |m| refused(m.deregister(&user, forced)?, "changelog_deregister"))
        }
        Command::Mask { mdt, mask, keep } => {
            let mask = mask::parse(&mask).map_err(invalid)?;
            together(&all(&mdt)?, |m| {
                m.set_mask(mask, keep);
                Ok(m.stats().mask)
            })
        }
        Command::Commit { mdt } => together(&all(&mdt)?, |m| {
            m.commit()?;
            Ok(m.stats().committed_index)
        }),
        Command::CommitInterval { mdt, ms } => together(&all(&mdt)?, |m| {
            m.set_commit_interval(Duration::from_millis(ms));
            Ok(ms)
        }),
        Command::Emit { plan, wait } => run(shared, Source::Plan(plan), all(&None)?, wait),
        Command::EmitStop => {
            shared.jobs.end();
            Ok(Value::Null)
        }
        Command::Replay { mdt, file, keep, loops, rate } => {
            let mdt = one(shared, mdt.as_deref(), "replay")?;
            run(
                shared,
                Source::Replay { file, keep, loops: loops.unwrap_or(1), rate: rate.unwrap_or(0) },
                vec![mdt],
                true,
            )
        }
        Command::Watch { mdt, dir } => {
            let mdt = one(shared, mdt.as_deref(), "watch")?;
            run(shared, Source::Watch(dir), vec![mdt], false)
        }
        Command::Crash { mdt, how } => {
            let names: Vec<String> = shared.mdts.keys().cloned().collect();
            together(&all(&mdt)?, |m| m.crash(&how, |count| workload::fresh(&names, m.name(), count)))
        }
        Command::Down { mdt, seconds, evict } => {
            let down = Duration::try_from_secs_f64(seconds).map_err(|e| invalid(format!("down for {seconds}: {e}")))?;
            together(&all(&mdt)?, |m| m.restart(down, evict))
        }
        Command::Fault { mdt, on, errno, times } => together(&all(&mdt)?, |m| m.fail(on, errno, times)),
        Command::Slow { mdt, delay_ms, records } => together(&all(&mdt)?, |m| {
            m.slow_reads(Duration::from_millis(delay_ms), records);
            Ok(())
        }),
        Command::Malform { mdt, index, how } => {
            one(shared, mdt.as_deref(), "malform")?.spoil(index, how).map(|()| Value::Null)
        }
        Command::ResetFaults { mdt } => together(&all(&mdt)?, |m| {
            m.reset_faults();
            Ok(())
        }),
        Command::Disconnect { mdt } => {
            all(&mdt)?;
            Ok(json!(shared.disconnect(mdt.as_deref())))
        }
        Command::Purge { mdt, upto } => one(shared, mdt.as_deref(), "purge")?.purge(upto).map(|()| Value::Null),
        Command::Reset { mdt, keep_users } => together(&all(&mdt)?, |m| m.reset(keep_users)),
        Command::Gc { mdt, limits } => together(&all(&mdt)?, |m| {
            m.set_gc(limits);
            Ok(())
        }),
        Command::AgeUsers { mdt, seconds } => together(&all(&mdt)?, |m| {
            m.age_users(Duration::from_secs(seconds));
            Ok(())
        }),
        Command::SeekCost { mdt, ns } => together(&all(&mdt)?, |m| {
            m.set_seek_cost(Duration::from_nanos(ns));
            Ok(())
        }),
        Command::Oracle { .. } => Err(io::Error::other("the oracle's export streams and is served elsewhere")),
    }
}

fn run(shared: &Arc<Shared>, source: Source, mdts: Vec<Arc<Mdt>>, wait: bool) -> io::Result<Value> {
    if wait {
        return Ok(json!(workload::run(&source, &mdts, &shared.jobs.ended())?));
    }
    shared.jobs.start(source, mdts)?;
    Ok(Value::Null)
}

/// Streams the oracle logs of the named MDTs; returns the number of lines.
pub(super) fn oracle(shared: &Shared, mdt: Option<&str>, select: Select, output: &mut impl Write) -> io::Result<u64> {
    let mut lines = 0;
    for mdt in targets(shared, mdt)? {
        lines += oracle::export(mdt.oracle_path(), mdt.name(), select, |line| writeln!(output, "{line}"))?;
    }
    Ok(lines)
}
