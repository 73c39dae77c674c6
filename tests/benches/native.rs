//! A producer over librdkafka's own calls, as fast as it can be used: whole batches for one partition in one call, and
//! delivery reports from the event queue. All `unsafe` of the benchmark is here.

use std::ffi::{CString, c_int};
use std::ptr;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::client::{Client, ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

/// A producer for one topic.
pub struct Producer {
    topic: *mut sys::rd_kafka_topic_t,
    queue: *mut sys::rd_kafka_queue_t,
    client: Client<DefaultClientContext>,
}

impl Producer {
    /// Connects.
    pub fn new(config: &ClientConfig, topic: &str) -> Result<Self> {
        let name = CString::new(topic)?;
        let native = config.create_native_config()?;
        // SAFETY: a live configuration that no client has taken yet.
        unsafe { sys::rd_kafka_conf_set_events(native.ptr(), sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR) };
        let kind = sys::rd_kafka_type_t::RD_KAFKA_PRODUCER;
        let client = Client::new(config, native, kind, DefaultClientContext)?;
        // SAFETY: the client and the name live; both handles are given back in `drop`.
        let (topic, queue) = unsafe {
            (
                sys::rd_kafka_topic_new(client.native_ptr(), name.as_ptr(), ptr::null_mut()),
                sys::rd_kafka_queue_get_main(client.native_ptr()),
            )
        };
        let made = Self { topic, queue, client };
        ensure!(!made.topic.is_null(), "no handle of the topic");
        Ok(made)
    }

    /// Hands a batch over, which librdkafka copies; the batch is empty then.
    pub fn produce(&self, batch: &mut Batch<'_>) -> Result<()> {
        let count = batch.messages.len();
        // SAFETY: the topic belongs to this live client; the messages point into memory that the batch borrows, and
        // with F_COPY librdkafka keeps none of the pointers.
        let taken = unsafe {
            sys::rd_kafka_produce_batch(
                self.topic,
                batch.partition,
                sys::RD_KAFKA_MSG_F_COPY,
                batch.messages.as_mut_ptr(),
                count as c_int,
            )
        };
        ensure!(taken as usize == count, "librdkafka took {taken} of {count} messages");
        batch.messages.clear();
        Ok(())
    }

    /// Takes delivery reports, waiting at most `wait_ms` for the first; returns messages and their bytes.
    pub fn serve(&self, wait_ms: c_int) -> Result<(u64, usize)> {
        let (mut wait, mut count, mut bytes) = (wait_ms, 0, 0);
        loop {
            // SAFETY: the queue lives; the event is destroyed below, once.
            let event = unsafe { sys::rd_kafka_queue_poll(self.queue, wait) };
            if event.is_null() {
                return Ok((count, bytes));
            }
            wait = 0;
            let mut failed = RDKafkaErrorCode::NoError;
            // SAFETY: the event lives until it is destroyed at the end; its messages are read before that.
            unsafe {
                match sys::rd_kafka_event_type(event) {
                    sys::RD_KAFKA_EVENT_DR => {
                        while let Some(m) = sys::rd_kafka_event_message_next(event).as_ref() {
                            count += 1;
                            bytes += m.len + m.key_len;
                            let code = RDKafkaErrorCode::from(m.err);
                            if code != RDKafkaErrorCode::NoError {
                                failed = code;
                            }
                        }
                    }
                    sys::RD_KAFKA_EVENT_ERROR => failed = sys::rd_kafka_event_error(event).into(),
                    _ => {}
                }
                sys::rd_kafka_event_destroy(event);
            }
            if failed != RDKafkaErrorCode::NoError {
                bail!("librdkafka: {failed}");
            }
        }
    }

    /// See [`hurry`].
    pub fn hurry(&self) {
        hurry(&self.client);
    }

    /// Takes the transactional id.
    pub fn init_transactions(&self) -> Result<()> {
        // SAFETY: the client lives.
        taken(unsafe { sys::rd_kafka_init_transactions(self.client.native_ptr(), 30_000) })
    }

    /// Begins a transaction.
    pub fn begin(&self) -> Result<()> {
        // SAFETY: as above.
        taken(unsafe { sys::rd_kafka_begin_transaction(self.client.native_ptr()) })
    }

    /// Commits; everything must have been reported before.
    pub fn commit(&self) -> Result<()> {
        commit(&self.client)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // SAFETY: each was taken once in `new`; the client is dropped after this.
        unsafe {
            if !self.topic.is_null() {
                sys::rd_kafka_topic_destroy(self.topic);
            }
            sys::rd_kafka_queue_destroy(self.queue);
        }
    }
}

/// Waits at most a millisecond for outstanding messages, with lingering off meanwhile.
pub fn hurry<C: ClientContext>(client: &Client<C>) {
    // SAFETY: the client lives. What is outstanding is known from the reports.
    let _ = unsafe { sys::rd_kafka_flush(client.native_ptr(), 1) };
}

/// Commits at once; everything must have been reported before.
pub fn commit<C: ClientContext>(client: &Client<C>) -> Result<()> {
    // SAFETY: the client lives.
    taken(unsafe { sys::rd_kafka_commit_transaction(client.native_ptr(), 30_000) })
}

fn taken(error: *mut sys::rd_kafka_error_t) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null error is ours, read and destroyed once.
    let code = unsafe {
        let code = RDKafkaErrorCode::from(sys::rd_kafka_error_code(error));
        sys::rd_kafka_error_destroy(error);
        code
    };
    Err(code).context("librdkafka")
}

/// Messages of one partition that are handed over together.
pub struct Batch<'a> {
    partition: i32,
    messages: Vec<sys::rd_kafka_message_t>,
    borrowed: std::marker::PhantomData<&'a [u8]>,
}

impl<'a> Batch<'a> {
    /// An empty one for each of so many partitions.
    pub fn each(partitions: u32) -> Vec<Self> {
        (0..partitions)
            .map(|p| Self {
                partition: p.cast_signed(),
                messages: Vec::with_capacity(256),
                borrowed: std::marker::PhantomData,
            })
            .collect()
    }

    /// Adds a message.
    pub fn push(&mut self, key: &'a [u8], payload: &'a [u8]) {
        self.messages.push(sys::rd_kafka_message_t {
            err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
            rkt: ptr::null_mut(),
            partition: self.partition,
            payload: payload.as_ptr().cast_mut().cast(),
            len: payload.len(),
            key: key.as_ptr().cast_mut().cast(),
            key_len: key.len(),
            offset: 0,
            _private: ptr::null_mut(),
        });
    }

    /// Messages in it.
    pub fn len(&self) -> usize {
        self.messages.len()
    }
}
