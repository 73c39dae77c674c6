//! The status page: one self-contained document that loads itself again, without scripts.

use std::fmt::Write as _;

use crate::status::{BridgeStatus, Holding, MdtStatus, Phase};

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2>\
<meta name=viewport content='width=device-width'><title>clbridge</title><style>\
body{font:15px/1.4 system-ui,sans-serif;margin:2em;color:#222;background:#fff}\
table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#a40000;font-weight:600}.good{color:#1a6b1a}\
code{background:#eee;padding:.1em .3em}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}\
code{background:#333}th,td{border-color:#444}.bad{color:#ff7b72}.good{color:#7ee787}}</style>";

/// The page. Everything that comes from outside is escaped.
pub(super) fn render(status: &BridgeStatus) -> String {
    let mut out = format!(
        "{HEAD}<h1>clbridge</h1><p>{} · version {} · {} · up {:.0} s · {} MiB · \
         <a href=/status>JSON</a> · <a href=/metrics>metrics</a> · <a href=/schemas>schemas</a></p>",
        escape(&status.instance),
        escape(&status.version),
        escape(&status.sink),
        status.uptime_s,
        status.rss_bytes >> 20
    );
    heading(
        &mut out,
        &["MDT", "state"],
        &[
            "read",
            "published",
            "durable",
            "acknowledged",
            "stable",
            "cleared",
            "backlog",
            "read/s",
            "cleared/s",
            "incarnation",
        ],
    );
    for mdt in &status.mdts {
        mdt_row(&mut out, mdt);
    }
    out.push_str("</table>");
    heading(&mut out, &["group", "MDT", "topic", "state"], &["floor", "lag", "lag, s", "members"]);
    for mdt in &status.mdts {
        for group in &mdt.groups {
            let class = if group.holding.is_some() { "bad" } else { "good" };
            let _ = write!(
                out,
                "<tr><td>{}<td>{}<td>{}<td class={class}>{}<td class=n>{}<td class=n>{}<td class=n>{:.1}<td class=n>{}",
                escape(&group.name),
                mdt.mdt,
                escape(&group.topic),
                escape(&group.state),
                group.floor,
                group.lag_records,
                group.lag_s,
                group.members
            );
            if let Some(held) = &group.holding {
                reason(&mut out, held);
            }
        }
    }
    out.push_str("</table></html>\n");
    out
}

fn heading(out: &mut String, words: &[&str], numbers: &[&str]) {
    out.push_str("<table><tr>");
    for word in words {
        let _ = write!(out, "<th>{word}");
    }
    for word in numbers {
        let _ = write!(out, "<th class=n>{word}");
    }
}

fn mdt_row(out: &mut String, mdt: &MdtStatus) {
    let (class, text) = match &mdt.phase {
        Phase::Running if mdt.holding.is_empty() => ("good", "running".to_owned()),
        Phase::Running => ("bad", "holding".to_owned()),
        Phase::Starting { step } => ("", format!("starting: {step}")),
        Phase::Fenced { owner } => ("", format!("fenced by {owner}")),
        Phase::Retrying { error } => ("bad", format!("retrying: {error}")),
        Phase::Stopped { error, .. } => ("bad", format!("stopped: {error}")),
    };
    let _ = write!(out, "<tr><td>{}<td class='{class}'>{}", mdt.mdt, escape(&text));
    for n in [mdt.read, mdt.published, mdt.durable, mdt.acknowledged, mdt.stable, mdt.cleared, mdt.backlog] {
        let _ = write!(out, "<td class=n>{n}");
    }
    let _ = write!(
        out,
        "<td class=n>{:.0}<td class=n>{:.0}<td class=n>{}",
        mdt.read_per_s, mdt.cleared_per_s, mdt.incarnation
    );
    if let Phase::Stopped { command, .. } = &mdt.phase {
        let _ = write!(out, "<tr><td><td colspan=11>ends with <code>{}</code>", escape(command));
    }
    for held in &mdt.holding {
        reason(out, held);
    }
}

fn reason(out: &mut String, held: &Holding) {
    let _ = write!(
        out,
        "<tr><td><td colspan=11><b>{}</b>: {} · ends with <code>{}</code>",
        escape(&held.reason),
        escape(&held.text),
        escape(&held.command)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::examples;

    #[test]
    fn names_from_outside_cannot_become_markup_and_reasons_show_their_command() {
        let mut status = examples::one_running();
        status.mdts[0].groups[0].name = "<script>alert(1)</script>".into();
        status.mdts[0].holding.push(Holding {
            reason: "no_groups".into(),
            text: "a & b".into(),
            command: "clbridge groups add".into(),
        });
        let page = render(&status);
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
        assert!(page.contains("a &amp; b") && page.contains("<code>clbridge groups add</code>"));
        assert!(page.contains("http-equiv=refresh"));
    }
}
