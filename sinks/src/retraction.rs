//! A retraction beside its payload: below schema version 5 the payload is a bare MARK and cannot say what is void, so
//! that is carried in a header, in text, for consumers of every schema version.

use clbridge_schemas::avro::Retracts;

use crate::state::Retraction;

/// Name of the header that every retraction has, whatever its schema version: whoever looks for retractions needs to
/// know one way only, and it costs nothing, for there is one a partition after an MDT crash and no other message has it.
pub const RETRACTS_HEADER: &str = "clb-retracts";

/// Its value: `INCARNATION:FROM..TO`. Indexes `FROM` to `TO`, both included, of this incarnation are void: the same as
/// `retracts` says in the payload from version 5 on.
#[must_use]
pub fn header_of(retraction: &Retraction) -> String {
    format!("{}:{}..{}", retraction.incarnation.saturating_sub(1), retraction.from, retraction.to)
}

/// Understands a value of [`RETRACTS_HEADER`]; `None` if it is not one.
#[must_use]
pub fn read_header(value: &[u8]) -> Option<Retracts> {
    let (incarnation, indexes) = std::str::from_utf8(value).ok()?.split_once(':')?;
    let (from, to) = indexes.split_once("..")?;
    Some(Retracts { incarnation: incarnation.parse().ok()?, from: from.parse().ok()?, to: to.parse().ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_understood_and_names_the_incarnation_that_is_void() {
        let text = header_of(&Retraction { incarnation: 3, from: 8, to: u64::MAX });
        assert_eq!(text, "2:8..18446744073709551615");
        assert_eq!(read_header(text.as_bytes()).unwrap(), Retracts { incarnation: 2, from: 8, to: u64::MAX });
    }

    #[test]
    fn anything_else_is_no_retraction() {
        for text in ["", "2", "2:8", "2:8..", "2:8..x", "-1:8..9", "2:8..99999999999999999999", "2:8..9 "] {
            assert_eq!(read_header(text.as_bytes()), None, "{text}");
        }
        assert_eq!(read_header(&[0xff, b':']), None);
    }
}
