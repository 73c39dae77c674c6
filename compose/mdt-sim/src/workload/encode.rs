//! A record from its parts, in the bytes of Lustre 2.16 with the NID in the big-endian form.
//! Index and time are left zero: the MDT sets them.

/// A FID: sequence, object, version.
pub(crate) type Fid = (u64, u32, u32);

/// The parts of a record; what is `None` is not in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: u32,
    /// The low 12 bits.
    pub(crate) flags: u16,
    pub(crate) tfid: Fid,
    pub(crate) pfid: Fid,
    /// Source FID, source parent and source name.
    pub(crate) rename: Option<(Fid, Fid, &'a [u8])>,
    pub(crate) jobid: Option<&'a str>,
    pub(crate) owner: Option<(u32, u32)>,
    /// The first 20 bytes of the big-endian form.
    pub(crate) nid: Option<&'a [u8; 20]>,
    pub(crate) open_mode: Option<u32>,
    pub(crate) xattr: Option<&'a str>,
    pub(crate) name: &'a [u8],
}

fn fid(out: &mut Vec<u8>, fid: Fid) {
    out.extend_from_slice(&fid.0.to_le_bytes());
    out.extend_from_slice(&fid.1.to_le_bytes());
    out.extend_from_slice(&fid.2.to_le_bytes());
}

/// A text in a field of `size` bytes, cut to leave a NUL.
fn field(out: &mut Vec<u8>, text: &str, size: usize) {
    let bytes = &text.as_bytes()[..text.len().min(size - 1)];
    out.extend_from_slice(bytes);
    out.resize(out.len() + size - bytes.len(), 0);
}

/// Appends the record.
pub(crate) fn encode(d: &Draft<'_>, out: &mut Vec<u8>) {
    let mut extra = 0u64;
    extra |= u64::from(d.owner.is_some());
    extra |= if d.nid.is_some() { 0x12 } else { 0 };
    extra |= if d.open_mode.is_some() { 0x4 } else { 0 };
    extra |= if d.xattr.is_some() { 0x8 } else { 0 };
    // CLF_VERSION: servers set it in every record.
    let mut flags = d.flags & 0x0fff | 0x1000;
    flags |= if d.rename.is_some() { 0x2000 } else { 0 };
    flags |= if d.jobid.is_some() { 0x4000 } else { 0 };
    flags |= if extra != 0 { 0x8000 } else { 0 };
    let name_len = d.name.len() + d.rename.map_or(0, |(_, _, source)| 1 + source.len());
    out.extend_from_slice(&(name_len as u16).to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&d.kind.to_le_bytes());
    out.extend_from_slice(&[0; 24]);
    fid(out, d.tfid);
    fid(out, d.pfid);
    if let Some((source, parent, _)) = d.rename {
        fid(out, source);
        fid(out, parent);
    }
    if let Some(jobid) = d.jobid {
        field(out, jobid, 32);
    }
    if extra != 0 {
        out.extend_from_slice(&extra.to_le_bytes());
    }
    if let Some((uid, gid)) = d.owner {
        out.extend_from_slice(&u64::from(uid).to_le_bytes());
        out.extend_from_slice(&u64::from(gid).to_le_bytes());
    }
    if let Some(nid) = d.nid {
        out.extend_from_slice(nid);
        out.extend_from_slice(&[0; 4]);
    }
    if let Some(mode) = d.open_mode {
        out.extend_from_slice(&mode.to_le_bytes());
    }
    if let Some(xattr) = d.xattr {
        field(out, xattr, 256);
    }
    out.extend_from_slice(d.name);
    if let Some((_, _, source)) = d.rename {
        out.push(0);
        out.extend_from_slice(source);
    }
}
