//! Walks over the records in a read buffer.

use super::layout;
use super::view::{View, parse};

/// Iterates over the whole records at the beginning of `buf`.
///
/// `base_offset` is where `buf` begins in its stream; errors give their offset in the stream. A record that the
/// buffer holds only a part of is no error: it stays in [`Records::rest`] for the next read. After an error the
/// iteration ends, since nothing says where the next record would begin.
pub fn records(buf: &[u8], base_offset: u64) -> Records<'_> {
    Records { rest: buf, offset: base_offset, failed: false }
}

/// The iterator that [`records`] returns.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    offset: u64,
    failed: bool,
}

impl<'a> Records<'a> {
    /// What no record was made of yet: the partial record at the end, once the iteration has ended well.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Where [`rest`](Self::rest) begins in the stream.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// For the end of a stream, where no next read completes what is left.
    ///
    /// # Errors
    /// If a record is incomplete or wrong.
    pub fn finish(&self) -> Result<(), RecordError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        match parse(self.rest) {
            Ok(_) => Ok(()),
            Err((index, kind)) => Err(RecordError { index, offset: self.offset, kind }),
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<View<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        match parse(self.rest) {
            Ok(view) => {
                let length = view.bytes().len();
                self.rest = self.rest.get(length..).unwrap_or_default();
                self.offset += length as u64;
                Some(Ok(view))
            }
            Err((_, RecordErrorKind::Truncated { .. })) => None,
            Err((index, kind)) => {
                self.failed = true;
                Some(Err(RecordError { index, offset: self.offset, kind }))
            }
        }
    }
}

/// Bytes that are not a record of a changelog.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed changelog record {} at byte {offset}: {kind}", index.map_or_else(|| "of unknown index".to_owned(), |i| i.to_string()))]
pub struct RecordError {
    /// The index that the record claims to have; `None` if the head itself is incomplete.
    pub index: Option<u64>,
    /// Where the record begins in the stream, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub kind: RecordErrorKind,
}

/// What is wrong with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordErrorKind {
    /// The input ends inside the record.
    #[error("{have} bytes are there, the record needs at least {need}")]
    Truncated {
        /// Bytes that the record has at least.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// One record was expected and more bytes follow it.
    #[error("{extra} bytes follow the record")]
    Trailing {
        /// Bytes behind the record.
        extra: usize,
    },
    /// The name is longer than file names are (255 bytes, two names and a NUL for a rename).
    #[error("a name of {length} bytes, of at most {max}")]
    NameTooLong {
        /// `cr_namelen`.
        length: u16,
        /// What this kind of record may have.
        max: usize,
    },
    /// A NUL in a name; in a rename, a second one.
    #[error("a NUL at byte {at} of the name")]
    NulInName {
        /// Offset in the name field.
        at: usize,
    },
    /// A type that no mask can name: masks have 64 bits.
    #[error("type {0:#x} is out of range (at most {max})", max = super::RecordType::LARGEST)]
    Type(u32),
    /// Index 0, or one beyond 63 bits.
    #[error("index {0} is out of range (1 to 9223372036854775807)")]
    Index(u64),
    /// A time that is not (seconds << 30) + nanoseconds below 10^9, or is beyond the year 2262.
    #[error("{0:#x} is not a time")]
    Time(u64),
    /// A NID with a longer address than any network has.
    #[error("a NID of {} address bytes, of at most {}", 4 + usize::from(*.0), layout::NID - 8)]
    Nid(u8),
}
