//! Files in `target/report`.

use std::path::PathBuf;

use crate::binaries::root;

/// Writes a file of figures there, and prints its place.
pub fn write(name: &str, figures: &serde_json::Value) {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = root().join(target).join("report");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(name);
    std::fs::write(&file, format!("{figures}\n")).unwrap();
    crate::tell!("written: {}", file.display());
}
