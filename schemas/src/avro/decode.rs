//! Framing and errors of decoding.

use super::schema::{CONFLUENT, SINGLE_OBJECT};
use super::{Framing, SchemaVersion, by_fingerprint};

/// A payload that is not a record of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a changelog record at byte {offset} of the payload: {kind}")]
pub struct DecodeError {
    /// How far into the payload it made sense, in bytes.
    pub offset: usize,
    /// What is wrong.
    pub kind: DecodeErrorKind,
}

/// What is wrong with a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeErrorKind {
    /// It begins with neither `C3 01` nor `00`.
    #[error("neither single-object (C3 01) nor Confluent (00) framing")]
    Framing,
    /// A schema that this version does not have.
    #[error("unknown schema fingerprint {:016x}", u64::from_be_bytes(*.0))]
    Fingerprint([u8; 8]),
    /// It ends in the middle.
    #[error("it ends in the middle of a value")]
    Truncated,
    /// Bytes follow the record.
    #[error("bytes follow the record")]
    Trailing,
    /// A number that is no number, or beyond its field.
    #[error("a number is out of its range")]
    Number,
    /// A union's branch that does not exist.
    #[error("a union has no such branch")]
    Branch,
    /// A symbol that the enum does not have.
    #[error("the type has no such symbol")]
    Symbol,
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
}

/// The framing of a payload, the version where the framing says it, and the body's offset.
///
/// # Errors
/// If the payload begins with neither framing, or has a fingerprint that no version has.
pub fn framing_of(payload: &[u8]) -> Result<(Framing, Option<SchemaVersion>, usize), DecodeError> {
    let error = |offset, kind| DecodeError { offset, kind };
    if let Some(rest) = payload.strip_prefix(&SINGLE_OBJECT) {
        let fingerprint =
            *rest.first_chunk::<8>().ok_or_else(|| error(SINGLE_OBJECT.len(), DecodeErrorKind::Truncated))?;
        let version = by_fingerprint(fingerprint)
            .ok_or_else(|| error(SINGLE_OBJECT.len(), DecodeErrorKind::Fingerprint(fingerprint)))?;
        return Ok((Framing::SingleObject, Some(version), SINGLE_OBJECT.len() + 8));
    }
    match payload.split_first() {
        Some((&CONFLUENT, rest)) => {
            let id = rest.first_chunk::<4>().ok_or_else(|| error(1, DecodeErrorKind::Truncated))?;
            let id = u32::from_be_bytes(*id);
            Ok((Framing::Confluent { id }, None, 5))
        }
        Some(_) => Err(error(0, DecodeErrorKind::Framing)),
        None => Err(error(0, DecodeErrorKind::Truncated)),
    }
}
