//! The decoded record that owns its parts; through serde it goes to JSON and through apache-avro too.

use serde::{Deserialize, Serialize};

use super::body::Body;
use super::{DecodeError, SchemaVersion};
use crate::ids::Digest;
use crate::lustre::{Fid, RecordType, Time};

/// All fields of the newest schema version; those that an older one lacks are `None`.
///
/// Field by field the schema's, with the schema's names in serde. Unsigned numbers are the signed ones with the same
/// bits there, as in Avro.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChangelogRecord {
    /// The MDT's device name.
    pub mdt: String,
    /// Index on the MDT.
    #[serde(with = "bits64")]
    pub index: u64,
    /// Incarnation.
    #[serde(with = "bits32")]
    pub incarnation: u32,
    /// The type's name.
    #[serde(rename = "type")]
    pub symbol: TypeSymbol,
    /// The type's number.
    #[serde(with = "bits32")]
    pub type_code: u32,
    /// When it happened.
    pub time: Time,
    /// The low 12 bits of the flags.
    pub flags: u16,
    /// The target; for a MARK its marker flags as `seq`.
    pub tfid: Fid,
    /// The parent directory, if known.
    #[serde(default)]
    pub pfid: Option<Fid>,
    /// The name, with replacement characters if it is not UTF-8.
    #[serde(default)]
    pub name: Option<String>,
    /// The bytes of a name that is not UTF-8.
    #[serde(default, with = "nullable_bytes")]
    pub name_raw: Option<Vec<u8>>,
    /// Version 2: the source of a rename.
    #[serde(default)]
    pub rename: Option<RenameSource>,
    /// Version 3: the job id.
    #[serde(default)]
    pub jobid: Option<String>,
    /// Version 4: the extra flags.
    #[serde(default, with = "nullable_bits64")]
    pub extra_flags: Option<u64>,
    /// Version 4: user.
    #[serde(default, with = "nullable_bits64")]
    pub uid: Option<u64>,
    /// Version 4: group.
    #[serde(default, with = "nullable_bits64")]
    pub gid: Option<u64>,
    /// Version 4: the client's NID.
    #[serde(default)]
    pub nid: Option<String>,
    /// Version 4: the open mode, 12 bits.
    #[serde(default)]
    pub open_mode: Option<u16>,
    /// Version 4: the xattr's name.
    #[serde(default)]
    pub xattr: Option<String>,
    /// Version 5: the object's path, if a module found it.
    #[serde(default)]
    pub path: Option<String>,
    /// Version 5: the object's attributes, if a scan made the record.
    #[serde(default)]
    pub entry: Option<Entry>,
    /// Version 5: what a retraction makes void.
    #[serde(default)]
    pub retracts: Option<Retracts>,
}

/// What a rename says of its source.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RenameSource {
    /// The renamed object.
    pub sfid: Fid,
    /// The directory it was in.
    pub spfid: Fid,
    /// The name it had there, with replacement characters if it is not UTF-8.
    #[serde(default)]
    pub sname: Option<String>,
    /// The bytes of an old name that is not UTF-8.
    #[serde(default, with = "nullable_bytes")]
    pub sname_raw: Option<Vec<u8>>,
}

/// Attributes of an object as `stat` gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Entry {
    /// File type and permissions (`st_mode`).
    #[serde(with = "bits32")]
    pub mode: u32,
    /// Hard links.
    #[serde(with = "bits64")]
    pub nlink: u64,
    /// Owner.
    #[serde(with = "bits64")]
    pub uid: u64,
    /// Group.
    #[serde(with = "bits64")]
    pub gid: u64,
    /// Bytes.
    #[serde(with = "bits64")]
    pub size: u64,
    /// Blocks of 512 bytes.
    #[serde(with = "bits64")]
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the attributes.
    pub ctime: Time,
}

/// Indexes, both ends included, that an MDT crash made void.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Retracts {
    /// The incarnation they were published in.
    #[serde(with = "bits32")]
    pub incarnation: u32,
    /// The first void index.
    #[serde(with = "bits64")]
    pub from: u64,
    /// The last void index.
    #[serde(with = "bits64")]
    pub to: u64,
}

/// Symbols of the schema's enum: the types' names, and `UNKNOWN` for a type that it does not name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // The names are RecordType's, which has the docs.
pub enum TypeSymbol {
    Mark,
    Creat,
    Mkdir,
    Hlink,
    Slink,
    Mknod,
    Unlnk,
    Rmdir,
    Renme,
    Rnmto,
    Open,
    Close,
    Lyout,
    Trunc,
    Sattr,
    Xattr,
    Hsm,
    Mtime,
    Ctime,
    Atime,
    Migrt,
    Flrw,
    Resync,
    Gxatr,
    Nopen,
    #[default]
    Unknown,
}

impl TypeSymbol {
    /// In the order of the schema.
    const ALL: [Self; 26] = [
        Self::Mark,
        Self::Creat,
        Self::Mkdir,
        Self::Hlink,
        Self::Slink,
        Self::Mknod,
        Self::Unlnk,
        Self::Rmdir,
        Self::Renme,
        Self::Rnmto,
        Self::Open,
        Self::Close,
        Self::Lyout,
        Self::Trunc,
        Self::Sattr,
        Self::Xattr,
        Self::Hsm,
        Self::Mtime,
        Self::Ctime,
        Self::Atime,
        Self::Migrt,
        Self::Flrw,
        Self::Resync,
        Self::Gxatr,
        Self::Nopen,
        Self::Unknown,
    ];

    /// The number of the symbol in the schema; for a known type its own number.
    #[must_use]
    #[inline]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl From<RecordType> for TypeSymbol {
    #[inline]
    fn from(rtype: RecordType) -> Self {
        let known = Self::ALL.get(rtype.0 as usize);
        known.copied().unwrap_or(Self::Unknown)
    }
}

impl ChangelogRecord {
    /// Reads a framed payload of any version.
    ///
    /// # Errors
    /// If the payload is not exactly one framed record.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_versioned(payload).map(|(record, _)| record)
    }

    /// Like [`decode`](Self::decode), with the version that the record was written with.
    ///
    /// # Errors
    /// If the payload is not exactly one framed record.
    pub fn decode_versioned(payload: &[u8]) -> Result<(Self, SchemaVersion), DecodeError> {
        let body = Body::read(payload)?;
        let text = |s: Option<&str>| s.map(str::to_owned);
        let bytes = |b: Option<&[u8]>| b.map(<[u8]>::to_vec);
        let record = Self {
            mdt: body.mdt.to_owned(),
            index: body.index,
            incarnation: body.incarnation,
            symbol: TypeSymbol::from(RecordType(u32::from(body.symbol))),
            type_code: body.type_code,
            time: body.time,
            flags: body.flags,
            tfid: body.tfid,
            pfid: body.pfid,
            name: text(body.name),
            name_raw: bytes(body.name_raw),
            rename: body.rename.map(|r| RenameSource {
                sfid: r.sfid,
                spfid: r.spfid,
                sname: text(r.sname),
                sname_raw: bytes(r.sname_raw),
            }),
            jobid: text(body.jobid),
            extra_flags: body.extra.extra_flags,
            uid: body.extra.uid,
            gid: body.extra.gid,
            nid: text(body.extra.nid),
            open_mode: body.extra.open_mode,
            xattr: text(body.extra.xattr),
            path: text(body.path),
            entry: body.entry,
            retracts: body.retracts,
        };
        Ok((record, body.version))
    }

    /// The same digest that the record's view had.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.index, RecordType(self.type_code), self.time, self.tfid)
    }
}

/// Unsigned numbers as the signed ones with the same bits.
macro_rules! bits {
    ($module:ident, $unsigned:ty, $signed:ty) => {
        mod $module {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            pub(super) fn serialize<S: Serializer>(value: &$unsigned, s: S) -> Result<S::Ok, S::Error> {
                value.cast_signed().serialize(s)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<$unsigned, D::Error> {
                <$signed>::deserialize(d).map(<$signed>::cast_unsigned)
            }
        }
    };
}

bits!(bits32, u32, i32);
bits!(bits64, u64, i64);

mod nullable_bits64 {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        value.map(u64::cast_signed).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        Option::<i64>::deserialize(d).map(|v| v.map(i64::cast_unsigned))
    }
}

/// Bytes, which serde would otherwise take for a sequence of numbers.
mod nullable_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        value.as_deref().map(serde_bytes::Bytes::new).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<serde_bytes::ByteBuf>::deserialize(d).map(|bytes| bytes.map(serde_bytes::ByteBuf::into_vec))
    }
}
