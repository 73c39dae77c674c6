//! Statuses for the tests of those who show one.
#![allow(clippy::unwrap_used)]
use super::*;

/// One MDT that runs, one group that reads it.
pub(crate) fn one_running() -> BridgeStatus {
    BridgeStatus {
        instance: "bridge-a".into(),
        version: "0.1.0".into(),
        sink: "kafka".into(),
        uptime_s: 75.0,
        rss_bytes: 150 << 20,
        mdts: vec![MdtStatus {
            mdt: "fs-MDT0000".parse().unwrap(),
            phase: Phase::Running,
            user: "cl1".into(),
            read: 1500,
            published: 1490,
            durable: 1480,
            stable: 1450,
            cleared: 1400,
            acknowledged: 1470,
            incarnation: 1,
            crashes: 0,
            dropped: 12,
            gap_records: 0,
            read_per_s: 350.5,
            cleared_per_s: 349.0,
            backlog: 100,
            backlog_full_in_s: Some(7200.0),
            holding: Vec::new(),
            topics: vec!["lustre.fs-MDT0000".into()],
            groups: vec![GroupStatus {
                name: "robinhood".into(),
                topic: "lustre.fs-MDT0000".into(),
                floor: 1470,
                committed: vec![Some(10), None],
                lag_records: 20,
                lag_positions: 25,
                lag_s: 0.5,
                members: 3,
                released: 0,
                state: "active".into(),
                holding: None,
            }],
        }],
    }
}
