//! Takes records as a member of a group and writes them out.
//!
//! A record is acknowledged only after it was written and flushed: whoever reads the output sees every record at
//! least once. What the output never took is never committed.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use apache_avro::{Schema, Writer};
use clbridge_schemas::avro::{ChangelogRecord, SchemaVersion, schema_json};
use clbridge_schemas::ids::MdtName;
use clbridge_schemas::lustre::{Fid, Nid, OwnedRename, Record, RecordType, View, clfe};
use clbridge_schemas::text;
use clbridge_sinks::{Batch, Consumed, Consumer, SinkError};
use thiserror::Error;
use tracing::warn;

use crate::modules::TypeSet;

/// In which form records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line
    Json,
    /// The lines of `lfs changelog`
    Lfs,
    /// An Avro object container file
    Avro,
}

/// What to take.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Records of other types are acknowledged without being written.
    pub types: TypeSet,
    /// Records of other MDTs, which may be in the same topics, likewise. Empty: all.
    pub mdts: Vec<MdtName>,
    /// End after this many records were written.
    pub max: Option<u64>,
}

/// Why the output took no more.
#[derive(Debug, Error)]
pub enum OutputError {
    /// The reader has closed the pipe: it has enough.
    #[error("the output was closed")]
    Closed,
    /// Anything else.
    #[error("cannot write the output: {0}")]
    Failed(String),
    /// What was taken is not a record.
    #[error("{topic} partition {partition} position {offset}: {why}")]
    Record {
        /// Topic.
        topic: String,
        /// Partition.
        partition: u32,
        /// Position in it.
        offset: u64,
        /// What is wrong.
        why: String,
    },
}

impl From<io::Error> for OutputError {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Failed(e.to_string()) }
    }
}

/// Writes records in one form.
pub struct Output {
    form: Form,
    line: Vec<u8>,
    kernel: Vec<u8>,
}

enum Form {
    Json(Box<dyn Write + Send>),
    Lfs(Box<dyn Write + Send>),
    Avro(Box<Writer<'static, Box<dyn Write + Send>>>),
}

/// The newest version: it can hold every record of an older one.
fn newest_schema() -> anyhow::Result<&'static Schema> {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    if let Some(schema) = SCHEMA.get() {
        return Ok(schema);
    }
    let parsed = Schema::parse_str(schema_json(SchemaVersion::default()))?;
    Ok(SCHEMA.get_or_init(|| parsed))
}

impl Output {
    /// # Errors
    /// The schema that is built in cannot be read.
    pub fn new(format: Format, out: Box<dyn Write + Send>) -> anyhow::Result<Self> {
        let form = match format {
            Format::Json => Form::Json(out),
            Format::Lfs => Form::Lfs(out),
            Format::Avro => Form::Avro(Box::new(Writer::new(newest_schema()?, out))),
        };
        Ok(Self { form, line: Vec::new(), kernel: Vec::new() })
    }

    fn write(&mut self, record: &ChangelogRecord) -> Result<(), OutputError> {
        self.line.clear();
        match &mut self.form {
            Form::Json(out) => {
                json_line(record, &mut self.kernel, &mut self.line)?;
                out.write_all(&self.line)?;
            }
            Form::Lfs(out) => {
                text::lfs_line(&view(record, &mut self.kernel)?, &mut self.line);
                out.write_all(&self.line)?;
            }
            Form::Avro(writer) => {
                writer.append_ser(record).map_err(avro)?;
            }
        }
        Ok(())
    }

    /// Everything that was written is the reader's after this.
    fn flush(&mut self) -> Result<(), OutputError> {
        match &mut self.form {
            Form::Json(out) | Form::Lfs(out) => out.flush()?,
            Form::Avro(writer) => drop(writer.flush().map_err(avro)?),
        }
        Ok(())
    }
}

fn avro(e: apache_avro::Error) -> OutputError {
    use std::error::Error as _;
    let mut cause = e.source();
    while let Some(inner) = cause {
        if inner.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return OutputError::Closed;
        }
        cause = inner.source();
    }
    OutputError::Failed(e.to_string())
}

/// The record in the kernel's layout again, which is what the text forms are made of.
fn view<'a>(record: &ChangelogRecord, bytes: &'a mut Vec<u8>) -> Result<View<'a>, OutputError> {
    bytes.clear();
    kernel_record(record).write(bytes).map_err(|e| OutputError::Failed(e.to_string()))?;
    View::new(bytes, 0).map_err(|e| OutputError::Failed(e.to_string()))
}

fn kernel_record(record: &ChangelogRecord) -> Record {
    let raw = |raw: &Option<Vec<u8>>, text: &Option<String>| {
        raw.clone().or_else(|| text.as_ref().map(|t| t.clone().into_bytes()))
    };
    let bit = |bit: u64| record.extra_flags.is_some_and(|f| f & bit != 0);
    // A NID of zeros (a record of the server itself) is null in Avro.
    let nid = record.nid.as_ref().and_then(|n| n.parse().ok());
    Record {
        index: record.index,
        rtype: RecordType(record.type_code),
        time: record.time,
        flags: record.flags,
        version: false,
        tfid: record.tfid,
        pfid: record.pfid.unwrap_or(Fid::ZERO),
        name: raw(&record.name_raw, &record.name).unwrap_or_default(),
        rename: record.rename.as_ref().map(|r| OwnedRename {
            sfid: r.sfid,
            spfid: r.spfid,
            sname: raw(&r.sname_raw, &r.sname),
        }),
        jobid: record.jobid.clone().map(String::into_bytes),
        extra_flags: record.extra_flags,
        uid_gid: record.uid.zip(record.gid),
        nid: nid.or_else(|| bit(clfe::NID).then(Nid::default)),
        open_mode: record.open_mode.map(u32::from),
        xattr: record.xattr.clone().map(String::into_bytes).or_else(|| bit(clfe::XATTR).then(Vec::new)),
    }
}

/// The object of `clbridge decode --json`, with what the bridge knows before it.
fn json_line(record: &ChangelogRecord, kernel: &mut Vec<u8>, line: &mut Vec<u8>) -> Result<(), OutputError> {
    let mut object = text::json(&view(record, kernel)?);
    if let Some(map) = object.as_object_mut() {
        map.insert("mdt".to_owned(), record.mdt.clone().into());
        map.insert("incarnation".to_owned(), record.incarnation.into());
        if let Some(path) = &record.path {
            map.insert("path".to_owned(), path.clone().into());
        }
        if let Some(void) = &record.retracts {
            let void = serde_json::json!({ "incarnation": void.incarnation, "from": void.from, "to": void.to });
            map.insert("retracts".to_owned(), void);
        }
    }
    line.extend_from_slice(object.to_string().as_bytes());
    line.push(b'\n');
    Ok(())
}

/// Writes and flushes a batch; returns how many records were written.
fn write_out(output: &mut Output, batch: &Batch, select: &Selection) -> Result<u64, OutputError> {
    let mut written = 0;
    for consumed in &batch.records {
        let mut record = ChangelogRecord::decode(&consumed.payload).map_err(|e| bad(consumed, &e.to_string()))?;
        // Below schema version 5 a retraction says what is void beside its payload only.
        record.retracts = record.retracts.or(consumed.retracts);
        let wanted = select.types.takes(RecordType(record.type_code))
            && (select.mdts.is_empty() || select.mdts.iter().any(|m| m.as_str() == record.mdt));
        if wanted {
            output.write(&record)?;
            written += 1;
        }
    }
    output.flush()?;
    Ok(written)
}

fn bad(consumed: &Consumed, why: &str) -> OutputError {
    OutputError::Record {
        topic: consumed.topic.clone(),
        partition: consumed.at.partition,
        offset: consumed.at.offset,
        why: why.to_owned(),
    }
}

/// Records asked for at once.
const BATCH: usize = 2_000;
/// Longest wait for the first of them.
const WAIT: Duration = Duration::from_millis(500);
/// Pause before a broker that could not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Consumes until `stop` resolves, the output is closed, or [`Selection::max`] records were written. Returns how many
/// were written.
///
/// # Errors
/// The broker or the output fails, or something that is no record is in a topic.
pub async fn consume(
    consumer: &mut dyn Consumer,
    mut output: Output,
    select: Selection,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<u64> {
    tokio::pin!(stop);
    let mut total = 0;
    while select.max.is_none_or(|max| total < max) {
        let left = select.max.map_or(BATCH, |max| usize::try_from(max - total).unwrap_or(BATCH).min(BATCH));
        // What a cancelled call had taken was not acknowledged: the group gets it again.
        let taken = tokio::select! {
            biased;
            () = &mut stop => return Ok(total),
            taken = consumer.next(left, WAIT) => taken,
        };
        let batch = match taken {
            Ok(batch) => batch,
            Err(SinkError::Unavailable { what, why }) => {
                warn!("{what}: {why}; trying again");
                tokio::select! {
                    () = &mut stop => return Ok(total),
                    () = tokio::time::sleep(RETRY) => continue,
                }
            }
            Err(e) => return Err(e.into()),
        };
        if batch.records.is_empty() {
            continue;
        }
        // A pipe whose reader stands still blocks; that must not keep a signal from ending us.
        let chosen = select.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = write_out(&mut output, &batch, &chosen);
            (output, batch, written)
        });
        let (back, batch, written) = tokio::select! {
            done = writing => done?,
            () = &mut stop => return Ok(total),
        };
        output = back;
        match written {
            Ok(written) => {
                match consumer.done(&batch).await {
                    Ok(()) => {}
                    // The next acknowledgement covers these too, unless another member has them by then.
                    Err(SinkError::Unavailable { what, why }) => {
                        warn!("{what}: {why}; records that were written out may come again");
                    }
                    Err(e) => return Err(e.into()),
                }
                total += written;
            }
            Err(OutputError::Closed) => return Ok(total),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests;
