//! A record that owns its parts, and the writer of the kernel's bytes.

use super::layout::{self, clf, clfe};
use super::{Fid, Nid, RecordType, Time, View};

/// A record with parts of its own: what is there is written, extensions in the kernel's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The index on the MDT, 1 to 2^63 - 1.
    pub index: u64,
    /// The type.
    pub rtype: RecordType,
    /// When it happened; not before 1970.
    pub time: Time,
    /// The low 12 bits of the flags.
    pub flags: u16,
    /// The format version bit of the flags (`CLF_VERSION`), which servers set.
    pub version: bool,
    /// The target; for a MARK its marker flags as `seq`.
    pub tfid: Fid,
    /// The parent directory; zero for none.
    pub pfid: Fid,
    /// The name (of a rename: the new one), at most 255 bytes without NUL; empty for none.
    pub name: Vec<u8>,
    /// The rename extension.
    pub rename: Option<OwnedRename>,
    /// The job id, at most 32 bytes without NUL.
    pub jobid: Option<Vec<u8>>,
    /// The extra flags. Their bits for uid and gid, NID, open mode and xattr are set by what is there when the
    /// record is written; `NID_BE` here says in which layout the NID is written.
    pub extra_flags: Option<u64>,
    /// User and group.
    pub uid_gid: Option<(u64, u64)>,
    /// The client's NID.
    pub nid: Option<Nid>,
    /// The open mode.
    pub open_mode: Option<u32>,
    /// The name of the xattr, at most 256 bytes without NUL.
    pub xattr: Option<Vec<u8>>,
}

/// The rename extension with the source's name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnedRename {
    /// The renamed object.
    pub sfid: Fid,
    /// The directory it was in.
    pub spfid: Fid,
    /// The name it had there, at most 255 bytes without NUL.
    pub sname: Option<Vec<u8>>,
}

/// A record that the kernel's layout cannot hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WriteError {
    /// Index 0, or one beyond 63 bits.
    #[error("record {0} cannot be written: an index is 1 to 9223372036854775807")]
    Index(u64),
    /// A field is longer than its place, or holds a NUL.
    #[error("record {index} cannot be written: its {field} must have at most {max} bytes and no NUL")]
    Field {
        /// The record.
        index: u64,
        /// Which field.
        field: &'static str,
        /// Its place, in bytes.
        max: usize,
    },
    /// A number that its field cannot hold.
    #[error("record {index} cannot be written: its {field} is out of range")]
    Range {
        /// The record.
        index: u64,
        /// Which field.
        field: &'static str,
    },
}

impl Record {
    /// A copy of all that is specified in `view`: no garbage of MARKs, and no parent that is not to be trusted.
    #[must_use]
    pub fn from_view(view: View<'_>) -> Self {
        Self {
            index: view.index(),
            rtype: view.rtype(),
            time: view.time(),
            flags: view.flags(),
            version: view.raw_flags() & clf::VERSION != 0,
            tfid: view.tfid(),
            pfid: view.parent().unwrap_or(Fid::ZERO),
            name: view.name().unwrap_or_default().to_vec(),
            rename: view.rename().map(|r| OwnedRename {
                sfid: r.sfid,
                spfid: r.spfid,
                sname: r.sname.map(<[u8]>::to_vec),
            }),
            jobid: view.jobid().map(<[u8]>::to_vec),
            extra_flags: view.extra_flags(),
            uid_gid: view.uid_gid(),
            nid: view.nid(),
            open_mode: view.open_mode(),
            xattr: view.xattr().map(<[u8]>::to_vec),
        }
    }

    /// Appends the record's bytes as the kernel would hand them out. On an error nothing is appended.
    ///
    /// # Errors
    /// If a field does not fit in the layout.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), WriteError> {
        let start = out.len();
        let written = self.write_parts(out);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    /// The flags as they are written: bits that announce extensions by what is there.
    #[must_use]
    pub fn raw_flags(&self) -> u16 {
        let bit = |present: bool, bit: u16| if present { bit } else { 0 };
        self.flags & clf::FLAG_MASK
            | bit(self.version, clf::VERSION)
            | bit(self.rename.is_some(), clf::RENAME)
            | bit(self.jobid.is_some(), clf::JOBID)
            | bit(self.extra().is_some(), clf::EXTRA_FLAGS)
    }

    /// The extra flags as they are written.
    fn extra(&self) -> Option<u64> {
        let bit = |present: bool, bit: u64| if present { bit } else { 0 };
        let sized = bit(self.uid_gid.is_some(), clfe::UIDGID)
            | bit(self.nid.is_some(), clfe::NID)
            | bit(self.open_mode.is_some(), clfe::OPEN)
            | bit(self.xattr.is_some(), clfe::XATTR);
        match self.extra_flags {
            None if sized == 0 => None,
            given => Some(given.unwrap_or(0) & !clfe::SIZED | sized),
        }
    }

    fn write_parts(&self, out: &mut Vec<u8>) -> Result<(), WriteError> {
        let index = self.index;
        if index == 0 || index > i64::MAX as u64 {
            return Err(WriteError::Index(index));
        }
        let out_of_range = |field| WriteError::Range { index, field };
        if self.rtype.0 > RecordType::LARGEST {
            return Err(out_of_range("type"));
        }
        let time = self.time.to_kernel().ok_or(out_of_range("time"))?;
        self.check("name", &self.name, layout::NAME)?;
        let sname = self.rename.as_ref().and_then(|r| r.sname.as_deref());
        if let Some(sname) = sname {
            self.check("source name", sname, layout::NAME)?;
        }
        // At most 255 + 1 + 255.
        let namelen = (self.name.len() + sname.map_or(0, |s| 1 + s.len())) as u16;

        out.extend_from_slice(&namelen.to_le_bytes());
        out.extend_from_slice(&self.raw_flags().to_le_bytes());
        out.extend_from_slice(&self.rtype.0.to_le_bytes());
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&[0; 8]); // cr_prev, which servers never set
        out.extend_from_slice(&time.to_le_bytes());
        out.extend_from_slice(&self.tfid.to_le_bytes());
        out.extend_from_slice(&self.pfid.to_le_bytes());
        if let Some(rename) = &self.rename {
            out.extend_from_slice(&rename.sfid.to_le_bytes());
            out.extend_from_slice(&rename.spfid.to_le_bytes());
        }
        if let Some(jobid) = &self.jobid {
            self.write_field("jobid", jobid, layout::JOBID, out)?;
        }
        if let Some(extra) = self.extra() {
            out.extend_from_slice(&extra.to_le_bytes());
            self.write_extra(extra, out)?;
        }
        out.extend_from_slice(&self.name);
        if let Some(sname) = sname {
            out.push(0);
            out.extend_from_slice(sname);
        }
        Ok(())
    }

    fn write_extra(&self, extra: u64, out: &mut Vec<u8>) -> Result<(), WriteError> {
        if let Some((uid, gid)) = self.uid_gid {
            out.extend_from_slice(&uid.to_le_bytes());
            out.extend_from_slice(&gid.to_le_bytes());
        }
        if let Some(nid) = self.nid {
            let raw = if extra & clfe::NID_BE == 0 {
                nid.to_le()
            } else {
                nid.to_be().ok_or(WriteError::Range { index: self.index, field: "NID's network type" })?
            };
            out.extend_from_slice(&raw);
        }
        if let Some(mode) = self.open_mode {
            out.extend_from_slice(&mode.to_le_bytes());
        }
        if let Some(xattr) = &self.xattr {
            self.write_field("xattr name", xattr, layout::XATTR, out)?;
        }
        Ok(())
    }

    fn check(&self, field: &'static str, value: &[u8], max: usize) -> Result<(), WriteError> {
        if value.len() > max || value.contains(&0) {
            return Err(WriteError::Field { index: self.index, field, max });
        }
        Ok(())
    }

    fn write_field(&self, field: &'static str, value: &[u8], size: usize, out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.check(field, value, size)?;
        let end = out.len() + size;
        out.extend_from_slice(value);
        out.resize(end, 0);
        Ok(())
    }
}
