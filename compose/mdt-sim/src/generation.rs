//! Old servers: what a record of today would have been on an older Lustre.
//! Fields disappear and a rename becomes two records; nothing is ever invented.

use std::io;

use clbridge_schemas::lustre::{Record, records};

pub use clbridge_schemas::lustre::Generation;

use crate::layout;

/// Reads `2.0`, `2.4`, `2.7`, `2.11` or `2.16`.
///
/// # Errors
/// Anything else.
pub fn parse(text: &str) -> Result<Generation, String> {
    Ok(match text {
        "2.0" => Generation::L2_0,
        "2.4" => Generation::L2_4,
        "2.7" => Generation::L2_7,
        "2.11" => Generation::L2_11,
        "2.16" => Generation::L2_16,
        other => {
            return Err(format!("no generation `{other}`; there are 2.0, 2.4, 2.7, 2.11 and 2.16"));
        }
    })
}

/// The records that a server of this generation would have logged; `None` if they are the same.
///
/// # Errors
/// Bytes that are no whole and sound records.
pub(crate) fn downgrade(bytes: &[u8], to: Generation) -> io::Result<Option<Vec<u8>>> {
    if to == Generation::L2_16 {
        return Ok(None);
    }
    let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidData, format!("emit as an older Lustre: {e}"));
    // The MDT numbers records when it logs them; until then they have no index, which the codec does not allow.
    let mut numbered = bytes.to_vec();
    let mut at = 0;
    while let Some(len) = layout::record_len(&numbered[at..]) {
        layout::stamp(&mut numbered[at..at + len], 1, 0);
        at += len;
    }
    let mut out = Vec::with_capacity(bytes.len());
    for view in records(&numbered, 0) {
        let record = Record::from_view(view.map_err(|e| invalid(e.to_string()))?);
        let (first, second) = record.downgrade(to);
        first.write(&mut out).map_err(|e| invalid(e.to_string()))?;
        if let Some(second) = second {
            second.write(&mut out).map_err(|e| invalid(e.to_string()))?;
        }
    }
    Ok(Some(out))
}
