//! The documentation names what `status` can say.
#![allow(clippy::unwrap_used)]

use clbridge_sinks::state::Hold;

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/what-happens-when.md")).unwrap()
}

#[test]
fn every_reason_why_a_group_holds_is_explained_with_the_command_that_ends_it() {
    let page = page();
    for hold in [
        Hold::NoFirstPosition { partition: 0 },
        Hold::PositionsVanished { partition: 0, was: 1 },
        Hold::WentBack { partition: 0, was: 2, now: 1 },
        Hold::BeyondEnd { partition: 0, at: 2, end: 1 },
        Hold::Evicted { partition: 0, at: 1, low: 2 },
    ] {
        let line = page.lines().find(|l| l.starts_with(&format!("| `{}`", hold.reason()))).unwrap();
        assert!(line.contains(&hold.command("NAME")), "{line}");
    }
}

#[test]
fn every_reason_in_the_sources_is_explained() {
    let page = page();
    for reason in clbridge::core::Reason::ALL {
        assert!(page.contains(&format!("`{}`", reason.as_str())), "{reason:?}");
    }
    let mut found = 0;
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core")];
    folders.push(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline"));
    for file in folders.iter().flat_map(|f| std::fs::read_dir(f).unwrap()).map(|e| e.unwrap().path()) {
        if file.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            let Some((_, rest)) = line.split_once("reason: \"") else { continue };
            let reason = rest.split('"').next().unwrap();
            assert!(page.contains(&format!("`{reason}`")), "{reason} of {}", file.display());
            found += 1;
        }
    }
    assert!(found >= 6, "only {found} reasons were found in the sources");
}
