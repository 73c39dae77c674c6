//! The registry of groups: one value, changed by revision, so that of two changes at once neither is lost.

use std::time::Duration;

use super::Shared;
use crate::error::SinkError;
use crate::registry::Registry;

/// The registry's key in the bucket of groups; a group's own begins with its stream's name, which has no dot.
const KEY: &str = "registry";
/// How often a change is tried while others change it too.
const ATTEMPTS: u32 = 40;

impl Shared {
    pub(super) async fn registry(&self) -> Result<Registry, SinkError> {
        self.read_registry().await.map(|(registry, _)| registry)
    }

    async fn read_registry(&self) -> Result<(Registry, u64), SinkError> {
        let bucket = self.config.group_bucket();
        let (value, revision) = self.link().await?.value(&bucket, KEY).await?;
        let Some(value) = value else { return Ok((Registry::default(), revision)) };
        let registry = serde_json::from_slice(&value).map_err(|e| SinkError::Mismatch {
            what: format!("registry of groups in bucket {bucket} at revision {revision}"),
            why: format!("cannot be understood: {e}"),
            hint: "run the version of clbridge that wrote it".to_owned(),
        })?;
        Ok((registry, revision))
    }

    pub(super) async fn change_registry(
        &self,
        change: &mut (dyn for<'r> FnMut(&'r mut Registry) + Send),
    ) -> Result<Registry, SinkError> {
        let what = || format!("changing the registry of groups in bucket {}", self.config.group_bucket());
        let link = self.link().await?;
        self.make_bucket(&link, &self.config.group_bucket()).await?;
        for attempt in 0..ATTEMPTS {
            let (mut registry, revision) = self.read_registry().await?;
            change(&mut registry);
            registry.version += 1;
            let bytes = serde_json::to_vec(&registry).map_err(|e| SinkError::Mismatch {
                what: what(),
                why: e.to_string(),
                hint: "correct the group's settings".to_owned(),
            })?;
            if link.put(&self.config.group_bucket(), KEY, bytes, Some(revision)).await?.is_some() {
                return Ok(registry);
            }
            // Two writers must not overtake each other in step for ever.
            let spread = u64::from(std::process::id().wrapping_mul(attempt + 1) % 50);
            tokio::time::sleep(Duration::from_millis(5 + spread)).await;
        }
        Err(SinkError::Unavailable { what: what(), why: format!("other writers came first {ATTEMPTS} times") })
    }
}
