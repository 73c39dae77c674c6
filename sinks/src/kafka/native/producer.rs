//! A producer on its native handle: whole batches in, delivery reports out of its event queue, transactions.

use std::ffi::c_int;
use std::ptr;

use rdkafka::TopicPartitionList;
use rdkafka::client::Client;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use super::super::context::Quiet;
use super::NativeError;
use super::arena::{ARENA_KEEP, Arena, Header};
use super::error::taken;
use super::event::Event;
use super::text::cstring;

/// What the broker said of one message that was handed over.
#[derive(Clone, Copy, Debug)]
pub(in crate::kafka) struct Report {
    /// The tag given with the message.
    pub(in crate::kafka) tag: u64,
    /// Its offset, if there is no error.
    pub(in crate::kafka) offset: i64,
    /// Why it was not delivered.
    pub(in crate::kafka) error: Option<RDKafkaErrorCode>,
}

/// A producer that is driven through its event queue.
pub(in crate::kafka) struct Producer {
    topics: Vec<*mut sys::rd_kafka_topic_t>,
    queue: *mut sys::rd_kafka_queue_t,
    client: Client<Quiet>,
}

// SAFETY: librdkafka's handles, topic objects and queues may be used from any thread at once (its INTRODUCTION.md,
// "Threads and callbacks"); the pointers are set in `new` and only read afterwards.
unsafe impl Send for Producer {}
// SAFETY: as above.
unsafe impl Sync for Producer {}

impl Producer {
    /// A producer for `topics`, which are named by their place in the list from then on.
    pub(in crate::kafka) fn new(config: &ClientConfig, topics: &[String]) -> Result<Self, NativeError> {
        let names = topics.iter().map(|t| cstring(t)).collect::<Result<Vec<_>, _>>()?;
        let native = config.create_native_config()?;
        // SAFETY: `native` is a live configuration that no client has taken yet.
        unsafe {
            sys::rd_kafka_conf_set_events(native.ptr(), sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR);
        }
        let client = Client::new(config, native, sys::rd_kafka_type_t::RD_KAFKA_PRODUCER, Quiet)?;
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
    pub(in crate::kafka) fn produce(&self, topic: usize, partition: u32, arena: &mut Arena) -> Result<(), NativeError> {
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
        let (mut rest, mut done) = (messages.as_mut_slice(), 0);
        for header in &arena.headers {
            let (before, from) = std::mem::take(&mut rest).split_at_mut(header.at - done);
            self.produce_batch(topic, partition, before)?;
            let (headed, after) = from.split_at_mut(1);
            self.produce_headed(topic, partition, &headed[0], header)?;
            (rest, done) = (after, header.at + 1);
        }
        self.produce_batch(topic, partition, rest)?;
        arena.clear(ARENA_KEEP);
        Ok(())
    }

    /// `messages` point into an arena that outlives the call.
    fn produce_batch(
        &self,
        topic: usize,
        partition: u32,
        messages: &mut [sys::rd_kafka_message_t],
    ) -> Result<(), NativeError> {
        let count = messages.len();
        // SAFETY: the topic belongs to this live client; every message points into an arena that outlives the
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
            return Ok(());
        }
        let error = messages.iter().map(|m| RDKafkaErrorCode::from(m.err)).find(|c| *c != RDKafkaErrorCode::NoError);
        Err(self.fatal().unwrap_or_else(|| NativeError::of(error.unwrap_or(RDKafkaErrorCode::Fail))))
    }

    /// As `produce_batch` for one message, with a header. It queues behind what was handed over before.
    fn produce_headed(
        &self,
        topic: usize,
        partition: u32,
        message: &sys::rd_kafka_message_t,
        header: &Header,
    ) -> Result<(), NativeError> {
        use sys::rd_kafka_vtype_t as V;
        // SAFETY: the topic belongs to this live client; the arguments are of the types that librdkafka documents for
        // each tag and end with END; key and payload point into the arena, which like the header outlives the call,
        // and with F_COPY librdkafka keeps none of the pointers.
        let code = RDKafkaErrorCode::from(unsafe {
            sys::rd_kafka_producev(
                self.client.native_ptr(),
                V::RD_KAFKA_VTYPE_RKT,
                self.topics[topic],
                V::RD_KAFKA_VTYPE_PARTITION,
                partition as i32,
                V::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                V::RD_KAFKA_VTYPE_KEY,
                message.key,
                message.key_len,
                V::RD_KAFKA_VTYPE_VALUE,
                message.payload,
                message.len,
                V::RD_KAFKA_VTYPE_HEADER,
                header.name.as_ptr(),
                header.value.as_ptr(),
                header.value.len(),
                V::RD_KAFKA_VTYPE_OPAQUE,
                message._private,
                V::RD_KAFKA_VTYPE_END,
            )
        });
        if code == RDKafkaErrorCode::NoError {
            return Ok(());
        }
        Err(self.fatal().unwrap_or_else(|| NativeError::of(code)))
    }

    /// Waits at most `wait_ms` for an event, then takes all that are there. Returns the number of reports.
    pub(in crate::kafka) fn serve(&self, wait_ms: u32, each: &mut dyn FnMut(Report)) -> Result<usize, NativeError> {
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
    pub(in crate::kafka) fn hurry(&self) {
        // SAFETY: the client lives; the answer says only whether something is outstanding, which reports tell too.
        let _ = unsafe { sys::rd_kafka_flush(self.client.native_ptr(), 1) };
    }

    /// The error after which this producer can do nothing more, if there was one.
    pub(in crate::kafka) fn fatal(&self) -> Option<NativeError> {
        self.client.fatal_error().map(|(code, text)| NativeError { code, text, retriable: false })
    }

    pub(in crate::kafka) fn init_transactions(&self, wait_ms: u32) -> Result<(), NativeError> {
        // SAFETY: the client lives; the error is taken over by `taken`.
        taken(unsafe { sys::rd_kafka_init_transactions(self.client.native_ptr(), wait_ms as c_int) })
    }

    pub(in crate::kafka) fn begin(&self) -> Result<(), NativeError> {
        // SAFETY: as above.
        taken(unsafe { sys::rd_kafka_begin_transaction(self.client.native_ptr()) })
    }

    /// Commits; every message must have been reported before. Blocks up to `wait_ms`.
    pub(in crate::kafka) fn commit(&self, wait_ms: u32) -> Result<(), NativeError> {
        // SAFETY: as above.
        taken(unsafe { sys::rd_kafka_commit_transaction(self.client.native_ptr(), wait_ms as c_int) })
    }

    /// Adds positions of a group to the transaction, in the name of the group alone and of no member.
    pub(in crate::kafka) fn send_offsets(
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
        // In librdkafka 2.12.1 a client that goes down frees the text of its last transaction error (`rd_kafka_txns_term`)
        // while its broker threads still take answers, and one that says "fenced" frees it again: the process ends. So
        // nothing is on its way when it goes down; answers to what was taken back here are ignored.
        // SAFETY: the client lives; the answer could only say that the flags are wrong.
        let _ = unsafe {
            let flags = sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT;
            sys::rd_kafka_purge(self.client.native_ptr(), flags)
        };
        // SAFETY: each was taken once in `new`; the client is dropped after this body and waits for nothing.
        unsafe {
            for topic in &self.topics {
                sys::rd_kafka_topic_destroy(*topic);
            }
            sys::rd_kafka_queue_destroy(self.queue);
        }
    }
}
