//! One record in place: validated once, then read without copying.

use std::fmt;

use super::layout::{self, clf, clfe};
use super::{Fid, Nid, RecordError, RecordErrorKind, RecordType, Time};
use crate::ids::Digest;

/// A whole, validated record where it lies in the read buffer.
///
/// The numbers are read once, when the record is validated; names stay in the buffer. Bytes that the kernel leaves
/// unspecified (see the methods) are never part of a value that is to be compared or published.
#[derive(Clone, Copy)]
pub struct View<'a> {
    bytes: &'a [u8],
    index: u64,
    time: Time,
    tfid: Fid,
    pfid: Fid,
    rename: Option<(Fid, Fid)>,
    jobid: Option<&'a [u8]>,
    extra_flags: Option<u64>,
    uid_gid: Option<(u64, u64)>,
    nid: Option<Nid>,
    open_mode: Option<u32>,
    xattr: Option<&'a [u8]>,
    names: &'a [u8],
    /// Where the target's name ends in `names`.
    name_len: usize,
    rtype: RecordType,
    raw_flags: u16,
}

/// What a rename says of its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rename<'a> {
    /// The renamed object; zero where a remap filled the extension in.
    pub sfid: Fid,
    /// The directory it was in.
    pub spfid: Fid,
    /// The name it had there; not necessarily UTF-8.
    pub sname: Option<&'a [u8]>,
}

impl<'a> View<'a> {
    /// A view of `bytes`, which must be exactly one record; `offset` is where it lies in its stream, for the error.
    ///
    /// # Errors
    /// If the bytes are not exactly one well-formed record.
    pub fn new(bytes: &'a [u8], offset: u64) -> Result<Self, RecordError> {
        let error = |(index, kind)| RecordError { index, offset, kind };
        let view = parse(bytes).map_err(error)?;
        match bytes.len() - view.bytes.len() {
            0 => Ok(view),
            extra => Err(error((Some(view.index), RecordErrorKind::Trailing { extra }))),
        }
    }

    /// The index on the MDT, 1 to 2^63 - 1.
    #[must_use]
    #[inline]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The type, maybe one that has no name yet.
    #[must_use]
    #[inline]
    pub fn rtype(&self) -> RecordType {
        self.rtype
    }

    /// When it happened, by the MDT's clock.
    #[must_use]
    #[inline]
    pub fn time(&self) -> Time {
        self.time
    }

    /// The low 12 bits of the flags, whose meaning depends on the type.
    #[must_use]
    #[inline]
    pub fn flags(&self) -> u16 {
        self.raw_flags & clf::FLAG_MASK
    }

    /// All flags, those that announce extensions included ([`clf`](super::clf)).
    #[must_use]
    #[inline]
    pub fn raw_flags(&self) -> u16 {
        self.raw_flags
    }

    /// The target; for a MARK its marker flags as `seq`. Zero for a rename that replaced nothing.
    #[must_use]
    #[inline]
    pub fn tfid(&self) -> Fid {
        self.rtype.meaningful_tfid(self.tfid)
    }

    /// The target's bytes as they are: in a MARK the kernel leaves those behind the marker flags unspecified.
    #[must_use]
    #[inline]
    pub fn tfid_raw(&self) -> Fid {
        self.tfid
    }

    /// The parent's bytes as they are: in a record without a name they may be another record's.
    #[must_use]
    #[inline]
    pub fn pfid_raw(&self) -> Fid {
        self.pfid
    }

    /// The parent directory (of a rename: the target's), where the kernel's is to be trusted: in records with a name
    /// that are no MARK, if not zero.
    #[must_use]
    #[inline]
    pub fn parent(&self) -> Option<Fid> {
        (self.name().is_some() && !self.pfid.is_zero()).then_some(self.pfid)
    }

    /// The marker flags of a MARK: 1 on, 0x10000 start, 0x20000 fini, 0x40000 purge, 0x100000 always.
    #[must_use]
    #[inline]
    pub fn marker_flags(&self) -> Option<u32> {
        (self.rtype == RecordType::MARK).then_some(self.tfid.seq as u32)
    }

    /// The name (of a rename: the new one), any bytes but NUL; `None` if empty, and for a MARK, where it is garbage.
    #[must_use]
    #[inline]
    pub fn name(&self) -> Option<&'a [u8]> {
        if self.rtype == RecordType::MARK {
            return None;
        }
        self.names.get(..self.name_len).filter(|n| !n.is_empty())
    }

    /// The whole name field: of a rename both names with a NUL between them, of a MARK garbage.
    #[must_use]
    #[inline]
    pub fn names_raw(&self) -> &'a [u8] {
        self.names
    }

    /// The rename extension, where there is one.
    #[must_use]
    #[inline]
    pub fn rename(&self) -> Option<Rename<'a>> {
        self.rename.map(|(sfid, spfid)| Rename {
            sfid,
            spfid,
            sname: self.names.get(self.name_len + 1..).filter(|n| !n.is_empty()),
        })
    }

    /// The object that the record is about: the renamed one, or the target. A MARK is about none.
    #[must_use]
    #[inline]
    pub fn object(&self) -> Option<Fid> {
        match self.rename {
            _ if self.rtype == RecordType::MARK => None,
            Some((sfid, _)) if !sfid.is_zero() => Some(sfid),
            _ => Some(self.tfid),
        }
    }

    /// The job id up to its NUL, maybe empty; `None` without the extension.
    #[must_use]
    #[inline]
    pub fn jobid(&self) -> Option<&'a [u8]> {
        self.jobid
    }

    /// The extra flags ([`clfe`](super::clfe)), unknown bits included.
    #[must_use]
    #[inline]
    pub fn extra_flags(&self) -> Option<u64> {
        self.extra_flags
    }

    /// User and group of the process, where recorded.
    #[must_use]
    #[inline]
    pub fn uid_gid(&self) -> Option<(u64, u64)> {
        self.uid_gid
    }

    /// The client's NID, where recorded; zero if a server acted by itself.
    #[must_use]
    #[inline]
    pub fn nid(&self) -> Option<Nid> {
        self.nid
    }

    /// The 12 low bits of the open flags, the only ones that mean anything; `None` without the extension.
    #[must_use]
    #[inline]
    pub fn open_mode(&self) -> Option<u32> {
        self.open_mode
    }

    /// The xattr's name up to its NUL, maybe empty; `None` without the extension.
    #[must_use]
    #[inline]
    pub fn xattr(&self) -> Option<&'a [u8]> {
        self.xattr
    }

    /// The record's bytes, unspecified ones included: to be handed on, never compared.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What says whether two records are the same.
    #[must_use]
    #[inline]
    pub fn digest(&self) -> Digest {
        Digest::of(self.index, self.rtype, self.time, self.tfid)
    }

    fn values(&self) -> impl PartialEq + fmt::Debug {
        (
            (self.index, self.rtype, self.time, self.raw_flags),
            (self.tfid(), self.parent(), self.name(), self.rename()),
            (self.jobid, self.extra_flags, self.uid_gid, self.nid),
            (self.open_mode, self.xattr),
        )
    }
}

/// Equal in everything that the kernel specifies.
impl PartialEq for View<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.values() == other.values()
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("View").field(&self.values()).finish()
    }
}

type Flaw = (Option<u64>, RecordErrorKind);

/// Takes what lies in front, and knows how much a record would have needed.
struct Cursor<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], RecordErrorKind> {
        let Some((taken, rest)) = self.rest.split_first_chunk() else {
            return Err(self.truncated(N));
        };
        self.rest = rest;
        self.taken += N;
        Ok(taken)
    }

    #[inline(always)]
    fn slice(&mut self, length: usize) -> Result<&'a [u8], RecordErrorKind> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.truncated(length));
        };
        self.rest = rest;
        self.taken += length;
        Ok(taken)
    }

    fn truncated(&self, wanted: usize) -> RecordErrorKind {
        RecordErrorKind::Truncated { need: self.taken + wanted, have: self.taken + self.rest.len() }
    }

    #[inline(always)]
    fn u32(&mut self) -> Result<u32, RecordErrorKind> {
        self.take().copied().map(u32::from_le_bytes)
    }

    #[inline(always)]
    fn u64(&mut self) -> Result<u64, RecordErrorKind> {
        self.take().copied().map(u64::from_le_bytes)
    }

    #[inline(always)]
    fn fid(&mut self) -> Result<Fid, RecordErrorKind> {
        self.take().copied().map(Fid::from_le_bytes)
    }
}

/// The bytes before the first NUL: what follows it in the field is whatever the kernel's buffer held before.
#[inline(always)]
fn until_nul(field: &[u8]) -> &[u8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at a time, in place: the fields are too short for a search that is called.
    let (words, tail) = field.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let zeroes = word.wrapping_sub(ONES) & !word & HIGHS;
        if zeroes != 0 {
            // The lowest mark is exact: borrows go upwards only.
            return field.get(..8 * n + zeroes.trailing_zeros() as usize / 8).unwrap_or(field);
        }
    }
    let end = tail.iter().position(|b| *b == 0).unwrap_or(tail.len());
    field.get(..8 * words.len() + end).unwrap_or(field)
}

/// The record at the beginning of `buf`.
#[inline(always)]
pub(super) fn parse(buf: &[u8]) -> Result<View<'_>, Flaw> {
    let mut at = Cursor { rest: buf, taken: 0 };
    let head: &[u8; layout::HEAD] = at.take().map_err(|kind| (None, kind))?;
    let index = u64_in(head, 8);
    body(buf, head, index, at).map_err(|kind| (Some(index), kind))
}

/// A number in the head; constant offsets, so that the compiler sees that they are in range.
#[inline(always)]
fn u64_in(head: &[u8; layout::HEAD], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&head[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[inline(always)]
fn fid_in(head: &[u8; layout::HEAD], at: usize) -> Fid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&head[at..at + 16]);
    Fid::from_le_bytes(bytes)
}

#[inline(always)]
fn body<'a>(
    buf: &'a [u8],
    head: &[u8; layout::HEAD],
    index: u64,
    mut at: Cursor<'a>,
) -> Result<View<'a>, RecordErrorKind> {
    let first = u64_in(head, 0);
    let namelen = first as u16;
    let raw_flags = (first >> 16) as u16;
    let rtype = RecordType((first >> 32) as u32);
    if index == 0 || index > i64::MAX as u64 {
        return Err(RecordErrorKind::Index(index));
    }
    if rtype.0 > RecordType::LARGEST {
        return Err(RecordErrorKind::Type(rtype.0));
    }
    let raw_time = u64_in(head, 24);
    let time = Time::from_kernel(raw_time).ok_or(RecordErrorKind::Time(raw_time))?;
    let has_rename = raw_flags & clf::RENAME != 0;
    let max = if has_rename { layout::RENAME_NAMES } else { layout::NAME };
    if usize::from(namelen) > max {
        return Err(RecordErrorKind::NameTooLong { length: namelen, max });
    }

    let rename = if has_rename { Some((at.fid()?, at.fid()?)) } else { None };
    let jobid = if raw_flags & clf::JOBID != 0 { Some(until_nul(at.take::<{ layout::JOBID }>()?)) } else { None };
    let extra_flags = if raw_flags & clf::EXTRA_FLAGS != 0 { Some(at.u64()?) } else { None };
    let extra = extra_flags.unwrap_or(0);
    let uid_gid = if extra & clfe::UIDGID != 0 { Some((at.u64()?, at.u64()?)) } else { None };
    let nid = if extra & clfe::NID != 0 {
        let raw = at.take::<{ layout::NID }>()?;
        Some(if extra & clfe::NID_BE == 0 {
            Nid::from_le(raw)
        } else {
            Nid::from_be(raw).map_err(RecordErrorKind::Nid)?
        })
    } else {
        None
    };
    let open_mode = if extra & clfe::OPEN != 0 { Some(at.u32()? & u32::from(clf::FLAG_MASK)) } else { None };
    let xattr = if extra & clfe::XATTR != 0 { Some(until_nul(at.take::<{ layout::XATTR }>()?)) } else { None };
    let names = at.slice(usize::from(namelen))?;
    let name_len = name_length(rtype, has_rename, names)?;

    Ok(View {
        bytes: buf.get(..at.taken).unwrap_or(buf),
        index,
        time,
        tfid: fid_in(head, 32),
        pfid: fid_in(head, 48),
        rename,
        jobid,
        extra_flags,
        uid_gid,
        nid,
        open_mode,
        xattr,
        names,
        name_len,
        rtype,
        raw_flags,
    })
}

/// Where the (target's) name ends; a NUL may stand only between a rename's two names, of at most 255 bytes each.
#[inline(always)]
fn name_length(rtype: RecordType, has_rename: bool, names: &[u8]) -> Result<usize, RecordErrorKind> {
    if rtype == RecordType::MARK {
        return Ok(names.len());
    }
    let target = until_nul(names).len();
    if target == names.len() && target <= layout::NAME {
        return Ok(target);
    }
    if !has_rename {
        return Err(RecordErrorKind::NulInName { at: target });
    }
    let source = names.get(target + 1..).unwrap_or_default();
    let source_len = until_nul(source).len();
    if source_len < source.len() {
        return Err(RecordErrorKind::NulInName { at: target + 1 + source_len });
    }
    let longest = target.max(source_len);
    if longest > layout::NAME {
        return Err(RecordErrorKind::NameTooLong { length: longest as u16, max: layout::NAME });
    }
    Ok(target)
}
