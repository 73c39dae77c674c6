//! The release binaries of this tree, each test's in a folder of its own: a build that goes on beside it replaces them.

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
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "--quiet", "--workspace", "--bins"]).current_dir(root());
        // What cargo told this test of its own package is not for that build: build scripts that look at it (ring's) would
        // run again, and half of the dependencies be compiled anew, then and at the next build by hand.
        for (name, _) in std::env::vars_os() {
            let of_package = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_"];
            if name.to_str().is_some_and(|name| of_package.iter().any(|start| name.starts_with(start))) {
                build.env_remove(name);
            }
        }
        let status = build.status().unwrap();
        assert!(status.success(), "building clbridge and mdt-sim failed");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        root().join(target).join("release")
    })
}

/// Puts `clbridge` and `mdt-sim` into `dir`, as links where that can be: a build makes new files.
pub fn put_into(dir: &Path) {
    for name in ["clbridge", "mdt-sim"] {
        let (from, to) = (built().join(name), dir.join(name));
        if std::fs::hard_link(&from, &to).is_ok() {
            continue;
        }
        // Not by this process: a child that another test starts meanwhile would hold the file open for writing, and what
        // is open for writing cannot be started ("text file busy").
        let status = Command::new("cp").args([&from, &to]).status().unwrap();
        assert!(status.success(), "copying {name} failed");
    }
}
