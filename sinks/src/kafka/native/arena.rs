//! Messages as they wait to be handed over.

use std::ffi::CString;

use super::NativeError;
use super::text::cstring;

/// Messages of one partition, copied together so that librdkafka takes them in one call.
#[derive(Default)]
pub(in crate::kafka) struct Arena {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    /// Headers of the few messages that have one, which are handed over one by one: the batch call takes none.
    pub(super) headers: Vec<Header>,
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) tag: u64,
    pub(super) key: Option<u32>,
    pub(super) len: u32,
}

/// A header of one message.
pub(super) struct Header {
    /// The message's place among the entries.
    pub(super) at: usize,
    pub(super) name: CString,
    pub(super) value: String,
}

impl Arena {
    /// Copies a message in. The tag comes back in its report.
    pub(in crate::kafka) fn push(&mut self, tag: u64, key: Option<&[u8]>, payload: &[u8]) {
        if let Some(k) = key {
            self.bytes.extend_from_slice(k);
        }
        self.bytes.extend_from_slice(payload);
        self.entries.push(Entry { tag, key: key.map(|k| k.len() as u32), len: payload.len() as u32 });
    }

    /// Gives the last message a header; at most one, and only for messages that are rare.
    pub(in crate::kafka) fn head_last(&mut self, name: &str, value: String) -> Result<(), NativeError> {
        let name = cstring(name)?;
        if let Some(at) = self.entries.len().checked_sub(1) {
            self.headers.push(Header { at, name, value });
        }
        Ok(())
    }

    pub(in crate::kafka) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(in crate::kafka) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(in crate::kafka) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties it; memory beyond `keep` bytes is given back.
    pub(super) fn clear(&mut self, keep: usize) {
        self.headers.clear();
        self.bytes.clear();
        self.bytes.shrink_to(keep);
        self.entries.clear();
        self.entries.shrink_to(keep / 64);
    }
}

/// Bytes of an arena that are kept for the next use; more only while a commit or an outage lets it grow.
pub(super) const ARENA_KEEP: usize = 256 * 1024;
