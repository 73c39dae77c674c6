//! What the model's contents stand for. A content is a number: the same index with other content has another one.

use clbridge::core::Settings;
use clbridge::core::clears::ClearSettings;
use clbridge::core::ledger::WithoutGroups;
use clbridge_schemas::avro::{Retracts, SchemaVersion};
use clbridge_schemas::ids::{Digest, MdtName, RecordId};
use clbridge_schemas::lustre::{Fid, RecordType, Time};
use clbridge_sinks::state::Retraction;
use std::time::Duration;

/// Milliseconds: how old a record has to be to become stable, and how often the MDT commits.
pub const MIN_AGE: u64 = 5_000;
pub const COMMIT_EVERY: u64 = 1_000;
/// Feeds: everything, and one that takes only some types.
pub const FEEDS: usize = 2;

/// Dropped by the model's module.
pub fn dropped(uid: u64) -> bool {
    uid.is_multiple_of(10)
}

/// Whether a feed takes it.
pub fn takes(feed: usize, uid: u64) -> bool {
    !dropped(uid) && (feed == 0 || uid.is_multiple_of(3))
}

pub fn partition_of(uid: u64, partitions: usize) -> usize {
    (uid.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % partitions
}

fn time(uid: u64) -> Time {
    Time::from_nanos(i64::try_from(uid).unwrap())
}

fn fid(uid: u64) -> Fid {
    Fid { seq: uid, oid: 0, ver: 0 }
}

/// The digest that [`head`] gives for this content.
pub fn digest(index: u64, uid: u64) -> Digest {
    Digest::of(index, RecordType(1), time(uid), fid(uid))
}

pub fn head(id: RecordId, uid: u64, retracts: Option<Retraction>) -> clbridge_sinks::topic::Head {
    clbridge_sinks::topic::Head::of(&clbridge_schemas::avro::Head {
        version: SchemaVersion::V5,
        mdt: "sim-MDT0000",
        index: id.index.get(),
        incarnation: id.incarnation,
        type_code: 1,
        time: time(uid),
        tfid: fid(uid),
        retracts: retracts.map(|r| Retracts { incarnation: r.incarnation - 1, from: r.from, to: r.to }),
    })
    .unwrap()
}

pub fn mdt_name() -> MdtName {
    "sim-MDT0000".parse().unwrap()
}

pub fn settings(without_groups: WithoutGroups) -> Settings {
    let ms = Duration::from_millis;
    Settings {
        min_age: ms(MIN_AGE),
        clears: ClearSettings {
            batch: 50,
            every: ms(300),
            heartbeat: ms(60_000),
            state_fresh: ms(2_000),
            retry: ms(1_000),
        },
        without_groups,
        state_every: ms(2_000),
        answers_fresh: ms(10_000),
        reads: 64,
    }
}
