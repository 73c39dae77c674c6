//! The roles in which this program starts itself: what the bridge is compared with, each a process of its own.
//!
//! A child prints `ready` when everything but the measured part is done, begins at a line on its standard input,
//! prints `at N` as it goes on and `done` at its end, and stays until its input ends, so that its CPU can be read.

use std::io::Write;

use anyhow::{Context, Result, bail};

use crate::process::line;
use crate::{amqp, bare, base_producer, discard, files, nats};

/// Carries out a role.
pub fn run(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["kafka.bare", sim, records, brokers, topic, id] => bare::rate(sim, records.parse()?, brokers, topic, id),
        ["kafka.baseproducer", sim, records, brokers, topic, id] => {
            base_producer::rate(sim, records.parse()?, brokers, topic, id)
        }
        ["paced", sim, brokers, topic, rate, seconds] => {
            bare::paced(sim, brokers, topic, rate.parse()?, seconds.parse()?)
        }
        [role @ ("nats.bare" | "nats.chained"), sim, records, url, name] => {
            nats::rate(sim, records.parse()?, url, name, role == "nats.chained")
        }
        ["amqp.bare" | "amqp.packed.bare", sim, records, uri, name, per_message] => {
            amqp::rate(sim, records.parse()?, uri, name, per_message.parse()?)
        }
        ["files.bare", sim, records, path] => files::rate(sim, records.parse()?, path),
        ["discard", sim] => discard::run(sim),
        _ => bail!("no such role: {}", words.join(" ")),
    }
}

/// Tells the parent something.
pub fn say(what: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}")?;
    out.flush().context("the parent does not listen")
}

/// Waits for the word to begin.
pub fn ready() -> Result<()> {
    say("ready")?;
    line(&mut std::io::stdin().lock()).map(drop)
}

/// Stays until the parent has read what it wants.
pub fn done() -> Result<()> {
    say("done")?;
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).map(drop).context("standard input")
}
