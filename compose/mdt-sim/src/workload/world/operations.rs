//! The operations, one each: what it changes in the tree, and the records that Lustre would log where.

use rand::Rng as _;

use super::{Dir, File, MAX_DIRS, World, kind};
use crate::workload::encode::Draft;

impl World {
    pub(super) fn create(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        let Some(dir) = self.pick_dir(up) else {
            return 0;
        };
        let mdt = self.dirs[dir].mdt;
        let fid = self.new_fid(client, mdt);
        let name = self.new_name();
        let pfid = self.dirs[dir].fid;
        self.log(client, Draft { kind: kind::CREAT, tfid: fid, pfid, name: &name, ..Draft::default() }, &mut out[mdt]);
        self.log(
            client,
            Draft { kind: kind::OPEN, flags: 0x42, tfid: fid, pfid, open_mode: Some(0x42), ..Draft::default() },
            &mut out[mdt],
        );
        self.open.push((client, fid, mdt));
        self.dirs[dir].entries += 1;
        self.files.push(File { fid, mdt, links: vec![(dir, name)] });
        2
    }

    /// Closes a file that is open: the parent in the record is not to be trusted, as on a real server.
    pub(super) fn close(&mut self, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        let Some(at) = (0..self.open.len()).find(|at| up[self.open[*at].2]) else {
            return 0;
        };
        let (client, fid, mdt) = self.open.swap_remove(at);
        let stale = self.dirs[self.rng.random_range(0..self.dirs.len())].fid;
        self.log(
            client,
            Draft { kind: kind::CLOSE, flags: 0x42, tfid: fid, pfid: stale, ..Draft::default() },
            &mut out[mdt],
        )
    }

    pub(super) fn rewrite(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        let Some(at) = self.pick_file(up) else {
            return 0;
        };
        let (fid, mdt) = (self.files[at].fid, self.files[at].mdt);
        self.log(
            client,
            Draft { kind: kind::OPEN, flags: 0x1, tfid: fid, open_mode: Some(0x1), ..Draft::default() },
            &mut out[mdt],
        );
        self.log(client, Draft { kind: kind::TRUNC, flags: 0xe, tfid: fid, ..Draft::default() }, &mut out[mdt]);
        self.open.push((client, fid, mdt));
        2
    }

    pub(super) fn rename(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        let Some(at) = self.pick_file(up) else {
            return 0;
        };
        let (source, old) = self.files[at].links[0].clone();
        // Four in ten stay in their directory; the others may go to another MDT's.
        let target = if self.rng.random_range(0..10) < 4 && up[self.dirs[source].mdt] {
            source
        } else {
            match self.pick_dir(up) {
                Some(dir) => dir,
                None => return 0,
            }
        };
        let new = self.new_name();
        let mdt = self.dirs[target].mdt;
        let made = self.log(
            client,
            Draft {
                kind: kind::RENME,
                pfid: self.dirs[target].fid,
                rename: Some((self.files[at].fid, self.dirs[source].fid, &old)),
                name: &new,
                ..Draft::default()
            },
            &mut out[mdt],
        );
        self.dirs[source].entries -= 1;
        self.dirs[target].entries += 1;
        self.files[at].links[0] = (target, new);
        made
    }

    pub(super) fn link(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        let (Some(at), Some(dir)) = (self.pick_file(up), self.pick_dir(up)) else {
            return 0;
        };
        if self.files[at].links.len() >= 4 {
            return 0;
        }
        let name = self.new_name();
        let (mdt, pfid) = (self.dirs[dir].mdt, self.dirs[dir].fid);
        let tfid = self.files[at].fid;
        let made =
            self.log(client, Draft { kind: kind::HLINK, tfid, pfid, name: &name, ..Draft::default() }, &mut out[mdt]);
        self.dirs[dir].entries += 1;
        self.files[at].links.push((dir, name));
        made
    }

    pub(super) fn unlink(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        let Some(at) = self.pick_file(up) else {
            return 0;
        };
        let file = &mut self.files[at];
        let Some((dir, name)) = file.links.pop() else {
            return 0;
        };
        let (tfid, mdt, last) = (file.fid, file.mdt, file.links.is_empty());
        if last {
            self.files.swap_remove(at);
        }
        self.dirs[dir].entries -= 1;
        let pfid = self.dirs[dir].fid;
        let flags = u16::from(last);
        self.log(client, Draft { kind: kind::UNLNK, flags, tfid, pfid, name: &name, ..Draft::default() }, &mut out[mdt])
    }

    pub(super) fn mkdir(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        if self.live_dirs >= MAX_DIRS {
            return 0;
        }
        let Some(parent) = self.pick_dir(up) else {
            return 0;
        };
        let mut mdt = self.dirs[parent].mdt;
        if self.rng.random_range(0..8) == 0 {
            // A remote directory.
            let other = self.rng.random_range(0..up.len());
            if up[other] {
                mdt = other;
            }
        }
        let fid = self.new_fid(client, mdt);
        self.serial += 1;
        let name = format!("d{:05x}", self.serial).into_bytes();
        let pfid = self.dirs[parent].fid;
        let made = self.log(
            client,
            Draft { kind: kind::MKDIR, tfid: fid, pfid, name: &name, ..Draft::default() },
            &mut out[mdt],
        );
        self.dirs[parent].entries += 1;
        self.live_dirs += 1;
        let dir = Dir { fid, mdt, parent, name, entries: 0, alive: true };
        // Dead places are used again, or the list would grow for ever.
        match (1..self.dirs.len()).find(|at| !self.dirs[*at].alive) {
            Some(at) if self.dirs.len() >= MAX_DIRS => self.dirs[at] = dir,
            _ => self.dirs.push(dir),
        }
        made
    }

    pub(super) fn rmdir(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        let Some(at) = (0..16).find_map(|_| self.pick_dir(up).filter(|d| self.dirs[*d].entries == 0)) else {
            return 0;
        };
        let dir = &mut self.dirs[at];
        dir.alive = false;
        self.live_dirs -= 1;
        let (tfid, mdt, parent, name) = (dir.fid, dir.mdt, dir.parent, std::mem::take(&mut dir.name));
        self.dirs[parent].entries -= 1;
        let pfid = self.dirs[parent].fid;
        self.log(
            client,
            Draft { kind: kind::RMDIR, flags: 1, tfid, pfid, name: &name, ..Draft::default() },
            &mut out[mdt],
        )
    }

    pub(super) fn setattr(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        const CHANGED: [u16; 4] = [0x14, 0x24, 0x44, 0xe4];
        let Some(at) = self.pick_file(up) else {
            return 0;
        };
        let flags = CHANGED[self.rng.random_range(0..CHANGED.len())];
        let (tfid, mdt) = (self.files[at].fid, self.files[at].mdt);
        self.log(client, Draft { kind: kind::SATTR, flags, tfid, ..Draft::default() }, &mut out[mdt])
    }

    pub(super) fn setxattr(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        const XATTRS: [&str; 3] = ["user.comment", "trusted.dmv", "security.selinux"];
        let Some(at) = self.pick_file(up) else {
            return 0;
        };
        let xattr = Some(XATTRS[self.rng.random_range(0..XATTRS.len())]);
        let (tfid, mdt) = (self.files[at].fid, self.files[at].mdt);
        self.log(client, Draft { kind: kind::XATTR, tfid, xattr, ..Draft::default() }, &mut out[mdt])
    }

    pub(super) fn symlink(&mut self, client: usize, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        let Some(dir) = self.pick_dir(up) else {
            return 0;
        };
        let mdt = self.dirs[dir].mdt;
        let tfid = self.new_fid(client, mdt);
        let name = self.new_name();
        let pfid = self.dirs[dir].fid;
        let made =
            self.log(client, Draft { kind: kind::SLINK, tfid, pfid, name: &name, ..Draft::default() }, &mut out[mdt]);
        self.dirs[dir].entries += 1;
        self.files.push(File { fid: tfid, mdt, links: vec![(dir, name)] });
        made
    }
}
