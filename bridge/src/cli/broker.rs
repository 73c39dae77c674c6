//! What the commands that talk to the broker have in common.

use std::sync::Arc;

use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{Broker, MdtSelection};

use crate::assembly;
use crate::config::Config;

/// The broker; looking for MDTs may block on a device or a simulated MDT.
pub(super) async fn connect(config: &Config) -> anyhow::Result<Arc<dyn Broker>> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || assembly::sink(&config)).await?
}

/// The MDTs that a command is about: those of the selection, else those of the configuration, else those found here.
/// A command may run where there is no Lustre: what it does not know is left to the bridge.
pub(super) fn known_mdts(config: &Config, selection: &MdtSelection) -> Vec<MdtName> {
    match selection {
        MdtSelection::List(list) => list.clone(),
        MdtSelection::All => assembly::mdts(config).unwrap_or_else(|why| {
            eprintln!("clbridge: no MDTs are known here ({why:#}); name them with --mdt or source.mdts");
            Vec::new()
        }),
    }
}
