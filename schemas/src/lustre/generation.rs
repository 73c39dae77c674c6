//! Records as older servers wrote them.

use super::layout::clfe;
use super::{Fid, Record, RecordType};

/// Lustre versions between which the record grew; each holds until the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Generation {
    /// 2.0: base fields and name; a rename is two records.
    L2_0,
    /// 2.4 (LU-1331): one extended record for a rename.
    L2_4,
    /// 2.7 (LU-1996): job id.
    L2_7,
    /// 2.11 (LU-9727): uid and gid, NID, open mode, xattr name.
    L2_11,
    /// 2.16 (LU-13308): large NIDs in the big-endian layout.
    L2_16,
}

impl Record {
    /// The record as a server of `generation` wrote it: one, or on 2.0 for a rename RENME and RNMTO.
    ///
    /// RENME then has the renamed object with the source's parent and name, RNMTO what was replaced (or zero) with
    /// the target's. RNMTO gets the next index; who numbers the records renumbers it if that one is taken.
    #[must_use]
    pub fn downgrade(mut self, generation: Generation) -> (Self, Option<Self>) {
        if generation < Generation::L2_16 {
            self.extra_flags = self.extra_flags.map(|extra| extra & !clfe::NID_BE);
        }
        if generation < Generation::L2_11 {
            self.extra_flags = None;
            self.uid_gid = None;
            self.nid = None;
            self.open_mode = None;
            self.xattr = None;
        }
        if generation < Generation::L2_7 {
            self.jobid = None;
        }
        if generation >= Generation::L2_4 {
            return (self, None);
        }
        let Some(rename) = self.rename.take() else {
            return (self, None);
        };
        let source = Self {
            rtype: RecordType::RENME,
            tfid: rename.sfid,
            pfid: rename.spfid,
            name: rename.sname.unwrap_or_default(),
            flags: 0,
            ..self.clone()
        };
        let target = Self { index: self.index.saturating_add(1), rtype: RecordType::RNMTO, ..self };
        (source, Some(target))
    }
}

impl Record {
    /// Everything but identity at its default, for building records by hand.
    #[must_use]
    pub fn new(index: u64, rtype: RecordType, time: super::Time, tfid: Fid) -> Self {
        Self { index, rtype, time, version: true, tfid, ..Self::default() }
    }
}
