//! The kernel's changelog records, byte by byte, as `lustre_user.h` lays them out.
//!
//! Little-endian and packed: a head of 64 bytes, the extensions that the flags announce in a fixed order, then the
//! name. Nothing here guesses: a record is either right, or an error that says at which index and offset.

mod fid;
mod generation;
mod layout;
mod nid;
mod record;
mod record_type;
mod records;
mod remap;
mod time;
mod view;

pub use fid::{Fid, FidError};
pub use generation::Generation;
pub use layout::{MAX_RECORD, clf, clfe};
pub use nid::{Nid, NidError};
pub use record::{OwnedRename, Record, WriteError};
pub use record_type::RecordType;
pub use records::{RecordError, RecordErrorKind, Records, records};
pub use remap::remap;
pub use time::Time;
pub use view::{Rename, View};
