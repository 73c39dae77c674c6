//! `clbridge schemas`: the Avro schemas that are built in.

use std::process::ExitCode;

use anyhow::anyhow;

use super::table::Table;
use crate::schema_list;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Version (1 to 5) or fingerprint of the one to print; without, all are listed
    which: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.which {
        None => {
            let mut table = Table::new(&["VERSION", "FINGERPRINT", "FIELDS ADDED"]);
            for entry in schema_list::all() {
                table.row(vec![entry.version.to_string(), entry.fingerprint, entry.adds.to_owned()]);
            }
            print!("{table}");
        }
        Some(which) => {
            let version = schema_list::find(which).ok_or_else(|| {
                anyhow!("no schema has the version or fingerprint {which}; `clbridge schemas` lists them")
            })?;
            println!("{}", clbridge_schemas::avro::schema_json(version).trim_end());
        }
    }
    Ok(ExitCode::SUCCESS)
}
