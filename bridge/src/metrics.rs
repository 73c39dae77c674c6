//! Prometheus metrics, made from [`BridgeStatus`] at each scrape, so that they never say anything else than `status`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::status::{BridgeStatus, GroupStatus, MdtStatus, Phase};

/// The media type of what [`text`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// A number of an MDT: name, help, value.
type MdtGauge = (&'static str, &'static str, fn(&MdtStatus) -> f64);
/// A number of a group on an MDT: name, help, value.
type GroupGauge = (&'static str, &'static str, fn(&GroupStatus) -> f64);

const MDT_INDEXES: &[MdtGauge] = &[
    ("mdt_read_index", "Newest index read", |m| m.read as f64),
    ("mdt_published_index", "Newest index with a verdict", |m| m.published as f64),
    ("mdt_durable_index", "Every record up to here is durable in the broker, or was dropped", |m| m.durable as f64),
    ("mdt_acknowledged_index", "Every group has acknowledged up to here", |m| m.acknowledged as f64),
    ("mdt_stable_index", "An MDT crash cannot take back records up to here", |m| m.stable as f64),
    ("mdt_cleared_index", "Highest clear that returned", |m| m.cleared as f64),
    ("mdt_incarnation", "Current incarnation", |m| f64::from(m.incarnation)),
    ("mdt_backlog_records", "Records read and not yet cleared", |m| m.backlog as f64),
    ("mdt_read_records_per_second", "Records read a second, over the last ten seconds", |m| m.read_per_s),
    ("mdt_cleared_records_per_second", "Records cleared a second, over the last ten seconds", |m| m.cleared_per_s),
];

const GROUP_GAUGES: &[GroupGauge] = &[
    ("group_floor_index", "Every record up to here is done for this group", |g| g.floor as f64),
    ("group_lag_records", "Records published and not acknowledged", |g| g.lag_records as f64),
    ("group_lag_positions", "Positions, holes included, between committed and end", |g| g.lag_positions as f64),
    ("group_released_index", "Its policy has let the MDT forget up to here; 0: never", |g| g.released as f64),
    ("group_members", "Live members", |g| g.members as f64),
];

/// All metrics in OpenMetrics text.
#[must_use]
pub fn text(status: &BridgeStatus) -> String {
    let mut registry = Registry::with_prefix("clbridge");
    bridge(&mut registry, status);
    mdts(&mut registry, status);
    groups(&mut registry, status);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut out, &registry);
    out
}

fn mdt_labels(mdt: &MdtStatus) -> Labels {
    vec![("mdt", mdt.mdt.to_string())]
}

fn group_labels(mdt: &MdtStatus, group: &GroupStatus) -> Labels {
    vec![("mdt", mdt.mdt.to_string()), ("group", group.name.clone()), ("topic", group.topic.clone())]
}

fn bridge(registry: &mut Registry, status: &BridgeStatus) {
    let info = Gauges::default();
    info.get_or_create(&vec![
        ("version", status.version.clone()),
        ("instance_name", status.instance.clone()),
        ("sink", status.sink.clone()),
    ])
    .set(1.0);
    registry.register("build_info", "Version, name and sink of this bridge", info);
    let uptime = Gauge::<f64, AtomicU64>::default();
    uptime.set(status.uptime_s);
    registry.register_with_unit("uptime", "Time since the start", Unit::Seconds, uptime);
    let memory = Gauge::<f64, AtomicU64>::default();
    memory.set(status.rss_bytes as f64);
    registry.register_with_unit("resident_memory", "Resident memory", Unit::Bytes, memory);
}

fn mdts(registry: &mut Registry, status: &BridgeStatus) {
    for (name, help, value) in MDT_INDEXES {
        let family = Gauges::default();
        for mdt in &status.mdts {
            family.get_or_create(&mdt_labels(mdt)).set(value(mdt));
        }
        registry.register(*name, *help, family);
    }
    let (crashes, dropped, gaps) = (Counters::default(), Counters::default(), Counters::default());
    let (full, phase, holding) = (Gauges::default(), Gauges::default(), Gauges::default());
    for mdt in &status.mdts {
        let labels = mdt_labels(mdt);
        crashes.get_or_create(&labels).inc_by(mdt.crashes);
        dropped.get_or_create(&labels).inc_by(mdt.dropped);
        gaps.get_or_create(&labels).inc_by(mdt.gap_records);
        if let Some(seconds) = mdt.backlog_full_in_s {
            full.get_or_create(&labels).set(seconds);
        }
        for name in PHASES {
            let mut labels = labels.clone();
            labels.push(("phase", (*name).to_owned()));
            phase.get_or_create(&labels).set(if *name == phase_name(&mdt.phase) { 1.0 } else { 0.0 });
        }
        for held in &mdt.holding {
            let mut labels = labels.clone();
            labels.push(("reason", held.reason.clone()));
            holding.get_or_create(&labels).set(1.0);
        }
    }
    registry.register("mdt_crashes", "MDT crashes with reused indexes noticed since the start", crashes);
    registry.register("mdt_dropped_records", "Records dropped by modules since the start", dropped);
    registry.register("mdt_gap_records", "Records known to be missing", gaps);
    registry.register_with_unit("mdt_backlog_full", "Time until the backlog reaches its limit", Unit::Seconds, full);
    registry.register("mdt_phase", "1 for what the MDT's pipeline is doing", phase);
    registry.register("mdt_holding", "1 for each reason why nothing is cleared", holding);
}

fn groups(registry: &mut Registry, status: &BridgeStatus) {
    let all = || status.mdts.iter().flat_map(|mdt| mdt.groups.iter().map(move |group| (mdt, group)));
    for (name, help, value) in GROUP_GAUGES {
        let family = Gauges::default();
        for (mdt, group) in all() {
            family.get_or_create(&group_labels(mdt, group)).set(value(group));
        }
        registry.register(*name, *help, family);
    }
    let (lag, holding) = (Gauges::default(), Gauges::default());
    for (mdt, group) in all() {
        lag.get_or_create(&group_labels(mdt, group)).set(group.lag_s);
        if let Some(held) = &group.holding {
            let mut labels = group_labels(mdt, group);
            labels.push(("reason", held.reason.clone()));
            holding.get_or_create(&labels).set(1.0);
        }
    }
    registry.register_with_unit("group_lag", "Age of the oldest record not acknowledged", Unit::Seconds, lag);
    registry.register("group_holding", "1 where a group holds, with its reason", holding);
}

const PHASES: &[&str] = &["starting", "running", "fenced", "retrying", "stopped"];

fn phase_name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Starting { .. } => "starting",
        Phase::Running => "running",
        Phase::Fenced { .. } => "fenced",
        Phase::Retrying { .. } => "retrying",
        Phase::Stopped { .. } => "stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Holding, examples};

    #[test]
    fn metrics_say_what_status_says() {
        let mut status = examples::one_running();
        status.mdts[0].groups[0].holding =
            Some(Holding { reason: "went_back".into(), text: String::new(), command: String::new() });
        let text = text(&status);
        for line in [
            "clbridge_mdt_cleared_index{mdt=\"fs-MDT0000\"} 1400.0",
            "clbridge_mdt_dropped_records_total{mdt=\"fs-MDT0000\"} 12",
            "clbridge_mdt_backlog_full_seconds{mdt=\"fs-MDT0000\"} 7200.0",
            "clbridge_mdt_phase{mdt=\"fs-MDT0000\",phase=\"running\"} 1.0",
            "clbridge_mdt_phase{mdt=\"fs-MDT0000\",phase=\"stopped\"} 0.0",
            "clbridge_group_lag_records{mdt=\"fs-MDT0000\",group=\"robinhood\",topic=\"lustre.fs-MDT0000\"} 20.0",
            "clbridge_group_lag_seconds{mdt=\"fs-MDT0000\",group=\"robinhood\",topic=\"lustre.fs-MDT0000\"} 0.5",
            "clbridge_group_holding{mdt=\"fs-MDT0000\",group=\"robinhood\",topic=\"lustre.fs-MDT0000\",reason=\"went_back\"} 1.0",
            "clbridge_uptime_seconds 75.0",
            "clbridge_resident_memory_bytes 157286400.0",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
