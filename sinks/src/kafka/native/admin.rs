//! The newer Admin calls, and what they answer.

use std::ffi::{c_char, c_int};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::Client;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka_sys as sys;

use super::super::context::Quiet;
use super::NativeError;
use super::error::{read_error, taken};
use super::event::Event;
use super::partitions::{Found, Place, partition_list, read_place};
use super::text::{cstring, slice, text};

/// Which end of a partition, or the first offset at or after a time.
#[derive(Clone, Copy, Debug)]
pub(in crate::kafka) enum Where {
    /// The first offset that is still there.
    Low,
    /// The high watermark, open transactions included.
    End,
    /// The last stable offset: what a read-committed reader may see.
    Stable,
    /// The first record at or after this time, milliseconds since the epoch; none gives -1.
    Since(i64),
}

/// A topic as the cluster describes it.
#[derive(Clone, Debug)]
pub(in crate::kafka) struct Described {
    pub(in crate::kafka) name: String,
    pub(in crate::kafka) id: String,
    pub(in crate::kafka) partitions: u32,
    pub(in crate::kafka) replicas: u32,
    /// True if every partition has a leader.
    pub(in crate::kafka) led: bool,
    pub(in crate::kafka) error: Option<NativeError>,
}

/// librdkafka's own patience with a call, its longest. In librdkafka 2.12.1 a call to a group's coordinator that times out
/// before the coordinator is found ends the process as soon as it is found after all (`rd_kafka_admin_coord_request` gives
/// its reference back, and `rd_kafka_coord_req_fail` does so again). So no call times out there: it is left alone here,
/// and with the handle it is ended in good order.
const NEVER_MS: c_int = 3_600_000;

/// The newer Admin calls on a client's native handle, each with a queue of its own.
///
/// The handle is a consumer's, though it never subscribes: in librdkafka 2.12.1 a producer's handle, which is what the
/// crate's Admin client has, ends the process by a null pointer when a coordinator answers an offset fetch by
/// `NOT_COORDINATOR` (`rd_kafka_handle_OffsetFetch` calls `rd_kafka_cgrp_op` with a group that only consumers have).
pub(in crate::kafka) struct Admin {
    client: Client<Quiet>,
    wait_ms: u32,
    /// The last refusal of our credentials, since the last answer.
    refused: Mutex<Option<NativeError>>,
}

impl Admin {
    /// A client for Admin calls, of a reader's configuration. No call takes much longer than `wait_ms`.
    pub(in crate::kafka) fn new(config: &ClientConfig, wait_ms: u32) -> Result<Self, KafkaError> {
        let native = config.create_native_config()?;
        // Else a refusal of our credentials would only be a line in the log.
        // SAFETY: the configuration lives, and is not yet a client's.
        unsafe { sys::rd_kafka_conf_set_events(native.ptr(), sys::RD_KAFKA_EVENT_LOG | sys::RD_KAFKA_EVENT_ERROR) };
        let client = Client::new(config, native, sys::rd_kafka_type_t::RD_KAFKA_CONSUMER, Quiet)?;
        Ok(Self { client, wait_ms, refused: Mutex::new(None) })
    }

    /// Submits with `submit` and reads `answers` events with `read`.
    fn run(
        &self,
        op: sys::rd_kafka_admin_op_t,
        committed: bool,
        answers: usize,
        submit: &mut dyn FnMut(*const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
        read: &mut dyn FnMut(*mut sys::rd_kafka_event_t) -> Result<(), NativeError>,
    ) -> Result<(), NativeError> {
        let rk = self.client.native_ptr();
        self.drain();
        let mut why = [0 as c_char; 256];
        // SAFETY: the client lives; options and queue are made and destroyed in this function; librdkafka copies the
        // options at submission, and holds the queue until it has answered each submission by one event.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(rk, op);
            let queue = sys::rd_kafka_queue_new(rk);
            let _ = sys::rd_kafka_AdminOptions_set_request_timeout(options, NEVER_MS, why.as_mut_ptr(), why.len());
            if committed {
                let _ = taken(sys::rd_kafka_AdminOptions_set_isolation_level(
                    options,
                    sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
                ));
            }
            submit(options, queue);
            let mut result = Ok(());
            let end = Instant::now() + Duration::from_millis(u64::from(self.wait_ms));
            for _ in 0..answers {
                let left = end.saturating_duration_since(Instant::now()).as_millis() as c_int;
                let Some(event) = Event::own(sys::rd_kafka_queue_poll(queue, left.max(1))) else {
                    result = Err(NativeError::of(RDKafkaErrorCode::OperationTimedOut));
                    break;
                };
                let answer = match event.error() {
                    Some(e) => Err(e),
                    None => read(event.0),
                };
                result = result.and(answer);
            }
            sys::rd_kafka_queue_destroy(queue);
            sys::rd_kafka_AdminOptions_destroy(options);
            self.drain();
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            if result.is_ok() {
                *refused = None;
            }
            // Who is refused at the door is only told apart from silence by what was said there.
            result.map_err(|e| refused.clone().unwrap_or(e))
        }
    }

    /// Nobody else reads the main queue: log lines would pile up there. A refusal of our credentials is kept, for whoever
    /// of those that ask at the same time gets no answer.
    fn drain(&self) {
        // SAFETY: the client lives; the queue reference is given back below.
        let queue = unsafe { sys::rd_kafka_queue_get_main(self.client.native_ptr()) };
        // SAFETY: the queue lives; events are owned.
        while let Some(event) = Event::own(unsafe { sys::rd_kafka_queue_poll(queue, 0) }) {
            if event.kind() == sys::RD_KAFKA_EVENT_LOG {
                event.log();
            }
            if let Some(e) = event.error().filter(|e| e.code == RDKafkaErrorCode::Authentication) {
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            }
        }
        // SAFETY: taken above.
        unsafe { sys::rd_kafka_queue_destroy(queue) };
    }

    /// Offsets of many partitions in one go; each with its own error.
    pub(in crate::kafka) fn list_offsets(&self, places: &[Place], at: Where) -> Result<Found, NativeError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let spec = match at {
            Where::Low => sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST as i64,
            Where::End | Where::Stable => sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64,
            Where::Since(ms) => ms.max(0),
        };
        let list = partition_list(places, spec)?;
        let mut found = Vec::with_capacity(places.len());
        self.run(
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
            matches!(at, Where::Stable),
            1,
            // SAFETY: client, list, options and queue live through the call, which copies the list.
            &mut |o, q| unsafe { sys::rd_kafka_ListOffsets(self.client.native_ptr(), list.ptr(), o, q) },
            // SAFETY: the event is the answer to ListOffsets and lives through the closure; its parts are copied.
            &mut |event| unsafe {
                let mut n = 0;
                let result = sys::rd_kafka_event_ListOffsets_result(event);
                let infos = sys::rd_kafka_ListOffsets_result_infos(result, &mut n);
                for info in slice(infos, n) {
                    found.push(read_place(&*sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*info)));
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Describes topics; one that does not exist has an error.
    pub(in crate::kafka) fn describe_topics(&self, names: &[String]) -> Result<Vec<Described>, NativeError> {
        let names = names.iter().map(|n| cstring(n)).collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<*const c_char> = names.iter().map(|n| n.as_ptr()).collect();
        let mut found = Vec::new();
        self.run(
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            false,
            1,
            // SAFETY: the names live through the calls, which copy them; the collection is destroyed once.
            &mut |o, q| unsafe {
                let topics = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
                sys::rd_kafka_DescribeTopics(self.client.native_ptr(), topics, o, q);
                sys::rd_kafka_TopicCollection_destroy(topics);
            },
            // SAFETY: the event is the answer to DescribeTopics and lives through the closure; its parts are copied.
            &mut |event| unsafe {
                let mut n = 0;
                let result = sys::rd_kafka_event_DescribeTopics_result(event);
                let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut n);
                for t in slice(topics, n) {
                    found.push(read_described(*t));
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// What each group has committed at `places`; all groups are asked at once.
    pub(in crate::kafka) fn group_offsets(
        &self,
        groups: &[String],
        places: &[Place],
    ) -> Result<Vec<(String, Found)>, NativeError> {
        let names = groups.iter().map(|n| cstring(n)).collect::<Result<Vec<_>, _>>()?;
        let list = partition_list(places, -1001)?;
        let mut found = Vec::with_capacity(groups.len());
        self.run(
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS,
            false,
            groups.len(),
            // SAFETY: names and list live through the calls, which copy them; each request is destroyed once.
            &mut |o, q| unsafe {
                for name in &names {
                    let mut ask = sys::rd_kafka_ListConsumerGroupOffsets_new(name.as_ptr(), list.ptr());
                    sys::rd_kafka_ListConsumerGroupOffsets(self.client.native_ptr(), &mut ask, 1, o, q);
                    sys::rd_kafka_ListConsumerGroupOffsets_destroy(ask);
                }
            },
            // SAFETY: the event is the answer to ListConsumerGroupOffsets and lives through the closure.
            &mut |event| unsafe {
                let mut n = 0;
                let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(event);
                let groups = sys::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut n);
                for g in slice(groups, n) {
                    found.push(read_group(*g)?);
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Commits positions for a group without live members.
    pub(in crate::kafka) fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &TopicPartitionList,
    ) -> Result<Found, NativeError> {
        let name = cstring(group)?;
        let mut found = Vec::new();
        self.run(
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS,
            false,
            1,
            // SAFETY: name and list live through the calls, which copy them; the request is destroyed once.
            &mut |o, q| unsafe {
                let mut ask = sys::rd_kafka_AlterConsumerGroupOffsets_new(name.as_ptr(), offsets.ptr());
                sys::rd_kafka_AlterConsumerGroupOffsets(self.client.native_ptr(), &mut ask, 1, o, q);
                sys::rd_kafka_AlterConsumerGroupOffsets_destroy(ask);
            },
            // SAFETY: the event is the answer to AlterConsumerGroupOffsets and lives through the closure.
            &mut |event| unsafe {
                let mut n = 0;
                let result = sys::rd_kafka_event_AlterConsumerGroupOffsets_result(event);
                let groups = sys::rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &mut n);
                for g in slice(groups, n) {
                    found.extend(read_group(*g)?.1);
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Names of all groups that the cluster shows us.
    pub(in crate::kafka) fn list_groups(&self) -> Result<Vec<String>, NativeError> {
        let mut found = Vec::new();
        self.run(
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS,
            false,
            1,
            // SAFETY: client, options and queue live.
            &mut |o, q| unsafe { sys::rd_kafka_ListConsumerGroups(self.client.native_ptr(), o, q) },
            // SAFETY: the event is the answer to ListConsumerGroups and lives through the closure.
            &mut |event| unsafe {
                let mut n = 0;
                let result = sys::rd_kafka_event_ListConsumerGroups_result(event);
                let errors = sys::rd_kafka_ListConsumerGroups_result_errors(result, &mut n);
                if let Some(e) = slice(errors, n).first() {
                    return Err(read_error(*e));
                }
                let groups = sys::rd_kafka_ListConsumerGroups_result_valid(result, &mut n);
                for g in slice(groups, n) {
                    found.push(text(sys::rd_kafka_ConsumerGroupListing_group_id(*g)));
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Number of live members of each group; an unknown group has none.
    pub(in crate::kafka) fn group_members(&self, groups: &[String]) -> Result<Vec<(String, usize)>, NativeError> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let names = groups.iter().map(|n| cstring(n)).collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<*const c_char> = names.iter().map(|n| n.as_ptr()).collect();
        let mut found = Vec::with_capacity(groups.len());
        self.run(
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
            false,
            1,
            // SAFETY: the names live through the call, which copies them.
            &mut |o, q| unsafe {
                sys::rd_kafka_DescribeConsumerGroups(
                    self.client.native_ptr(),
                    pointers.as_mut_ptr(),
                    pointers.len(),
                    o,
                    q,
                );
            },
            // SAFETY: the event is the answer to DescribeConsumerGroups and lives through the closure.
            &mut |event| unsafe {
                let mut n = 0;
                let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event);
                let groups = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut n);
                for g in slice(groups, n) {
                    let error = sys::rd_kafka_ConsumerGroupDescription_error(*g);
                    if !error.is_null() {
                        let error = read_error(error);
                        if !matches!(error.code, RDKafkaErrorCode::NoError | RDKafkaErrorCode::GroupIdNotFound) {
                            return Err(error);
                        }
                    }
                    found.push((
                        text(sys::rd_kafka_ConsumerGroupDescription_group_id(*g)),
                        sys::rd_kafka_ConsumerGroupDescription_member_count(*g),
                    ));
                }
                Ok(())
            },
        )?;
        Ok(found)
    }
}

/// # Safety
/// `g` is a live group result.
unsafe fn read_group(g: *const sys::rd_kafka_group_result_t) -> Result<(String, Found), NativeError> {
    // SAFETY: by contract; everything is copied.
    unsafe {
        let error = sys::rd_kafka_group_result_error(g);
        if !error.is_null() {
            return Err(read_error(error));
        }
        let name = text(sys::rd_kafka_group_result_name(g));
        let list = sys::rd_kafka_group_result_partitions(g);
        let places = match list.as_ref() {
            Some(l) => slice(l.elems, l.cnt as usize).iter().map(|p| read_place(p)).collect(),
            None => Vec::new(),
        };
        Ok((name, places))
    }
}

/// # Safety
/// `t` is a live topic description.
unsafe fn read_described(t: *const sys::rd_kafka_TopicDescription_t) -> Described {
    // SAFETY: by contract; everything is copied.
    unsafe {
        let error = sys::rd_kafka_TopicDescription_error(t);
        let error = (!error.is_null()).then(|| read_error(error)).filter(|e| e.code != RDKafkaErrorCode::NoError);
        let mut n = 0;
        let partitions = slice(sys::rd_kafka_TopicDescription_partitions(t, &mut n), n);
        let replicas = partitions.iter().map(|p| {
            let mut n = 0;
            sys::rd_kafka_TopicPartitionInfo_replicas(*p, &mut n);
            n
        });
        let id = sys::rd_kafka_TopicDescription_topic_id(t);
        Described {
            name: text(sys::rd_kafka_TopicDescription_name(t)),
            id: if id.is_null() { String::new() } else { text(sys::rd_kafka_Uuid_base64str(id)) },
            partitions: partitions.len() as u32,
            replicas: replicas.min().unwrap_or(0) as u32,
            led: partitions.iter().all(|p| !sys::rd_kafka_TopicPartitionInfo_leader(*p).is_null()),
            error,
        }
    }
}
