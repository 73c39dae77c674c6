//! Any bytes as a payload: an error, or a record that both decoders see alike.
#![no_main]

use clbridge_schemas::avro::{ChangelogRecord, Head};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match (Head::decode(data), ChangelogRecord::decode_versioned(data)) {
        (Ok(head), Ok((record, version))) => {
            assert_eq!(head.version, version);
            assert_eq!(head.mdt, record.mdt);
            assert_eq!((head.index, head.incarnation), (record.index, record.incarnation));
            assert_eq!(head.digest(), record.digest());
            assert_eq!(head.retracts, record.retracts);
        }
        (Err(head), Err(record)) => {
            assert_eq!(head, record);
            assert!(head.offset <= data.len());
        }
        (head, record) => panic!("{head:?} but {record:?}"),
    }
});
