//! The registry of groups: one file, replaced as a whole by whoever holds its lock.

use super::{Shared, disk};
use crate::error::SinkError;
use crate::registry::Registry;

impl Shared {
    pub(super) fn registry(&self) -> Result<Registry, SinkError> {
        let path = self.config.registry_file();
        let Some(bytes) = disk::read(&path)? else { return Ok(Registry::default()) };
        serde_json::from_slice(&bytes).map_err(|e| SinkError::Mismatch {
            what: format!("registry of groups in {}", path.display()),
            why: format!("cannot be understood: {e}"),
            hint: "run the version of clbridge that wrote it".to_owned(),
        })
    }

    pub(super) fn change_registry(
        &self,
        change: &mut (dyn for<'r> FnMut(&'r mut Registry) + Send),
    ) -> Result<Registry, SinkError> {
        let path = self.config.registry_file();
        disk::make_dir(&self.config.dir)?;
        let _lock = disk::lock(&path.with_extension("lock"))?;
        let mut registry = self.registry()?;
        change(&mut registry);
        registry.version += 1;
        let bytes = serde_json::to_vec_pretty(&registry).map_err(|e| SinkError::Mismatch {
            what: format!("changing the registry of groups in {}", path.display()),
            why: e.to_string(),
            hint: "correct the group's settings".to_owned(),
        })?;
        disk::replace(&path, &bytes)?;
        Ok(registry)
    }
}
