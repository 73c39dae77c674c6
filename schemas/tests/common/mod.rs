//! Records of every shape, and a naive model of what they are in Avro. The model shares no code with the encoder.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use clbridge_schemas::avro::{ChangelogRecord, Entry, RenameSource, SchemaVersion, TypeSymbol};
use clbridge_schemas::lustre::{Fid, Nid, OwnedRename, Record, RecordType, Time, clfe};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub fn fid() -> impl Strategy<Value = Fid> {
    prop_oneof![
        1 => Just(Fid::ZERO),
        4 => (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(seq, oid, ver)| Fid { seq, oid, ver }),
        4 => (0x2_0000_0400..0x2_0000_0800u64, 1..0x2_0000u32)
            .prop_map(|(seq, oid)| Fid { seq, oid, ver: 0 }),
    ]
}

/// Bytes without NUL; half of them plain names, the rest mostly not UTF-8.
pub fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(b'a'..=b'z', 0..=max.min(24)),
        vec(1..=255u8, 0..=max),
        vec(prop_oneof![Just("é"), Just("ß"), Just("漢"), Just("x")], 0..=max / 4)
            .prop_map(|parts| parts.concat().into_bytes()),
    ]
}

pub fn nid() -> impl Strategy<Value = Nid> {
    let net = (
        prop_oneof![Just(2u16), Just(5), Just(9), Just(13), Just(14), Just(15), Just(16), 0..=255u16],
        prop_oneof![Just(0u16), any::<u16>()],
    );
    prop_oneof![
        Just(Nid::default()),
        Just(Nid::LO),
        (net, any::<u32>()).prop_map(|((t, n), a)| Nid::short(t, n, a)),
        any::<(u16, u128)>().prop_map(|(n, a)| Nid::ip(2, n, std::net::Ipv6Addr::from(a).into())),
        any::<(u16, u128)>().prop_map(|(n, a)| Nid::ip(5, n, std::net::Ipv6Addr::from(a).into())),
    ]
}

prop_compose! {
    fn rename()(sfid in fid(), spfid in fid(), sname in option::of(bytes(255).prop_filter("a name", |n| !n.is_empty())))
        -> OwnedRename {
        OwnedRename { sfid, spfid, sname }
    }
}

/// Any record that the layout can hold, all combinations of extensions.
pub fn record() -> impl Strategy<Value = Record> {
    let head = (
        1..=i64::MAX as u64,
        0..=RecordType::LARGEST,
        0..=i64::MAX,
        0..0x1000u16,
        any::<bool>(),
        fid(),
        fid(),
        bytes(255),
    );
    let extensions = (
        option::of(rename()),
        option::of(bytes(32)),
        option::of(any::<u64>()),
        option::of(any::<(u64, u64)>()),
        option::of(nid()),
        option::of(0..0x1000u32),
        option::of(bytes(255)),
    );
    (head, extensions).prop_map(|(h, e)| {
        let (index, rtype, time, flags, version, tfid, pfid, name) = h;
        let (rename, jobid, extra_flags, uid_gid, nid, open_mode, xattr) = e;
        let mut record = Record {
            index,
            rtype: RecordType(rtype),
            time: Time::from_nanos(time),
            flags,
            version,
            tfid,
            pfid,
            name,
            rename,
            jobid,
            extra_flags,
            uid_gid,
            nid,
            open_mode,
            xattr,
        };
        if record.nid.is_some_and(|n| n.is_large()) {
            // The old layout cannot hold it.
            record.extra_flags = Some(record.extra_flags.unwrap_or(0) | clfe::NID_BE);
        }
        normal(record)
    })
}

/// Without what the layout or the record's kind cannot carry, and with the flag bits that follow from the rest.
fn normal(mut r: Record) -> Record {
    if r.rtype == RecordType::MARK {
        r.tfid = Fid { seq: r.tfid.seq & 0xffff_ffff, oid: 0, ver: 0 };
        r.name.clear();
        if let Some(rename) = &mut r.rename {
            rename.sname = None;
        }
    }
    if r.name.is_empty() {
        r.pfid = Fid::ZERO;
    }
    let sized =
        [(r.uid_gid.is_some(), 0x1), (r.nid.is_some(), 0x2), (r.open_mode.is_some(), 0x4), (r.xattr.is_some(), 0x8)];
    let bits: u64 = sized.iter().map(|(there, bit)| if *there { *bit } else { 0 }).sum();
    r.extra_flags = match r.extra_flags {
        None if bits == 0 => None,
        given => Some(given.unwrap_or(0) & !0xf | bits),
    };
    r
}

pub fn entry() -> impl Strategy<Value = Entry> {
    (any::<u32>(), any::<[u64; 5]>(), any::<[i64; 3]>()).prop_map(|(mode, n, t)| Entry {
        mode,
        nlink: n[0],
        uid: n[1],
        gid: n[2],
        size: n[3],
        blocks: n[4],
        atime: Time::from_nanos(t[0]),
        mtime: Time::from_nanos(t[1]),
        ctime: Time::from_nanos(t[2]),
    })
}

pub fn version() -> impl Strategy<Value = SchemaVersion> {
    (0..5usize).prop_map(|n| SchemaVersion::ALL[n])
}

fn filled(bytes: Option<&Vec<u8>>) -> Option<String> {
    let bytes = bytes.filter(|b| !b.is_empty())?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn odd(bytes: Option<&Vec<u8>>) -> Option<Vec<u8>> {
    bytes.filter(|b| String::from_utf8((*b).clone()).is_err()).cloned()
}

/// What the record is in the newest version.
pub fn model(r: &Record, mdt: &str, incarnation: u32, path: Option<&str>, entry: Option<Entry>) -> ChangelogRecord {
    let name = Some(&r.name).filter(|n| !n.is_empty());
    let rename = r.rename.as_ref().filter(|s| s.sfid != Fid::ZERO);
    let symbol = r.rtype.name().unwrap_or("UNKNOWN");
    ChangelogRecord {
        mdt: mdt.to_owned(),
        index: r.index,
        incarnation,
        symbol: serde_json::from_value::<TypeSymbol>(symbol.into()).unwrap(),
        type_code: r.rtype.0,
        time: r.time,
        flags: r.flags,
        tfid: r.tfid,
        pfid: name.map(|_| r.pfid).filter(|p| *p != Fid::ZERO),
        name: filled(name),
        name_raw: odd(name),
        rename: rename.map(|s| RenameSource {
            sfid: s.sfid,
            spfid: s.spfid,
            sname: filled(s.sname.as_ref()),
            sname_raw: odd(s.sname.as_ref()),
        }),
        jobid: filled(r.jobid.as_ref()),
        extra_flags: r.extra_flags,
        uid: r.uid_gid.map(|u| u.0),
        gid: r.uid_gid.map(|u| u.1),
        nid: r.nid.filter(|n| *n != Nid::default()).map(|n| n.to_string()),
        open_mode: r.open_mode.map(|m| m as u16),
        xattr: filled(r.xattr.as_ref()),
        path: path.map(str::to_owned),
        entry,
        retracts: None,
    }
}

/// What is left of a record in a version.
pub fn cut(mut r: ChangelogRecord, version: SchemaVersion) -> ChangelogRecord {
    if version < SchemaVersion::V5 {
        (r.path, r.entry, r.retracts) = (None, None, None);
    }
    if version < SchemaVersion::V4 {
        (r.extra_flags, r.uid, r.gid, r.nid, r.open_mode, r.xattr) = Default::default();
    }
    if version < SchemaVersion::V3 {
        r.jobid = None;
    }
    if version < SchemaVersion::V2 {
        r.rename = None;
    }
    r
}
