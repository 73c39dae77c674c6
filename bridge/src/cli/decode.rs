//! `clbridge decode`: changelog bytes, as a device returns them, in the words of `lfs changelog`.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clbridge_schemas::lustre::{View, records};
use clbridge_schemas::text;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File with whole records back to back, as read(2) on a changelog device returns them; `-`: standard input
    file: PathBuf,
    /// Print one JSON object a record
    #[arg(long)]
    json: bool,
    /// Print the byte offset of each record before it (in JSON: `offset`)
    #[arg(long)]
    at: bool,
}

const CHUNK: usize = 1 << 20;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stdout = BufWriter::with_capacity(CHUNK, io::stdout().lock());
    let (name, result) = if args.file.as_os_str() == "-" {
        ("standard input".to_owned(), decode(io::stdin().lock(), stdout, args.json, args.at))
    } else {
        let name = args.file.display().to_string();
        let file = File::open(&args.file).with_context(|| format!("cannot open {name}"))?;
        (name, decode(file, stdout, args.json, args.at))
    };
    match result {
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(Failure::Output(e)) => Err(anyhow!(e).context("cannot write to standard output")),
        Err(Failure::Input(e)) => Err(e.context(name)),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

enum Failure {
    Input(anyhow::Error),
    Output(io::Error),
}

/// Holds no more than a chunk and a partial record, whatever the input's length.
fn decode(mut input: impl Read, mut out: impl Write, json: bool, at: bool) -> Result<(), Failure> {
    let mut buf = Vec::with_capacity(2 * CHUNK);
    let mut base = 0;
    let mut line = Vec::new();
    loop {
        let end = input.by_ref().take(CHUNK as u64).read_to_end(&mut buf).map_err(|e| Failure::Input(e.into()))? == 0;
        let mut walk = records(&buf, base);
        let mut offset = base;
        for view in walk.by_ref() {
            let view = match view {
                Ok(view) => view,
                Err(e) => {
                    // What came before the bad record is right and is shown.
                    out.flush().map_err(Failure::Output)?;
                    return Err(Failure::Input(e.into()));
                }
            };
            line.clear();
            print(&view, offset, json, at, &mut line);
            out.write_all(&line).map_err(Failure::Output)?;
            offset += view.bytes().len() as u64;
        }
        if end {
            out.flush().map_err(Failure::Output)?;
            return walk.finish().map_err(|e| Failure::Input(e.into()));
        }
        let rest = walk.rest().len();
        base = walk.offset();
        buf.drain(..buf.len() - rest);
    }
}

fn print(view: &View<'_>, offset: u64, json: bool, at: bool, line: &mut Vec<u8>) {
    if json {
        let mut object = text::json(view);
        if at && let Some(map) = object.as_object_mut() {
            map.insert("offset".to_owned(), offset.into());
        }
        line.extend_from_slice(object.to_string().as_bytes());
        line.push(b'\n');
    } else {
        if at {
            line.extend_from_slice(format!("{offset}: ").as_bytes());
        }
        text::lfs_line(view, line);
    }
}
