//! The few calls of librdkafka that the `rdkafka` crate does not offer, each behind a safe function: producing by
//! whole batches, taking delivery reports from the event queue, and the newer Admin calls.
//!
//! All `unsafe` of the Kafka module is here and nothing else is. Pointers never leave this file.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;

use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use rdkafka_sys as sys;

/// An error in librdkafka's words, with what it says about the way out.
#[derive(Clone, Debug)]
pub(super) struct NativeError {
    pub(super) code: RDKafkaErrorCode,
    pub(super) text: String,
    pub(super) retriable: bool,
}

impl NativeError {
    fn of(code: RDKafkaErrorCode) -> Self {
        Self { code, text: code.to_string(), retriable: false }
    }
}

impl From<KafkaError> for NativeError {
    fn from(e: KafkaError) -> Self {
        Self { code: e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail), text: e.to_string(), retriable: false }
    }
}

/// What the broker said of one message that was handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    /// The tag given with the message.
    pub(super) tag: u64,
    /// Its offset, if there is no error.
    pub(super) offset: i64,
    /// Why it was not delivered.
    pub(super) error: Option<RDKafkaErrorCode>,
}

/// Messages of one partition, copied together so that librdkafka takes them in one call.
#[derive(Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u64,
    key: Option<u32>,
    len: u32,
}

impl Arena {
    /// Copies a message in. The tag comes back in its report.
    pub(super) fn push(&mut self, tag: u64, key: Option<&[u8]>, payload: &[u8]) {
        if let Some(k) = key {
            self.bytes.extend_from_slice(k);
        }
        self.bytes.extend_from_slice(payload);
        self.entries.push(Entry { tag, key: key.map(|k| k.len() as u32), len: payload.len() as u32 });
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties it; memory beyond `keep` bytes is given back.
    fn clear(&mut self, keep: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep);
        self.entries.clear();
        self.entries.shrink_to(keep / 64);
    }
}

/// Bytes of an arena that are kept for the next use; more only while a commit or an outage lets it grow.
const ARENA_KEEP: usize = 256 * 1024;

/// A producer that is driven through its event queue.
pub(super) struct Producer {
    topics: Vec<*mut sys::rd_kafka_topic_t>,
    queue: *mut sys::rd_kafka_queue_t,
    client: Client<DefaultClientContext>,
}

// SAFETY: librdkafka's handles, topic objects and queues may be used from any thread at once (its INTRODUCTION.md,
// "Threads and callbacks"); the pointers are set in `new` and only read afterwards.
unsafe impl Send for Producer {}
// SAFETY: as above.
unsafe impl Sync for Producer {}

impl Producer {
    /// A producer for `topics`, which are named by their place in the list from then on.
    pub(super) fn new(config: &ClientConfig, topics: &[String]) -> Result<Self, NativeError> {
        let names = topics.iter().map(|t| cstring(t)).collect::<Result<Vec<_>, _>>()?;
        let native = config.create_native_config()?;
        // SAFETY: `native` is a live configuration that no client has taken yet.
        unsafe {
            sys::rd_kafka_conf_set_events(native.ptr(), sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR);
        }
        let client = Client::new(config, native, sys::rd_kafka_type_t::RD_KAFKA_PRODUCER, DefaultClientContext)?;
        // SAFETY: the client lives; the reference taken here is given back in `drop`.
        let queue = unsafe { sys::rd_kafka_queue_get_main(client.native_ptr()) };
        let mut producer = Self { topics: Vec::with_capacity(names.len()), queue, client };
        for name in &names {
            // SAFETY: client and name live; a null configuration means the default one.
            let topic =
                unsafe { sys::rd_kafka_topic_new(producer.client.native_ptr(), name.as_ptr(), ptr::null_mut()) };
            if topic.is_null() {
                return Err(NativeError::of(RDKafkaErrorCode::InvalidTopic));
            }
            producer.topics.push(topic);
        }
        Ok(producer)
    }

    /// Hands all of `arena` over to one partition; librdkafka copies it. On success the arena is empty. An error
    /// means that a part may have been taken: the producer is then of no use any more.
    pub(super) fn produce(&self, topic: usize, partition: u32, arena: &mut Arena) -> Result<(), NativeError> {
        let mut at = arena.bytes.as_mut_ptr();
        let mut messages: Vec<sys::rd_kafka_message_t> = Vec::with_capacity(arena.entries.len());
        for e in &arena.entries {
            let key = at;
            let key_len = e.key.unwrap_or(0) as usize;
            // SAFETY: `push` appended key_len + len bytes for each entry in this order, so both stay inside the
            // allocation or one past its end.
            let payload = unsafe { at.add(key_len) };
            // SAFETY: as above.
            at = unsafe { payload.add(e.len as usize) };
            messages.push(sys::rd_kafka_message_t {
                err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                rkt: ptr::null_mut(),
                partition: partition as i32,
                payload: payload.cast(),
                len: e.len as usize,
                key: if e.key.is_some() { key.cast() } else { ptr::null_mut() },
                key_len,
                offset: 0,
                _private: e.tag as usize as *mut _,
            });
        }
        let count = messages.len();
        // SAFETY: the topic belongs to this live client; every message points into `arena.bytes`, which outlives the
        // call, and with F_COPY librdkafka keeps none of the pointers.
        let taken = unsafe {
            sys::rd_kafka_produce_batch(
                self.topics[topic],
                partition as i32,
                sys::RD_KAFKA_MSG_F_COPY,
                messages.as_mut_ptr(),
                count as c_int,
            )
        };
        if taken as usize == count {
            arena.clear(ARENA_KEEP);
            return Ok(());
        }
        let error = messages.iter().map(|m| RDKafkaErrorCode::from(m.err)).find(|c| *c != RDKafkaErrorCode::NoError);
        Err(self.fatal().unwrap_or_else(|| NativeError::of(error.unwrap_or(RDKafkaErrorCode::Fail))))
    }

    /// Waits at most `wait_ms` for an event, then takes all that are there. Returns the number of reports.
    pub(super) fn serve(&self, wait_ms: u32, each: &mut dyn FnMut(Report)) -> Result<usize, NativeError> {
        let mut wait = wait_ms as c_int;
        let mut reports = 0;
        loop {
            // SAFETY: the queue lives as long as self; the event is owned from here on.
            let event = unsafe { sys::rd_kafka_queue_poll(self.queue, wait) };
            let Some(event) = Event::own(event) else {
                return Ok(reports);
            };
            wait = 0;
            match event.kind() {
                sys::RD_KAFKA_EVENT_DR => {
                    let next = || {
                        // SAFETY: the event is a live delivery report; a message is valid until the event is destroyed.
                        unsafe { sys::rd_kafka_event_message_next(event.0).as_ref() }
                    };
                    while let Some(m) = next() {
                        reports += 1;
                        let code = RDKafkaErrorCode::from(m.err);
                        each(Report {
                            tag: m._private as usize as u64,
                            offset: m.offset,
                            error: (code != RDKafkaErrorCode::NoError).then_some(code),
                        });
                    }
                }
                sys::RD_KAFKA_EVENT_ERROR => {
                    if let Some(fatal) = self.fatal() {
                        return Err(fatal);
                    }
                    let e = event.error();
                    tracing::debug!(target: "librdkafka", code = ?e.map(|e| e.code), "passing client error");
                }
                sys::RD_KAFKA_EVENT_LOG => event.log(),
                _ => {}
            }
        }
    }

    /// Waits at most a millisecond for outstanding messages, with lingering off meanwhile.
    pub(super) fn hurry(&self) {
        // SAFETY: the client lives; the answer says only whether something is outstanding, which reports tell too.
        let _ = unsafe { sys::rd_kafka_flush(self.client.native_ptr(), 1) };
    }

    /// The error after which this producer can do nothing more, if there was one.
    pub(super) fn fatal(&self) -> Option<NativeError> {
        self.client.fatal_error().map(|(code, text)| NativeError { code, text, retriable: false })
    }

    pub(super) fn init_transactions(&self, wait_ms: u32) -> Result<(), NativeError> {
        // SAFETY: the client lives; the error is taken over by `taken`.
        taken(unsafe { sys::rd_kafka_init_transactions(self.client.native_ptr(), wait_ms as c_int) })
    }

    pub(super) fn begin(&self) -> Result<(), NativeError> {
        // SAFETY: as above.
        taken(unsafe { sys::rd_kafka_begin_transaction(self.client.native_ptr()) })
    }

    /// Commits; every message must have been reported before. Blocks up to `wait_ms`.
    pub(super) fn commit(&self, wait_ms: u32) -> Result<(), NativeError> {
        // SAFETY: as above.
        taken(unsafe { sys::rd_kafka_commit_transaction(self.client.native_ptr(), wait_ms as c_int) })
    }

    /// Adds positions of a group to the transaction, in the name of the group alone and of no member.
    pub(super) fn send_offsets(
        &self,
        group: &str,
        offsets: &TopicPartitionList,
        wait_ms: u32,
    ) -> Result<(), NativeError> {
        let group = cstring(group)?;
        // SAFETY: the name lives through the call, which copies it.
        let metadata = unsafe { sys::rd_kafka_consumer_group_metadata_new(group.as_ptr()) };
        // SAFETY: client, list and metadata live through the call.
        let answer = taken(unsafe {
            sys::rd_kafka_send_offsets_to_transaction(
                self.client.native_ptr(),
                offsets.ptr(),
                metadata,
                wait_ms as c_int,
            )
        });
        // SAFETY: made above, destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(metadata) };
        answer
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // SAFETY: each was taken once in `new`; the client is dropped after this body and waits for nothing.
        unsafe {
            for topic in &self.topics {
                sys::rd_kafka_topic_destroy(*topic);
            }
            sys::rd_kafka_queue_destroy(self.queue);
        }
    }
}

/// An event that is destroyed when it goes out of scope.
struct Event(*mut sys::rd_kafka_event_t);

impl Event {
    fn own(ptr: *mut sys::rd_kafka_event_t) -> Option<Self> {
        (!ptr.is_null()).then_some(Self(ptr))
    }

    fn kind(&self) -> c_int {
        // SAFETY: the event lives.
        unsafe { sys::rd_kafka_event_type(self.0) }
    }

    fn error(&self) -> Option<NativeError> {
        // SAFETY: the event lives.
        let code = RDKafkaErrorCode::from(unsafe { sys::rd_kafka_event_error(self.0) });
        (code != RDKafkaErrorCode::NoError).then(|| NativeError {
            code,
            // SAFETY: the text belongs to the event and is copied.
            text: unsafe { text(sys::rd_kafka_event_error_string(self.0)) },
            retriable: false,
        })
    }

    fn log(&self) {
        let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the event lives; the texts belong to it and are copied.
        let (facility, line) = unsafe {
            if sys::rd_kafka_event_log(self.0, &mut facility, &mut line, &mut level) != 0 {
                return;
            }
            (text(facility), text(line))
        };
        match level {
            0..=3 => tracing::error!(target: "librdkafka", facility, "{line}"),
            4 => tracing::warn!(target: "librdkafka", facility, "{line}"),
            5 | 6 => tracing::info!(target: "librdkafka", facility, "{line}"),
            _ => tracing::debug!(target: "librdkafka", facility, "{line}"),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: owned, destroyed once.
        unsafe { sys::rd_kafka_event_destroy(self.0) };
    }
}

/// # Safety
/// `p` is null or a C string that lives through the call.
unsafe fn text(p: *const c_char) -> String {
    if p.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    unsafe { CStr::from_ptr(p) }.to_string_lossy().trim().to_owned()
}

/// # Safety
/// `p` points to `n` elements, or `n` is 0, and they live as long as the caller uses the slice.
unsafe fn slice<'a, T>(p: *const T, n: usize) -> &'a [T] {
    if n == 0 || p.is_null() {
        return &[];
    }
    // SAFETY: by contract.
    unsafe { std::slice::from_raw_parts(p, n) }
}

fn cstring(s: &str) -> Result<CString, NativeError> {
    CString::new(s).map_err(|_| NativeError {
        code: RDKafkaErrorCode::InvalidArgument,
        text: format!("\"{}\" holds a zero byte", s.escape_default()),
        retriable: false,
    })
}

/// Takes an error object over and turns it into a result.
fn taken(e: *mut sys::rd_kafka_error_t) -> Result<(), NativeError> {
    if e.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null error object is the caller's, read and destroyed here once.
    unsafe {
        let error = read_error(e);
        sys::rd_kafka_error_destroy(e);
        Err(error)
    }
}

/// # Safety
/// `e` is a live error object.
unsafe fn read_error(e: *const sys::rd_kafka_error_t) -> NativeError {
    // SAFETY: by contract.
    unsafe {
        NativeError {
            code: sys::rd_kafka_error_code(e).into(),
            text: text(sys::rd_kafka_error_string(e)),
            retriable: sys::rd_kafka_error_is_retriable(e) != 0,
        }
    }
}

/// Which end of a partition, or the first offset at or after a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Where {
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
pub(super) struct Described {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) partitions: u32,
    pub(super) replicas: u32,
    /// True if every partition has a leader.
    pub(super) led: bool,
    pub(super) error: Option<NativeError>,
}

/// A partition of a topic.
pub(super) type Place = (String, u32);

/// An offset, or an error, for each place that was asked for.
pub(super) type Found = Vec<(Place, Result<i64, NativeError>)>;

/// The newer Admin calls on a client's native handle, each with a queue of its own.
///
/// The handle is a consumer's, though it never subscribes: in librdkafka 2.12.1 a producer's handle, which is what the
/// crate's Admin client has, ends the process by a null pointer when a coordinator answers an offset fetch by
/// `NOT_COORDINATOR` (`rd_kafka_handle_OffsetFetch` calls `rd_kafka_cgrp_op` with a group that only consumers have).
pub(super) struct Admin {
    client: Client<DefaultClientContext>,
    wait_ms: u32,
}

impl Admin {
    /// A client for Admin calls, of a reader's configuration. No call takes much longer than `wait_ms`.
    pub(super) fn new(config: &ClientConfig, wait_ms: u32) -> Result<Self, KafkaError> {
        let native = config.create_native_config()?;
        let client = Client::new(config, native, sys::rd_kafka_type_t::RD_KAFKA_CONSUMER, DefaultClientContext)?;
        Ok(Self { client, wait_ms })
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
        self.drain_log();
        let mut why = [0 as c_char; 256];
        // SAFETY: the client lives; options and queue are made and destroyed in this function; librdkafka copies the
        // options at submission and always answers each submission by one event, at the latest at its timeout.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(rk, op);
            let queue = sys::rd_kafka_queue_new(rk);
            let _ = sys::rd_kafka_AdminOptions_set_request_timeout(
                options,
                self.wait_ms as c_int,
                why.as_mut_ptr(),
                why.len(),
            );
            if committed {
                let _ = taken(sys::rd_kafka_AdminOptions_set_isolation_level(
                    options,
                    sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
                ));
            }
            submit(options, queue);
            let mut result = Ok(());
            for _ in 0..answers {
                let Some(event) = Event::own(sys::rd_kafka_queue_poll(queue, self.wait_ms as c_int + 5_000)) else {
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
            result
        }
    }

    /// Nobody else reads the main queue: log lines would pile up there.
    fn drain_log(&self) {
        // SAFETY: the client lives; the queue reference is given back below.
        let queue = unsafe { sys::rd_kafka_queue_get_main(self.client.native_ptr()) };
        // SAFETY: the queue lives; events are owned.
        while let Some(event) = Event::own(unsafe { sys::rd_kafka_queue_poll(queue, 0) }) {
            if event.kind() == sys::RD_KAFKA_EVENT_LOG {
                event.log();
            }
        }
        // SAFETY: taken above.
        unsafe { sys::rd_kafka_queue_destroy(queue) };
    }

    /// Offsets of many partitions in one go; each with its own error.
    pub(super) fn list_offsets(&self, places: &[Place], at: Where) -> Result<Found, NativeError> {
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
    pub(super) fn describe_topics(&self, names: &[String]) -> Result<Vec<Described>, NativeError> {
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
    pub(super) fn group_offsets(
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
    pub(super) fn alter_group_offsets(&self, group: &str, offsets: &TopicPartitionList) -> Result<Found, NativeError> {
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
    pub(super) fn list_groups(&self) -> Result<Vec<String>, NativeError> {
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
    pub(super) fn group_members(&self, groups: &[String]) -> Result<Vec<(String, usize)>, NativeError> {
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

fn partition_list(places: &[Place], offset: i64) -> Result<TopicPartitionList, NativeError> {
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
pub(super) fn positions(at: &[(Place, u64)]) -> Result<TopicPartitionList, NativeError> {
    let mut list = TopicPartitionList::with_capacity(at.len());
    for ((topic, partition), offset) in at {
        list.add_partition_offset(topic, *partition as i32, Offset::Offset(*offset as i64))?;
    }
    Ok(list)
}

/// # Safety
/// The element and its topic name live.
unsafe fn read_place(p: &sys::rd_kafka_topic_partition_t) -> (Place, Result<i64, NativeError>) {
    // SAFETY: by contract.
    let place = (unsafe { text(p.topic) }, p.partition.max(0) as u32);
    let code = RDKafkaErrorCode::from(p.err);
    let value = if code == RDKafkaErrorCode::NoError { Ok(p.offset) } else { Err(NativeError::of(code)) };
    (place, value)
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
