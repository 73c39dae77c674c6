//! The kernel's layout: every record survives the round trip, every malformed one names where.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use clbridge_schemas::ids::MdtName;
use clbridge_schemas::key::{KeyKind, key};
use clbridge_schemas::lustre::{
    Fid, Generation, MAX_RECORD, Nid, OwnedRename, Record, RecordErrorKind, RecordType, Time, View, clf, clfe, records,
    remap,
};
use clbridge_schemas::text;
use common::record;
use proptest::prelude::*;

const FID: Fid = Fid { seq: 0x2_0000_0401, oid: 5, ver: 0 };
const OTHER: Fid = Fid { seq: 0x2_0000_0401, oid: 6, ver: 0 };
const PARENT: Fid = Fid { seq: 0x2_0000_0007, oid: 1, ver: 0 };

/// A rename with everything that a record can have.
fn full() -> Record {
    let mut record = Record::new(41, RecordType::RENME, Time::from_nanos(1_795_367_193_495_754_041), Fid::ZERO);
    record.flags = 1;
    record.pfid = PARENT;
    record.name = vec![b'n'; 255];
    record.rename = Some(OwnedRename { sfid: FID, spfid: OTHER, sname: Some(vec![b'o'; 255]) });
    record.jobid = Some(b"mv.0".to_vec());
    record.extra_flags = Some(clfe::NID_BE);
    record.uid_gid = Some((1001, 100));
    record.nid = Some("fd00:9::2@tcp9".parse().unwrap());
    record.open_mode = Some(2);
    record.xattr = Some(b"user.color".to_vec());
    record
}

fn bytes(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.write(&mut out).unwrap();
    out
}

fn read(bytes: &[u8]) -> Record {
    Record::from_view(View::new(bytes, 0).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_written_reads_back_as_it_was(record in record()) {
        let raw = bytes(&record);
        prop_assert!(raw.len() <= MAX_RECORD);
        prop_assert_eq!(read(&raw), record);
    }

    #[test]
    fn a_stream_cut_anywhere_goes_on_with_the_next_read(
        all in prop::collection::vec(record(), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        // Given some records, of which the first read ends anywhere
        let stream: Vec<u8> = all.iter().flat_map(bytes).collect();
        let cut = cut.index(stream.len());
        let mut first = records(&stream[..cut], 0);
        let mut got: Vec<_> = first.by_ref().map(|v| Record::from_view(v.unwrap())).collect();
        prop_assert_eq!(first.finish().is_ok(), first.rest().is_empty());
        // when the partial tail is put before the next read
        let second = [first.rest(), &stream[cut..]].concat();
        got.extend(records(&second, first.offset()).map(|v| Record::from_view(v.unwrap())));
        // then nothing is lost and nothing comes twice.
        prop_assert_eq!(got, all);
    }

    #[test]
    fn any_bytes_are_an_error_or_records_that_can_be_written(
        record in record(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut raw = bytes(&record);
        for (at, value) in damage {
            let at = at.index(raw.len());
            raw[at] = value;
        }
        let mut at = 0;
        for item in records(&raw, 0) {
            match item {
                Ok(view) => {
                    at += view.bytes().len() as u64;
                    let again = bytes(&Record::from_view(view));
                    prop_assert_eq!(View::new(&again, 0).unwrap(), view);
                }
                Err(error) => prop_assert_eq!(error.offset, at),
            }
        }
    }

    #[test]
    fn a_record_remapped_to_everything_and_back_has_lost_nothing(record in record()) {
        let raw = bytes(&record);
        let view = View::new(&raw, 0).unwrap();
        let mut wide = Vec::new();
        remap(&view, 0xf000, clfe::SIZED | clfe::NID_BE, &mut wide);
        let mapped = View::new(&wide, 0).unwrap();
        let mut narrow = Vec::new();
        remap(&mapped, view.raw_flags(), view.extra_flags().unwrap_or(0), &mut narrow);
        let mut back = read(&narrow);
        // Bits of newer servers are dropped: nobody can ask for them.
        back.extra_flags = back.extra_flags.map(|_| record.extra_flags.unwrap());
        prop_assert_eq!(back, record);
    }
}

#[test]
fn the_longest_record_is_the_constants_length() {
    assert_eq!(bytes(&full()).len(), MAX_RECORD);
    assert_eq!(MAX_RECORD, 947);
}

#[test]
fn each_flaw_is_an_error_with_index_and_offset() {
    use RecordErrorKind as Kind;
    let good = bytes(&full());
    let mut plain = full();
    plain.rename = None;
    let plain = bytes(&plain);
    // (the record, where it is damaged, with what, what is then wrong)
    let cases: [(&[u8], usize, &[u8], Kind); 11] = [
        (&good, 4, &[64, 0, 0, 0], Kind::Type(64)),
        (&good, 8, &[0; 8], Kind::Index(0)),
        (&good, 8, &[0xff; 8], Kind::Index(u64::MAX)),
        (&good, 24, &[0xff; 8], Kind::Time(u64::MAX)),
        (&good, 0, &512u16.to_le_bytes(), Kind::NameTooLong { length: 512, max: 511 }),
        (&plain, 0, &256u16.to_le_bytes(), Kind::NameTooLong { length: 256, max: 255 }),
        (&good, 64 + 32 + 32 + 8 + 16, &[13], Kind::Nid(13)),
        (&plain, plain.len() - 3, &[0], Kind::NulInName { at: 252 }),
        (&good, good.len() - 1, &[0], Kind::NulInName { at: 510 }),
        (&good, good.len() - 256, b"x", Kind::NameTooLong { length: 511, max: 255 }),
        (&good, 0, &510u16.to_le_bytes(), Kind::Trailing { extra: 1 }),
    ];
    for (record, at, damage, kind) in cases {
        let mut raw = record.to_vec();
        raw[at..at + damage.len()].copy_from_slice(damage);
        let error = View::new(&raw, 7000).unwrap_err();
        assert_eq!((error.offset, error.kind), (7000, kind));
        let index = if let Kind::Index(index) = kind { index } else { 41 };
        assert_eq!(error.index, Some(index));
        assert!(error.to_string().contains("at byte 7000"), "{error}");
        // The iteration says the same behind a good record, and then ends.
        if !matches!(kind, Kind::Trailing { .. }) {
            let stream = [&good[..], &raw].concat();
            let mut walk = records(&stream, 0);
            assert!(walk.next().unwrap().is_ok());
            let error = walk.next().unwrap().unwrap_err();
            assert_eq!((error.offset, error.kind), (MAX_RECORD as u64, kind));
            assert!(walk.next().is_none());
        }
    }
}

#[test]
fn a_record_cut_off_anywhere_is_incomplete_and_says_what_it_needs() {
    let good = bytes(&full());
    for have in 0..good.len() {
        let error = View::new(&good[..have], 0).unwrap_err();
        let RecordErrorKind::Truncated { need, have: seen } = error.kind else {
            panic!("{error}");
        };
        assert_eq!(seen, have);
        assert!(need > have && need <= good.len());
        assert_eq!(error.index, (have >= 64).then_some(41));
    }
}

#[test]
fn unknown_types_and_extra_flags_of_newer_servers_are_records() {
    let mut record = full();
    record.rtype = RecordType(25);
    record.extra_flags = Some(0x8000_0000_0000_0020 | clfe::NID_BE);
    let raw = bytes(&record);
    let view = View::new(&raw, 0).unwrap();
    assert_eq!(view.rtype().name(), None);
    assert_eq!(view.extra_flags(), Some(0x8000_0000_0000_003f));
    assert_eq!(text::json(&view)["type"], "UNKNOWN");
    assert_eq!(text::json(&view)["type_code"], 25);
}

#[test]
fn what_the_layout_cannot_hold_is_refused_and_leaves_the_buffer_alone() {
    type Damage = fn(&mut Record);
    let cases: [(&str, Damage); 10] = [
        ("an index is", |r| r.index = 0),
        ("an index is", |r| r.index = u64::MAX),
        ("type", |r| r.rtype = RecordType(64)),
        ("time", |r| r.time = Time::from_nanos(-1)),
        ("name", |r| r.name = vec![b'n'; 256]),
        ("name", |r| r.name = b"a\0b".to_vec()),
        ("source name", |r| r.rename.as_mut().unwrap().sname = Some(vec![b'n'; 256])),
        ("jobid", |r| r.jobid = Some(vec![b'j'; 33])),
        ("xattr", |r| r.xattr = Some(vec![b'x'; 257])),
        ("NID", |r| r.nid = Some(Nid::short(256, 0, 1))),
    ];
    for (what, damage) in cases {
        let mut record = full();
        damage(&mut record);
        let mut out = b"before".to_vec();
        let error = record.write(&mut out).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(out, b"before");
    }
}

#[test]
fn each_generation_emits_what_its_servers_wrote() {
    let emit = |generation| {
        let (first, second) = full().downgrade(generation);
        let reread = |r: Record| read(&bytes(&r));
        (reread(first), second.map(reread))
    };
    let mut expected = full();
    assert_eq!(emit(Generation::L2_16), (read(&bytes(&expected)), None));
    // 2.11: a large NID is all zero.
    let (record, _) = emit(Generation::L2_11);
    assert_eq!(record.extra_flags, Some(0x0f));
    assert_eq!(record.nid, Some(Nid::default()));
    // 2.7: job id, nothing behind it.
    (expected.extra_flags, expected.uid_gid, expected.nid) = (None, None, None);
    (expected.open_mode, expected.xattr) = (None, None);
    assert_eq!(emit(Generation::L2_7), (expected.clone(), None));
    // 2.4: the rename extension only.
    expected.jobid = None;
    assert_eq!(emit(Generation::L2_4), (expected, None));
    // 2.0: a pair.
    let (source, target) = emit(Generation::L2_0);
    let target = target.unwrap();
    assert_eq!((source.index, source.rtype), (41, RecordType::RENME));
    assert_eq!((source.tfid, source.pfid), (FID, OTHER));
    assert_eq!((source.name, source.rename), (vec![b'o'; 255], None));
    assert_eq!((target.index, target.rtype), (42, RecordType::RNMTO));
    assert_eq!((target.tfid, target.pfid), (Fid::ZERO, PARENT));
    assert_eq!((target.name, target.rename), (vec![b'n'; 255], None));
    // What is no rename stays one record.
    let mut create = full();
    (create.rtype, create.rename) = (RecordType::CREAT, None);
    assert!(create.downgrade(Generation::L2_0).1.is_none());
}

#[test]
fn a_remap_drops_what_is_not_wanted_and_fills_what_is_with_zeroes() {
    let raw = bytes(&full());
    let view = View::new(&raw, 0).unwrap();
    let mut out = Vec::new();
    // Nothing wanted: head and name; the old name goes with the rename.
    remap(&view, clf::VERSION, u64::MAX, &mut out);
    let bare = View::new(&out, 0).unwrap();
    assert_eq!(bare.bytes().len(), 64 + 255);
    assert_eq!((bare.raw_flags(), bare.name()), (0x1001, view.name()));
    // Wanted but not there: zeroes.
    let mut wide = Vec::new();
    let all = clf::VERSION | clf::RENAME | clf::JOBID | clf::EXTRA_FLAGS;
    remap(&bare, all, clfe::SIZED, &mut wide);
    let filled = View::new(&wide, 0).unwrap();
    assert_eq!(filled.jobid(), Some(&b""[..]));
    assert_eq!((filled.uid_gid(), filled.open_mode()), (Some((0, 0)), Some(0)));
    assert!(filled.nid().unwrap().is_zero() && filled.rename().unwrap().sfid.is_zero());
    // The old NID layout has no room for IPv6.
    wide.clear();
    remap(&view, all, clfe::NID, &mut wide);
    assert!(View::new(&wide, 0).unwrap().nid().unwrap().is_zero());
}

#[test]
fn a_parent_is_given_only_where_the_kernel_can_be_trusted() {
    let with = |rtype, name: &[u8]| {
        let mut record = full();
        (record.rtype, record.rename, record.name) = (rtype, None, name.to_vec());
        let raw = bytes(&record);
        let view = View::new(&raw, 0).unwrap();
        assert_eq!(view.pfid_raw(), PARENT);
        (view.parent(), view.name().map(<[u8]>::to_vec))
    };
    assert_eq!(with(RecordType::CREAT, b"f"), (Some(PARENT), Some(b"f".to_vec())));
    assert_eq!(with(RecordType::CLOSE, b""), (None, None));
    assert_eq!(with(RecordType::MARK, b"P\x01"), (None, None));
}

#[test]
fn keys_are_the_renamed_object_the_parent_the_mdt_or_the_job() {
    let mdt: MdtName = "lustre-MDT0000".parse().unwrap();
    let key_of = |kind, record: &Record| {
        let raw = bytes(record);
        let mut out = Vec::new();
        key(kind, &View::new(&raw, 0).unwrap(), &mdt, &mut out);
        String::from_utf8(out).unwrap()
    };
    let rename = full();
    assert_eq!(key_of(KeyKind::Object, &rename), FID.to_string());
    assert_eq!(key_of(KeyKind::Parent, &rename), PARENT.to_string());
    assert_eq!(key_of(KeyKind::Mdt, &rename), "lustre-MDT0000");
    assert_eq!(key_of(KeyKind::Jobid, &rename), "mv.0");
    assert_eq!(key_of(KeyKind::None, &rename), "");
    let mut close = Record::new(1, RecordType::CLOSE, Time::default(), OTHER);
    assert_eq!(key_of(KeyKind::Object, &close), OTHER.to_string());
    assert_eq!(key_of(KeyKind::Parent, &close), OTHER.to_string());
    assert_eq!(key_of(KeyKind::Jobid, &close), OTHER.to_string());
    close.rtype = RecordType::MARK;
    assert_eq!(key_of(KeyKind::Object, &close), "lustre-MDT0000");
}
