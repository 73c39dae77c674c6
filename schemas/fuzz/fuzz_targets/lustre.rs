//! Any bytes as a read buffer: an error that names where, or records that survive writer, remap and encoder.
#![no_main]

use clbridge_schemas::avro::{Additions, Encoder, Framing, Head, SchemaVersion};
use clbridge_schemas::ids::MdtName;
use clbridge_schemas::lustre::{MAX_RECORD, Record, RecordType, View, clfe, records, remap};
use clbridge_schemas::{key, text};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static MDT: LazyLock<MdtName> = LazyLock::new(|| "lustre-MDT0000".parse().expect("a name"));
static ENCODER: LazyLock<Encoder> = LazyLock::new(|| Encoder::new(&MDT, SchemaVersion::V5, Framing::SingleObject));

fuzz_target!(|data: &[u8]| {
    let mut walk = records(data, 1000);
    let mut taken = 0;
    for item in walk.by_ref() {
        match item {
            Ok(view) => {
                assert_eq!(view.bytes(), &data[taken..taken + view.bytes().len()]);
                taken += view.bytes().len();
                check(&view);
            }
            Err(error) => assert_eq!(error.offset, 1000 + taken as u64),
        }
    }
    assert_eq!(walk.rest(), &data[taken..]);
    if walk.finish().is_ok() {
        assert!(walk.rest().is_empty());
    }
});

fn check(view: &View<'_>) {
    assert!(view.bytes().len() <= MAX_RECORD);
    // View, owned, written, viewed again: the same.
    let owned = Record::from_view(*view);
    let mut bytes = Vec::new();
    let nid_type_fits = view.nid().is_none_or(|nid| nid.to_be().is_some());
    owned.write(&mut bytes).expect("what was read can be written");
    let again = View::new(&bytes, 0).expect("what was written can be read");
    assert_eq!(again, *view);
    assert_eq!(again.digest(), view.digest());
    assert_eq!(Record::from_view(again), owned);

    // With all extensions wanted nothing is lost; with none, the rest stays.
    for (flags, extra) in [(0xf000, clfe::SIZED | clfe::NID_BE), (0, 0)] {
        bytes.clear();
        remap(view, flags, extra, &mut bytes);
        let mapped = View::new(&bytes, 0).expect("a remapped record is a record");
        assert_eq!(mapped.digest(), view.digest());
        assert_eq!(mapped.name(), view.name());
        if flags != 0 && nid_type_fits && view.nid().is_some() {
            assert_eq!(mapped.nid(), view.nid());
        }
        assert_eq!(mapped.jobid().is_some(), flags != 0);
    }

    bytes.clear();
    ENCODER.encode(view, 7, Additions::default(), &mut bytes);
    let head = Head::decode(&bytes).expect("what was encoded can be decoded");
    assert_eq!((head.index, head.incarnation), (view.index(), 7));
    assert_eq!(head.digest(), view.digest());

    bytes.clear();
    text::lfs_line(view, &mut bytes);
    assert!(bytes.ends_with(b"\n"));
    assert!(text::json(view).is_object());
    bytes.clear();
    key::key(key::KeyKind::Object, view, &MDT, &mut bytes);
    assert_eq!(view.rtype() == RecordType::MARK, bytes == MDT.as_str().as_bytes());
}
