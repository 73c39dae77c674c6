//! librdkafka's errors: its codes, and its error objects, which whoever gets one has to destroy.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka_sys as sys;

use super::text::text;

/// An error in librdkafka's words, with what it says about the way out.
#[derive(Clone, Debug)]
pub(in crate::kafka) struct NativeError {
    pub(in crate::kafka) code: RDKafkaErrorCode,
    pub(in crate::kafka) text: String,
    pub(in crate::kafka) retriable: bool,
}

impl NativeError {
    pub(super) fn of(code: RDKafkaErrorCode) -> Self {
        Self { code, text: code.to_string(), retriable: false }
    }
}

impl From<KafkaError> for NativeError {
    fn from(e: KafkaError) -> Self {
        Self { code: e.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail), text: e.to_string(), retriable: false }
    }
}

/// Takes an error object over and turns it into a result.
pub(super) fn taken(e: *mut sys::rd_kafka_error_t) -> Result<(), NativeError> {
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
pub(super) unsafe fn read_error(e: *const sys::rd_kafka_error_t) -> NativeError {
    // SAFETY: by contract.
    unsafe {
        NativeError {
            code: sys::rd_kafka_error_code(e).into(),
            text: text(sys::rd_kafka_error_string(e)),
            retriable: sys::rd_kafka_error_is_retriable(e) != 0,
        }
    }
}
