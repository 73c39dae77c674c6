//! Understanding a record that was read back from a broker. What is not ours is an error that names where it lies.

use std::fmt::Display;

use clbridge_schemas::avro::{self, Retracts};

use crate::error::SinkError;
use crate::retraction::{RETRACTS_HEADER, read_header};
use crate::topic::{Head, Position, Stored, Topic};

/// Understands the value of the header that a retraction has, of the message at `place`.
///
/// # Errors
/// [`SinkError::Mismatch`] if no retraction has that value.
pub fn retracts(place: &dyn Display, header: Option<&[u8]>) -> Result<Option<Retracts>, SinkError> {
    let Some(value) = header else { return Ok(None) };
    read_header(value).map(Some).ok_or_else(|| {
        foreign(place, format!("its header {RETRACTS_HEADER} is \"{}\", which no retraction has", value.escape_ascii()))
    })
}

/// Understands a record of `topic` that lies at `at`, with the value of the header that a retraction has. `place` says
/// where that is in the broker's own words.
///
/// # Errors
/// [`SinkError::Mismatch`] if it is not a record of this topic's MDT.
pub fn stored(
    topic: &Topic,
    at: Position,
    place: &dyn Display,
    payload: &[u8],
    header: Option<&[u8]>,
) -> Result<Stored, SinkError> {
    let mut decoded =
        avro::Head::decode(payload).map_err(|e| foreign(place, format!("is not a record of clbridge: {e}")))?;
    if decoded.mdt != topic.mdt.as_str() {
        return Err(foreign(place, format!("is a record of {}", decoded.mdt)));
    }
    // Below version 5 only the header says it, and without it this would be taken for the record of that index.
    if decoded.retracts.is_none() {
        decoded.retracts = retracts(place, header)?;
    }
    let head = Head::of(&decoded).ok_or_else(|| foreign(place, "has index 0, which no record has".to_owned()))?;
    Ok(Stored { at, head })
}

/// What to say of a message that no bridge wrote.
#[must_use]
pub fn foreign(place: &dyn Display, why: String) -> SinkError {
    SinkError::Mismatch {
        what: place.to_string(),
        why,
        hint: "find out who writes to this topic; nobody but the bridge may".to_owned(),
    }
}
