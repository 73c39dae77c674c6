//! What comes out of an event queue.

use std::ffi::c_int;
use std::ptr;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use super::NativeError;
use super::text::text;

/// An event that is destroyed when it goes out of scope.
pub(super) struct Event(pub(super) *mut sys::rd_kafka_event_t);

impl Event {
    pub(super) fn own(ptr: *mut sys::rd_kafka_event_t) -> Option<Self> {
        (!ptr.is_null()).then_some(Self(ptr))
    }

    pub(super) fn kind(&self) -> c_int {
        // SAFETY: the event lives.
        unsafe { sys::rd_kafka_event_type(self.0) }
    }

    pub(super) fn error(&self) -> Option<NativeError> {
        // SAFETY: the event lives.
        let code = RDKafkaErrorCode::from(unsafe { sys::rd_kafka_event_error(self.0) });
        (code != RDKafkaErrorCode::NoError).then(|| NativeError {
            code,
            // SAFETY: the text belongs to the event and is copied.
            text: unsafe { text(sys::rd_kafka_event_error_string(self.0)) },
            retriable: false,
        })
    }

    pub(super) fn log(&self) {
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
