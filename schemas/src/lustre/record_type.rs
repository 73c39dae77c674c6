//! Record types.

use std::fmt;

use super::Fid;

/// The type of a record (`enum changelog_rec_type`). A number without a name is a newer server's, not an error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RecordType(pub u32);

macro_rules! types {
    ($($name:ident = $number:literal, $doc:literal;)*) => {
        impl RecordType {
            $(#[doc = $doc] pub const $name: Self = Self($number);)*
        }
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

types! {
    MARK = 0, "Mark of the changelog itself: started, stopped, purged.";
    CREAT = 1, "A regular file was created.";
    MKDIR = 2, "A directory was created.";
    HLINK = 3, "A hard link was made.";
    SLINK = 4, "A symbolic link was made.";
    MKNOD = 5, "A special file was made.";
    UNLNK = 6, "A name was removed.";
    RMDIR = 7, "A directory was removed.";
    RENME = 8, "A rename; on Lustre 2.0 its source half.";
    RNMTO = 9, "The target half of a rename, Lustre 2.0 only.";
    OPEN = 10, "A file was opened.";
    CLOSE = 11, "A file that was open for writing was closed.";
    LYOUT = 12, "The layout changed.";
    TRUNC = 13, "A file was truncated.";
    SATTR = 14, "Attributes were set.";
    XATTR = 15, "An extended attribute was set or removed.";
    HSM = 16, "An HSM event.";
    MTIME = 17, "mtime changed.";
    CTIME = 18, "ctime changed.";
    ATIME = 19, "atime changed.";
    MIGRT = 20, "A directory entry was migrated to another MDT.";
    FLRW = 21, "A mirrored file was written for the first time since it was in sync.";
    RESYNC = 22, "A mirrored file was brought in sync.";
    GXATR = 23, "An extended attribute was read.";
    NOPEN = 24, "An open was denied.";
}

impl RecordType {
    /// The largest number that can be a type: masks of types have 64 bits, so more is not a type but a broken stream.
    pub const LARGEST: u32 = 63;

    /// The name as the tools print it, at most 6 characters; `None` for a type that this version does not know.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.get(self.0 as usize).copied()
    }

    /// The type with this name, exactly as [`name`](Self::name) gives it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let number = NAMES.iter().position(|known| *known == name)?;
        Some(Self(number as u32))
    }

    /// All types that this version knows, by number.
    pub fn known() -> impl Iterator<Item = Self> {
        (0..NAMES.len() as u32).map(Self)
    }

    /// The part of a target FID that means something: a MARK has marker flags in its first 32 bits, and the kernel
    /// leaves the rest of it unspecified.
    #[inline]
    pub(crate) fn meaningful_tfid(self, tfid: Fid) -> Fid {
        if self == Self::MARK { Fid { seq: tfid.seq & u64::from(u32::MAX), oid: 0, ver: 0 } } else { tfid }
    }
}

/// The name, or `UNKNOWN(n)`.
impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "UNKNOWN({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_and_an_unknown_type_has_no_name() {
        assert_eq!(RecordType::known().count(), 25);
        for t in RecordType::known() {
            assert_eq!(t.name().and_then(RecordType::from_name), Some(t));
        }
        assert_eq!(RecordType::NOPEN.name(), Some("NOPEN"));
        assert_eq!(RecordType(25).name(), None);
        assert_eq!(RecordType(25).to_string(), "UNKNOWN(25)");
        assert_eq!(RecordType::from_name("creat"), None);
    }
}
