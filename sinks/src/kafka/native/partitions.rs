//! Lists of partitions with an offset or an error each.

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use rdkafka_sys as sys;

use super::NativeError;
use super::text::{cstring, text};

/// A partition of a topic.
pub(in crate::kafka) type Place = (String, u32);

/// An offset, or an error, for each place that was asked for.
pub(in crate::kafka) type Found = Vec<(Place, Result<i64, NativeError>)>;

pub(super) fn partition_list(places: &[Place], offset: i64) -> Result<TopicPartitionList, NativeError> {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (topic, partition) in places {
        cstring(topic)?;
        list.add_partition(topic, *partition as i32);
    }
    // SAFETY: the list is live and ours; its elements are plain values. Set here because the crate refuses the raw
    // offsets by which ListOffsets is told what to look for (a time among them).
    unsafe {
        let raw = &mut *list.ptr();
        for i in 0..raw.cnt as usize {
            (*raw.elems.add(i)).offset = offset;
        }
    }
    Ok(list)
}

/// A list with an explicit offset for each partition.
pub(in crate::kafka) fn positions(at: &[(Place, u64)]) -> Result<TopicPartitionList, NativeError> {
    let mut list = TopicPartitionList::with_capacity(at.len());
    for ((topic, partition), offset) in at {
        list.add_partition_offset(topic, *partition as i32, Offset::Offset(*offset as i64))?;
    }
    Ok(list)
}

/// # Safety
/// The element and its topic name live.
pub(super) unsafe fn read_place(p: &sys::rd_kafka_topic_partition_t) -> (Place, Result<i64, NativeError>) {
    // SAFETY: by contract.
    let place = (unsafe { text(p.topic) }, p.partition.max(0) as u32);
    let code = RDKafkaErrorCode::from(p.err);
    let value = if code == RDKafkaErrorCode::NoError { Ok(p.offset) } else { Err(NativeError::of(code)) };
    (place, value)
}
