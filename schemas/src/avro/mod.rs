//! Records as Avro: schemas by version, the encoder of the hot path, decoders, framing.
//!
//! Every version only adds nullable fields at the end, so that every version reads every other. A schema that was
//! released is never edited: its fingerprint stands in brokers.

mod body;
mod decode;
mod encode;
mod head;
mod record;
mod schema;
mod wire;

pub use body::body_length;
pub use decode::{DecodeError, DecodeErrorKind, framing_of};
pub use encode::{Additions, Encoder, Retraction};
pub use head::Head;
pub use record::{ChangelogRecord, Entry, RenameSource, Retracts, TypeSymbol};
pub use schema::{Framing, SchemaVersion, UnknownVersion, by_fingerprint, fingerprint, schema_json};
