//! The release binaries of this tree. They are copied away, because a build that goes on beside the test replaces them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The tree's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// `tests/up`.
pub fn up() -> Command {
    let mut command = Command::new(root().join("tests/up"));
    command.current_dir(root());
    command
}

fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--release", "--quiet", "--workspace", "--bins"])
            .current_dir(root())
            .status()
            .unwrap();
        assert!(status.success(), "building clbridge and mdt-sim failed");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        root().join(target).join("release")
    })
}

/// Copies `clbridge` and `mdt-sim` into `dir`.
pub fn copy_to(dir: &Path) {
    for name in ["clbridge", "mdt-sim"] {
        std::fs::copy(built().join(name), dir.join(name)).unwrap_or_else(|e| panic!("copying {name}: {e}"));
    }
}
