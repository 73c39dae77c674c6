//! Messages as they wait to be handed over.

/// Messages of one partition, copied together so that librdkafka takes them in one call.
#[derive(Default)]
pub(in crate::kafka) struct Arena {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) tag: u64,
    pub(super) key: Option<u32>,
    pub(super) len: u32,
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
        self.bytes.clear();
        self.bytes.shrink_to(keep);
        self.entries.clear();
        self.entries.shrink_to(keep / 64);
    }
}

/// Bytes of an arena that are kept for the next use; more only while a commit or an outage lets it grow.
pub(super) const ARENA_KEEP: usize = 256 * 1024;
