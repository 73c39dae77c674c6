//! Old servers: what a record of today would have been on an older Lustre.
//! Fields disappear and a rename becomes two records; nothing is ever invented.

use std::io;
use std::str::FromStr;

use crate::layout;

const RNMTO: u32 = 9;

/// A generation of the record; LUSTRE's versions that brought it.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// Base fields and name; a rename is RENME and RNMTO.
    L2_0,
    /// One record for a rename.
    L2_4,
    /// Job id.
    L2_7,
    /// Extra flags: owner, NID, open mode, xattr.
    L2_11,
    /// Large NIDs.
    L2_16,
}

/// Reads `2.0`, `2.4`, `2.7`, `2.11` or `2.16`.
///
/// # Errors
/// Anything else.
pub fn parse(text: &str) -> Result<Generation, String> {
    Generation::from_str(text)
}

impl FromStr for Generation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "2.0" => Self::L2_0,
            "2.4" => Self::L2_4,
            "2.7" => Self::L2_7,
            "2.11" => Self::L2_11,
            "2.16" => Self::L2_16,
            other => {
                return Err(format!(
                    "no generation `{other}`; there are 2.0, 2.4, 2.7, 2.11 and 2.16"
                ));
            }
        })
    }
}

/// The records that a server of this generation would have logged; `None` if they are the same.
///
/// # Errors
/// Bytes that are no whole records.
pub(crate) fn downgrade(records: &[u8], to: Generation) -> io::Result<Option<Vec<u8>>> {
    if to == Generation::L2_16 {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(records.len());
    let mut rest = records;
    while !rest.is_empty() {
        let len = layout::record_len(rest)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no whole record"))?;
        one(&rest[..len], to, &mut out);
        rest = &rest[len..];
    }
    Ok(Some(out))
}

fn one(record: &[u8], to: Generation, out: &mut Vec<u8>) {
    let start = out.len();
    if to == Generation::L2_11 {
        out.extend_from_slice(record);
        layout::set_nid_form(&mut out[start..], false);
        return;
    }
    let parts = layout::parts(record);
    let mut keep = layout::FLAG_BITS | layout::VERSION;
    if to >= Generation::L2_4 {
        keep |= layout::RENAME;
    }
    if to >= Generation::L2_7 {
        keep |= layout::JOBID;
    }
    let flags = parts.flags & keep;
    let (Some(rename), Generation::L2_0) = (parts.rename, to) else {
        let rename = parts.rename.unwrap_or_default();
        let jobid = if flags & layout::JOBID != 0 {
            parts.jobid.unwrap_or_default()
        } else {
            &[]
        };
        rewrite(
            parts.head,
            flags,
            &[rename, jobid, parts.name],
            parts.name.len(),
            out,
        );
        return;
    };
    // RENME: the renamed object, its old parent and name. RNMTO: what was replaced, the new parent and name.
    let (new, old) = match parts.name.iter().position(|b| *b == 0) {
        Some(at) => (&parts.name[..at], &parts.name[at + 1..]),
        None => (parts.name, &[] as &[u8]),
    };
    rewrite(parts.head, flags & layout::VERSION, &[old], old.len(), out);
    out[start + layout::TFID..start + layout::HEAD].copy_from_slice(rename);
    let second = out.len();
    rewrite(parts.head, flags, &[new], new.len(), out);
    out[second + 4..second + 8].copy_from_slice(&RNMTO.to_le_bytes());
}

fn rewrite(head: &[u8], flags: u16, parts: &[&[u8]], name: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(name as u16).to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&head[4..]);
    for part in parts {
        out.extend_from_slice(part);
    }
}
