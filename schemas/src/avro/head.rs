//! What read-back needs of a published record, in place and without apache-avro.

use super::body::Body;
use super::{DecodeError, Retracts, SchemaVersion};
use crate::ids::Digest;
use crate::lustre::{Fid, RecordType, Time};

/// The identity of a published record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head<'a> {
    /// The version that it was written with.
    pub version: SchemaVersion,
    /// The MDT's device name, not validated.
    pub mdt: &'a str,
    /// Index on the MDT.
    pub index: u64,
    /// Incarnation.
    pub incarnation: u32,
    /// The type's number.
    pub type_code: u32,
    /// When it happened.
    pub time: Time,
    /// The target.
    pub tfid: Fid,
    /// What a retraction makes void; `None` for all else, and below version 5.
    pub retracts: Option<Retracts>,
}

impl<'a> Head<'a> {
    /// Reads a framed payload of any version; the whole record must be well-formed.
    ///
    /// # Errors
    /// If the payload is not exactly one framed record.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let body = Body::read(payload)?;
        Ok(Self {
            version: body.version,
            mdt: body.mdt,
            index: body.index,
            incarnation: body.incarnation,
            type_code: body.type_code,
            time: body.time,
            tfid: body.tfid,
            retracts: body.retracts,
        })
    }

    /// The same digest that the record's view had.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.index, RecordType(self.type_code), self.time, self.tfid)
    }
}
