//! Sizes and flag bits of the record layout (`lustre_user.h`). Numbers only.

/// The fixed head of every record, in bytes.
pub(crate) const HEAD: usize = 64;
/// The rename extension: source FID and source parent FID.
pub(crate) const RENAME: usize = 32;
/// The jobid extension.
pub(crate) const JOBID: usize = 32;
/// The extra flags extension.
pub(crate) const EXTRA_FLAGS: usize = 8;
/// The uid and gid extension.
pub(crate) const UIDGID: usize = 16;
/// The NID extension.
pub(crate) const NID: usize = 24;
/// The open mode extension.
pub(crate) const OPEN: usize = 4;
/// The xattr name extension.
pub(crate) const XATTR: usize = 256;
/// The longest name.
pub(crate) const NAME: usize = 255;
/// The longest name field of a rename: target name, NUL, source name.
pub(crate) const RENAME_NAMES: usize = NAME + 1 + NAME;

/// The longest possible record, in bytes: all extensions and two names of 255 bytes.
pub const MAX_RECORD: usize = HEAD + RENAME + JOBID + EXTRA_FLAGS + UIDGID + NID + OPEN + XATTR + RENAME_NAMES;

/// Bits of `cr_flags`.
pub mod clf {
    /// The part that depends on the record's type.
    pub const FLAG_MASK: u16 = 0x0fff;
    /// Format version bit; adds no bytes.
    pub const VERSION: u16 = 0x1000;
    /// The rename extension follows.
    pub const RENAME: u16 = 0x2000;
    /// The jobid extension follows.
    pub const JOBID: u16 = 0x4000;
    /// The extra flags follow.
    pub const EXTRA_FLAGS: u16 = 0x8000;
}

/// Bits of the extra flags (`cr_extra_flags`).
pub mod clfe {
    /// uid and gid follow.
    pub const UIDGID: u64 = 0x01;
    /// The client's NID follows.
    pub const NID: u64 = 0x02;
    /// The open mode follows.
    pub const OPEN: u64 = 0x04;
    /// The xattr's name follows.
    pub const XATTR: u64 = 0x08;
    /// The NID is in the big-endian layout; adds no bytes.
    pub const NID_BE: u64 = 0x10;
    /// The bits that add bytes.
    pub const SIZED: u64 = UIDGID | NID | OPEN | XATTR;
}
