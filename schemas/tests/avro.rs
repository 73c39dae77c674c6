//! The encoder against apache-avro's writer, and every version against every other through apache-avro's resolution.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::num::NonZeroU64;
use std::sync::LazyLock;

use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value;
use apache_avro::{Schema, from_avro_datum, from_value, to_avro_datum, to_value};
use clbridge_schemas::avro::{
    Additions, ChangelogRecord, DecodeErrorKind, Encoder, Framing, Head, Retraction, Retracts, SchemaVersion,
    TypeSymbol, fingerprint, schema_json,
};
use clbridge_schemas::ids::{MdtName, RecordId};
use clbridge_schemas::lustre::{Time, View};
use common::{cut, entry, model, record, version};
use proptest::option;
use proptest::prelude::*;

const MDT: &str = "lustre-MDT0001";

static SCHEMAS: LazyLock<Vec<Schema>> =
    LazyLock::new(|| SchemaVersion::ALL.map(|v| Schema::parse_str(schema_json(v)).unwrap()).to_vec());

fn schema(v: SchemaVersion) -> &'static Schema {
    &SCHEMAS[usize::from(v.number()) - 1]
}

/// apache-avro's own bytes for a record in a version.
fn theirs(record: &ChangelogRecord, v: SchemaVersion) -> Vec<u8> {
    let value = to_value(record).unwrap().resolve(schema(v)).unwrap();
    to_avro_datum(schema(v), value).unwrap()
}

fn read(mut body: &[u8], writer: SchemaVersion, reader: SchemaVersion) -> ChangelogRecord {
    let value: Value = from_avro_datum(schema(writer), &mut body, Some(schema(reader))).unwrap();
    assert!(body.is_empty());
    from_value(&value).unwrap()
}

fn mdt() -> MdtName {
    MDT.parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_encoder_writes_the_bytes_that_apache_avro_writes(
        record in record(),
        incarnation in any::<u32>(),
        path in option::of(".{0,40}"),
        entry in option::of(entry()),
        v in version(),
        id in option::of(any::<u32>()),
    ) {
        // Given a record as the kernel hands it out
        let mut raw = Vec::new();
        record.write(&mut raw).unwrap();
        let view = View::new(&raw, 0).unwrap();
        // when it is encoded
        let framing = id.map_or(Framing::SingleObject, |id| Framing::Confluent { id });
        let additions = Additions { path: path.as_deref(), entry: entry.as_ref() };
        let mut payload = b"before".to_vec();
        Encoder::new(&mdt(), v, framing).encode(&view, incarnation, additions, &mut payload);
        let payload = payload.strip_prefix(b"before").unwrap();
        // then the body is apache-avro's own, behind the framing,
        let expected = model(&record, MDT, incarnation, path.as_deref(), entry);
        let head: Vec<u8> = match id {
            None => [&[0xc3, 0x01], fingerprint(v).as_slice()].concat(),
            Some(id) => [&[0], id.to_be_bytes().as_slice()].concat(),
        };
        prop_assert_eq!(payload, [head.as_slice(), &theirs(&expected, v)].concat());
        // and our own decoders read it back, whichever framing says the version.
        let expected = cut(expected, v);
        prop_assert_eq!(ChangelogRecord::decode_versioned(payload), Ok((expected, v)));
        let head = Head::decode(payload).unwrap();
        prop_assert_eq!((head.version, head.mdt, head.index), (v, MDT, view.index()));
        prop_assert_eq!((head.incarnation, head.digest()), (incarnation, view.digest()));
    }

    #[test]
    fn every_version_reads_every_other_through_apache_avro(
        record in record(),
        path in option::of(".{0,40}"),
        entry in option::of(entry()),
    ) {
        let full = model(&record, MDT, 3, path.as_deref(), entry);
        for writer in SchemaVersion::ALL {
            let body = theirs(&full, writer);
            for reader in SchemaVersion::ALL {
                let expected = cut(full.clone(), writer.min(reader));
                prop_assert_eq!(read(&body, writer, reader), expected);
            }
        }
    }

    #[test]
    fn a_record_goes_through_json_and_back(record in record(), entry in option::of(entry())) {
        let full = model(&record, MDT, 1, None, entry);
        let text = serde_json::to_string(&full).unwrap();
        prop_assert_eq!(serde_json::from_str::<ChangelogRecord>(&text).unwrap(), full);
    }

    #[test]
    fn a_damaged_payload_is_an_error_or_a_record_and_never_a_panic(
        record in record(),
        v in version(),
        cut in any::<prop::sample::Index>(),
        flip in any::<(prop::sample::Index, u8)>(),
    ) {
        let mut raw = Vec::new();
        record.write(&mut raw).unwrap();
        let mut payload = Vec::new();
        Encoder::new(&mdt(), v, Framing::SingleObject)
            .encode(&View::new(&raw, 0).unwrap(), 0, Additions::default(), &mut payload);
        // A payload that was cut off is never taken for a record,
        prop_assert!(Head::decode(&payload[..cut.index(payload.len())]).is_err());
        // more bytes than one record are an error,
        payload.push(0);
        let trailing = Head::decode(&payload).unwrap_err();
        prop_assert_eq!((trailing.kind, trailing.offset), (DecodeErrorKind::Trailing, payload.len() - 1));
        payload.pop();
        // and any other damage is at worst another record.
        let at = flip.0.index(payload.len());
        payload[at] ^= flip.1;
        prop_assert_eq!(Head::decode(&payload).is_ok(), ChangelogRecord::decode(&payload).is_ok());
    }
}

#[test]
fn apache_avro_calls_every_pair_of_versions_compatible_both_ways() {
    for a in SchemaVersion::ALL {
        for b in SchemaVersion::ALL {
            SchemaCompatibility::mutual_read(schema(a), schema(b)).unwrap();
        }
    }
}

#[test]
fn a_retraction_is_a_mark_that_says_what_is_void() {
    let void = Retracts { incarnation: 4, from: 222_874, to: 222_882 };
    let retraction = Retraction {
        at: RecordId::new(5, NonZeroU64::new(222_874).unwrap()),
        time: Time::from_nanos(1_795_367_193_495_754_041),
        void,
    };
    let expected = ChangelogRecord {
        mdt: MDT.to_owned(),
        index: 222_874,
        incarnation: 5,
        symbol: TypeSymbol::Mark,
        time: retraction.time,
        retracts: Some(void),
        ..ChangelogRecord::default()
    };
    for v in SchemaVersion::ALL {
        let mut payload = Vec::new();
        Encoder::new(&mdt(), v, Framing::SingleObject).encode_retraction(&retraction, &mut payload);
        assert_eq!(payload[10..], theirs(&expected, v), "version {v}");
        let head = Head::decode(&payload).unwrap();
        assert_eq!(head.retracts, (v == SchemaVersion::V5).then_some(void));
        assert_eq!(ChangelogRecord::decode(&payload).unwrap(), cut(expected.clone(), v));
    }
}

#[test]
fn what_is_no_record_of_ours_says_why() {
    let kind = |payload: &[u8]| Head::decode(payload).unwrap_err().kind;
    assert_eq!(kind(b""), DecodeErrorKind::Truncated);
    assert_eq!(kind(b"{\"index\":1}"), DecodeErrorKind::Framing);
    assert_eq!(kind(&[0xc3, 1, 2]), DecodeErrorKind::Truncated);
    assert_eq!(kind(&[0xc3, 1, 1, 2, 3, 4, 5, 6, 7, 8]), DecodeErrorKind::Fingerprint([1, 2, 3, 4, 5, 6, 7, 8]));
    let error = Head::decode(&[0xc3, 1, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not a changelog record at byte 2 of the payload: unknown schema fingerprint 0102030405060708"
    );
}
