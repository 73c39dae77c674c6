//! C strings and C arrays: ours as librdkafka takes them, and its own copied before their owner is destroyed.

use std::ffi::{CStr, CString, c_char};

use rdkafka::error::RDKafkaErrorCode;

use super::NativeError;

/// # Safety
/// `p` is null or a C string that lives through the call.
pub(super) unsafe fn text(p: *const c_char) -> String {
    if p.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    unsafe { CStr::from_ptr(p) }.to_string_lossy().trim().to_owned()
}

/// # Safety
/// `p` points to `n` elements, or `n` is 0, and they live as long as the caller uses the slice.
pub(super) unsafe fn slice<'a, T>(p: *const T, n: usize) -> &'a [T] {
    if n == 0 || p.is_null() {
        return &[];
    }
    // SAFETY: by contract.
    unsafe { std::slice::from_raw_parts(p, n) }
}

pub(super) fn cstring(s: &str) -> Result<CString, NativeError> {
    CString::new(s).map_err(|_| NativeError {
        code: RDKafkaErrorCode::InvalidArgument,
        text: format!("\"{}\" holds a zero byte", s.escape_default()),
        retriable: false,
    })
}
