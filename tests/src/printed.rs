//! Members that are `clbridge consume` itself: what they print is what their group has had.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::process::Process;
use crate::run::Run;

/// A group of them, and everything that its members have printed, dead ones too.
pub struct Printers {
    group: &'static str,
    living: Vec<Process>,
    outputs: Vec<PathBuf>,
}

impl Printers {
    /// No member yet, of the group with this short name.
    pub fn new(group: &'static str) -> Self {
        Self { group, living: Vec::new(), outputs: Vec::new() }
    }

    /// Starts members until there are so many.
    pub fn fill(&mut self, run: &Run, members: usize) {
        while self.living.len() < members {
            let name = format!("{}-{}", self.group, self.outputs.len());
            let out = run.scene.dir().join(format!("{name}.printed"));
            let command = run.bridge.prepared(&["consume", "--format", "json", "--group", &run.group(self.group)]);
            self.living.push(Process::printing(&name, command, &out, &run.scene.log(&name)));
            self.outputs.push(out);
        }
    }

    /// `kill -9` of the oldest members, until only so many are left.
    pub fn kill_down_to(&mut self, members: usize) {
        let dying = self.living.len().saturating_sub(members);
        self.living.drain(..dying).for_each(Process::kill9);
    }

    /// The indexes that were printed, by MDT. What a dead member had begun to print was not acknowledged and does not
    /// count.
    ///
    /// # Panics
    /// When a member printed the records of an MDT out of order, or anything of them twice.
    pub fn had(&self) -> BTreeMap<String, BTreeSet<u64>> {
        let mut had: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for out in &self.outputs {
            let text = std::fs::read_to_string(out).unwrap();
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            let mut last: BTreeMap<String, u64> = BTreeMap::new();
            for line in text[..whole].lines() {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                let (mdt, index) = (record["mdt"].as_str().unwrap(), record["index"].as_u64().unwrap());
                let before = last.insert(mdt.to_owned(), index);
                assert!(before < Some(index), "{}: {mdt} {index} after {before:?}", out.display());
                had.entry(mdt.to_owned()).or_default().insert(index);
            }
        }
        had
    }
}
