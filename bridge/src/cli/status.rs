//! `clbridge status`: asks the running bridge and shows its MDTs and groups.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::table::Table;
use crate::config::Config;
use crate::status::{BridgeStatus, Holding, MdtStatus, Phase};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the JSON that the bridge answers
    #[arg(long)]
    json: bool,
    /// The bridge's address; default: http.listen of the configuration
    #[arg(long, env = "CLBRIDGE_URL", value_name = "http://HOST:PORT")]
    url: Option<String>,
}

/// Exit status 0 even where something holds: `status` reports, `/readyz` judges.
pub(super) fn run(args: &Args, config: impl FnOnce() -> anyhow::Result<Arc<Config>>) -> anyhow::Result<ExitCode> {
    let base = match &args.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", config()?.http.listen),
    };
    let url = format!("{base}/status");
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build(),
    );
    let text = agent
        .get(&url)
        .call()
        .and_then(|mut answer| answer.body_mut().read_to_string())
        .with_context(|| format!("no answer from {url}; is `clbridge run` running there?"))?;
    let status: BridgeStatus =
        serde_json::from_str(&text).with_context(|| format!("what {url} answers is not a bridge's status"))?;
    if args.json {
        print!("{}", serde_json::to_string_pretty(&status)? + "\n");
    } else {
        print!("{}", render(&status));
    }
    Ok(ExitCode::SUCCESS)
}

/// The status as text for people.
fn render(status: &BridgeStatus) -> String {
    let mut out = format!(
        "clbridge {} · {} · {} · up {} · {} MiB\n\n",
        status.version,
        status.instance,
        status.sink,
        duration(status.uptime_s),
        status.rss_bytes >> 20
    );
    if status.mdts.is_empty() {
        out.push_str("No MDT was found: `clbridge check` says where it looks.\n");
        return out;
    }
    let mut mdts = Table::new(&[
        "MDT",
        "STATE",
        "USER",
        ">READ",
        ">PUBLISHED",
        ">DURABLE",
        ">ACKNOWL.",
        ">STABLE",
        ">CLEARED",
        ">BACKLOG",
        ">READ/S",
        ">CLEARED/S",
        ">INCARN.",
        ">FULL IN",
    ]);
    let mut groups =
        Table::new(&["GROUP", "MDT", "STATE", ">FLOOR", ">LAG", ">LAG TIME", ">OFFSETS", ">MEMBERS", "TOPIC"]);
    for mdt in &status.mdts {
        mdts.row(mdt_row(mdt));
        for group in &mdt.groups {
            groups.row(vec![
                group.name.clone(),
                mdt.mdt.to_string(),
                group.state.clone(),
                group.floor.to_string(),
                group.lag_records.to_string(),
                duration(group.lag_s),
                group.lag_positions.to_string(),
                group.members.to_string(),
                group.topic.clone(),
            ]);
        }
    }
    let _ = write!(out, "{mdts}");
    if !groups.is_empty() {
        let _ = write!(out, "\n{groups}");
    }
    let remarks = remarks(status);
    if !remarks.is_empty() {
        let _ = write!(out, "\n{remarks}");
    }
    out
}

fn mdt_row(mdt: &MdtStatus) -> Vec<String> {
    vec![
        mdt.mdt.to_string(),
        phase_word(&mdt.phase, !mdt.holding.is_empty()).to_owned(),
        mdt.user.clone(),
        mdt.read.to_string(),
        mdt.published.to_string(),
        mdt.durable.to_string(),
        mdt.acknowledged.to_string(),
        mdt.stable.to_string(),
        mdt.cleared.to_string(),
        mdt.backlog.to_string(),
        format!("{:.0}", mdt.read_per_s),
        format!("{:.0}", mdt.cleared_per_s),
        mdt.incarnation.to_string(),
        mdt.backlog_full_in_s.map_or_else(|| "-".to_owned(), duration),
    ]
}

fn phase_word(phase: &Phase, holding: bool) -> &'static str {
    match phase {
        Phase::Starting { .. } => "starting",
        Phase::Running if holding => "holding",
        Phase::Running => "running",
        Phase::Fenced { .. } => "fenced",
        Phase::Retrying { .. } => "retrying",
        Phase::Stopped { .. } => "stopped",
    }
}

/// Everything that is not as it should be, with what ends it.
fn remarks(status: &BridgeStatus) -> String {
    let mut out = String::new();
    for mdt in &status.mdts {
        let name = &mdt.mdt;
        let _ = match &mdt.phase {
            Phase::Running => Ok(()),
            Phase::Starting { step } => writeln!(out, "{name} is starting: {step}"),
            Phase::Fenced { owner } => writeln!(out, "{name} is fenced by {owner}: waiting until that bridge is gone"),
            Phase::Retrying { error } => writeln!(out, "{name} starts again by itself: {error}"),
            Phase::Stopped { error, command } => {
                writeln!(out, "{name} has stopped: {error}\n    ends with: {command}")
            }
        };
        for held in &mdt.holding {
            holding(&mut out, &format!("{name} clears nothing"), held);
        }
        for group in &mdt.groups {
            if let Some(held) = &group.holding {
                holding(&mut out, &format!("{} holds {name}", group.name), held);
            }
        }
        if mdt.gap_records > 0 {
            let _ =
                writeln!(out, "{name}: {} records were purged by the server before they were read", mdt.gap_records);
        }
        if mdt.crashes > 0 {
            let _ = writeln!(out, "{name}: {} MDT crashes with reused indexes were noticed and retracted", mdt.crashes);
        }
    }
    out
}

fn holding(out: &mut String, who: &str, held: &Holding) {
    let _ = writeln!(out, "{who} ({}): {}\n    ends with: {}", held.reason, held.text, held.command);
}

/// Two units at most, as people say it.
fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }
    let s = seconds.round() as u64;
    match s {
        0 if seconds > 0.0 => format!("{:.0}ms", seconds * 1000.0),
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86400, s % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::status::examples;

    #[test]
    fn the_table_shows_what_operators_ask_for() {
        let text = render(&examples::one_running());
        for word in
            ["bridge-a", "fs-MDT0000", "running", "cl1", "1500", "1400", "robinhood", "lustre.fs-MDT0000", "active"]
        {
            assert!(text.contains(word), "{word} in\n{text}");
        }
        assert!(!text.contains("ends with"), "{text}");
    }

    #[test]
    fn every_reason_comes_with_what_ends_it() {
        let mut status = examples::one_running();
        status.mdts[0].holding.push(Holding {
            reason: "no_groups".into(),
            text: "no persistent group takes this MDT".into(),
            command: "clbridge groups add NAME".into(),
        });
        status.mdts[0].groups[0].holding = Some(Holding {
            reason: "went_back".into(),
            text: "partition 3 went from 900 to 20".into(),
            command: "clbridge groups accept robinhood".into(),
        });
        let text = render(&status);
        assert!(text.contains("holding"), "{text}");
        assert!(text.contains("fs-MDT0000 clears nothing (no_groups): no persistent group takes this MDT\n    ends with: clbridge groups add NAME"), "{text}");
        assert!(
            text.contains("robinhood holds fs-MDT0000 (went_back)")
                && text.contains("ends with: clbridge groups accept robinhood"),
            "{text}"
        );
        status.mdts[0].phase =
            Phase::Stopped { error: "the changelog was reset".into(), command: "clbridge reset fs-MDT0000".into() };
        assert!(
            render(&status).contains("has stopped: the changelog was reset\n    ends with: clbridge reset fs-MDT0000")
        );
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (s, text) in [
            (0.0, "0s"),
            (0.25, "250ms"),
            (59.0, "59s"),
            (61.0, "1m01s"),
            (7260.0, "2h01m"),
            (90000.0, "1d01h"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(duration(s), text);
        }
    }
}
