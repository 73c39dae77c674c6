//! Takes away what was made: of a demonstration, of a test, of a bridge that is no more.

use clbridge_schemas::ids::MdtName;

use super::NatsSink;
use super::ask::bucket_stream;
use crate::error::SinkError;

impl NatsSink {
    /// Deletes what was made of these MDTs under this sink's `prefix` and `own_prefix`, and returns the names: the record
    /// streams of all feeds and the repair streams, each with the consumers of all groups and ephemeral readers, their
    /// streams of advisories, and the buckets of State, groups and schemas. Nothing else is looked at.
    ///
    /// The buckets are everybody's who has this `own_prefix`, and what is deleted cannot be had again: only for prefixes
    /// that no bridge uses any more. Interrupted, it can be repeated; what is not there is passed over.
    ///
    /// # Errors
    /// The servers cannot be asked, or refuse; the error names what they refused.
    pub async fn erase(&self, mdts: &[MdtName]) -> Result<Vec<String>, SinkError> {
        let config = &self.shared.config;
        let link = self.shared.link().await?;
        let mut records = link.stream_names(&format!("{}.>", config.prefix)).await?;
        records.retain(|name| config.parse_stream(name).is_some_and(|(mdt, ..)| mdts.contains(&mdt)));
        // What was kept of a stream goes first: by the stream's name it is found again.
        let mut names: Vec<String> =
            records.into_iter().flat_map(|name| [config.advisory_stream(&name), name]).collect();
        names.extend(
            [config.state_bucket(), config.group_bucket(), config.schema_bucket()].iter().map(|b| bucket_stream(b)),
        );
        let mut deleted = Vec::new();
        for name in names {
            if link.delete_stream(&name).await? {
                deleted.push(name);
            }
        }
        Ok(deleted)
    }
}
