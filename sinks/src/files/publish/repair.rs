//! Records of a repair as whole files in memory: a repair has as many as fit there anyway.

use clbridge_schemas::avro::{SchemaVersion, framing_of};
use clbridge_schemas::ids::RecordId;

use super::super::config::FilesConfig;
use super::super::container::{block, header};
use super::super::disk::sort;
use crate::error::SinkError;
use crate::record::foreign;

/// A file that is ready to be written.
pub(in crate::files) struct Whole {
    pub(in crate::files) first: RecordId,
    pub(in crate::files) count: u64,
    pub(in crate::files) bytes: Vec<u8>,
}

/// Records of one schema version, bodies only.
type Run<'a> = Vec<(RecordId, &'a [u8])>;

/// Records in the order in which they are given, in a file for each run of one schema version.
pub(in crate::files) fn container_of(
    config: &FilesConfig,
    records: &[(RecordId, Vec<u8>, Vec<u8>)],
) -> Result<Vec<Whole>, SinkError> {
    let mut runs: Vec<(SchemaVersion, Run<'_>)> = Vec::new();
    for (id, _, payload) in records {
        let place = format!("record {id} to be repaired");
        let (_, version, start) = framing_of(payload).map_err(|e| foreign(&place, e.to_string()))?;
        let version = version.ok_or_else(|| foreign(&place, "does not say its schema version".to_owned()))?;
        match runs.last_mut() {
            Some((of, run)) if *of == version => run.push((*id, &payload[start..])),
            _ => runs.push((version, vec![(*id, &payload[start..])])),
        }
    }
    let failed = |e: std::io::Error| sort("writing a repair into", &config.dir, &e);
    let mut files = Vec::new();
    for (version, run) in runs {
        let Some((first, _)) = run.first() else { continue };
        let (mut bytes, sync) = header(config.codec, version, None).map_err(failed)?;
        for chunk in run.chunks(1000) {
            let bodies: Vec<u8> = chunk.iter().flat_map(|(_, body)| body.iter().copied()).collect();
            let content = config.codec.pack(bodies).map_err(failed)?;
            bytes.extend(block(&sync, chunk.len() as u64, &content));
        }
        files.push(Whole { first: *first, count: run.len() as u64, bytes });
    }
    Ok(files)
}
