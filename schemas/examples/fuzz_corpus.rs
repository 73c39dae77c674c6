//! Makes the fuzzers' seed corpus from captures: `fuzz_corpus CAPTURES OUT` writes windows of records to OUT/lustre
//! and the same records encoded in every schema version to OUT/avro.

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clbridge_schemas::avro::{Additions, Encoder, Entry, Framing, SchemaVersion};
use clbridge_schemas::ids::MdtName;
use clbridge_schemas::lustre::records;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(captures), Some(out)) = (args.next(), args.next()) else {
        return Err("usage: fuzz_corpus CAPTURES OUT".into());
    };
    let (raw, avro) = (out.join("lustre"), out.join("avro"));
    fs::create_dir_all(&raw)?;
    fs::create_dir_all(&avro)?;
    for entry in fs::read_dir(captures)? {
        let path = entry?.path();
        // The compressed ones are long storms of what the others have too.
        if path.extension().is_some_and(|e| e == "bin") {
            seeds(&path, &raw, &avro)?;
        }
    }
    Ok(())
}

fn seeds(capture: &Path, raw: &Path, avro: &Path) -> Result<(), Box<dyn Error>> {
    let stem = capture.file_stem().unwrap_or_default().to_string_lossy();
    let bytes = fs::read(capture)?;
    let mdt: MdtName = "lustre-MDT0000".parse()?;
    let mut kinds = HashSet::new();
    let mut walk = records(&bytes, 0);
    while let Some(view) = walk.next() {
        let view = view?;
        // One record of each kind, and with it some bytes of what follows.
        if !kinds.insert((view.rtype(), view.raw_flags(), view.extra_flags())) {
            continue;
        }
        let name = format!("{stem}.{}", view.index());
        let mut window = view.bytes().to_vec();
        window.extend(walk.rest().iter().take(300));
        fs::write(raw.join(&name), window)?;
        for version in SchemaVersion::ALL {
            let additions = Additions { path: Some("/a/path"), entry: Some(&Entry::default()) };
            let mut payload = Vec::new();
            Encoder::new(&mdt, version, Framing::SingleObject).encode(&view, 1, additions, &mut payload);
            fs::write(avro.join(format!("{name}.v{version}")), payload)?;
        }
    }
    Ok(())
}
