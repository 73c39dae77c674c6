//! Brings a record to a wanted set of extensions, as liblustreapi does for its callers.

use super::layout::{self, clf, clfe};
use super::{Nid, View};

/// Appends `view` with exactly the extensions that `flags` ([`clf`]) and `extra_flags` ([`clfe`]) name: what is not
/// wanted is left out, what is wanted and not there is zeroes. The low 12 bits of the record's own flags stay.
///
/// Without [`clf::RENAME`] the source's name goes too. A NID is written big-endian if [`clfe::NID_BE`] is wanted,
/// else in the old layout, where a large one is all zero. Unspecified bytes of the head are handed on as they are.
pub fn remap(view: &View<'_>, flags: u16, extra_flags: u64, out: &mut Vec<u8>) {
    let wants = |bit: u16| flags & bit != 0;
    let extra = if wants(clf::EXTRA_FLAGS) { extra_flags & (clfe::SIZED | clfe::NID_BE) } else { 0 };
    let names =
        if view.rename().is_some() && !wants(clf::RENAME) { view.name().unwrap_or_default() } else { view.names_raw() };
    let raw_flags = flags & !clf::FLAG_MASK | view.flags();

    // A name field has at most 511 bytes, and a view at least a head.
    out.extend_from_slice(&(names.len() as u16).to_le_bytes());
    out.extend_from_slice(&raw_flags.to_le_bytes());
    out.extend_from_slice(view.bytes().get(4..layout::HEAD).unwrap_or_default());
    if wants(clf::RENAME) {
        let (sfid, spfid) = view.rename().map(|r| (r.sfid, r.spfid)).unwrap_or_default();
        out.extend_from_slice(&sfid.to_le_bytes());
        out.extend_from_slice(&spfid.to_le_bytes());
    }
    if wants(clf::JOBID) {
        zero_filled(view.jobid(), layout::JOBID, out);
    }
    if wants(clf::EXTRA_FLAGS) {
        out.extend_from_slice(&extra.to_le_bytes());
    }
    if extra & clfe::UIDGID != 0 {
        let (uid, gid) = view.uid_gid().unwrap_or_default();
        out.extend_from_slice(&uid.to_le_bytes());
        out.extend_from_slice(&gid.to_le_bytes());
    }
    if extra & clfe::NID != 0 {
        out.extend_from_slice(&nid(view.nid().unwrap_or_default(), extra));
    }
    if extra & clfe::OPEN != 0 {
        out.extend_from_slice(&view.open_mode().unwrap_or_default().to_le_bytes());
    }
    if extra & clfe::XATTR != 0 {
        zero_filled(view.xattr(), layout::XATTR, out);
    }
    out.extend_from_slice(names);
}

fn nid(nid: Nid, extra: u64) -> [u8; layout::NID] {
    if extra & clfe::NID_BE == 0 {
        nid.to_le()
    } else {
        // A network type beyond one byte exists in the old layout only, and in no real network.
        nid.to_be().unwrap_or_default()
    }
}

fn zero_filled(value: Option<&[u8]>, size: usize, out: &mut Vec<u8>) {
    let end = out.len() + size;
    out.extend_from_slice(value.unwrap_or_default());
    out.resize(end, 0);
}
