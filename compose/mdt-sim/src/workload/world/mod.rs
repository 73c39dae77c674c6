//! A plausible file system, played: a tree of directories over the MDTs, files with links, clients with jobs.
//! It keeps to what Lustre would log where: a rename on the MDT of the new parent, a link on the directory's, an unlink
//! on the file's.

mod operations;

use std::io::Write as _;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::encode::{Draft, Fid, encode};

/// Record types, as the kernel numbers them.
pub(crate) mod kind {
    #![allow(missing_docs)]
    pub(crate) const CREAT: u32 = 1;
    pub(crate) const MKDIR: u32 = 2;
    pub(crate) const HLINK: u32 = 3;
    pub(crate) const SLINK: u32 = 4;
    pub(crate) const UNLNK: u32 = 6;
    pub(crate) const RMDIR: u32 = 7;
    pub(crate) const RENME: u32 = 8;
    pub(crate) const OPEN: u32 = 10;
    pub(crate) const CLOSE: u32 = 11;
    pub(crate) const TRUNC: u32 = 13;
    pub(crate) const SATTR: u32 = 14;
    pub(crate) const XATTR: u32 = 15;
}

const MAX_DIRS: usize = 2_000;
/// Objects that one client names under one FID sequence.
const SEQUENCE: u32 = 0x1_ffff;
/// Files that are written at the same time.
const OPEN_FILES: usize = 32;

struct Client {
    nid: [u8; 20],
    jobid: String,
    owner: (u32, u32),
    /// Next FID on each MDT.
    next: Vec<Fid>,
}

struct Dir {
    fid: Fid,
    mdt: usize,
    parent: usize,
    name: Vec<u8>,
    entries: usize,
    alive: bool,
}

struct File {
    fid: Fid,
    mdt: usize,
    links: Vec<(usize, Vec<u8>)>,
}

/// The file system.
pub(super) struct World {
    rng: SmallRng,
    clients: Vec<Client>,
    dirs: Vec<Dir>,
    live_dirs: usize,
    files: Vec<File>,
    open: Vec<(usize, Fid, usize)>,
    max_files: usize,
    serial: u64,
}

/// NIDs as different sites have them: TCP, InfiniBand, a second network, IPv6.
fn nid(client: usize) -> [u8; 20] {
    let mut nid = [0u8; 20];
    let host = client as u8 + 2;
    match client % 4 {
        3 => {
            nid[..4].copy_from_slice(&[12, 2, 0, 9]);
            nid[4..8].copy_from_slice(&[0xfd, 0, 0, 9]);
            nid[19] = host;
        }
        n => {
            let kind = if n == 1 { 5 } else { 2 };
            let number = if n == 2 { 1 } else { 0 };
            nid[..4].copy_from_slice(&[0, kind, 0, number]);
            nid[4..8].copy_from_slice(&[10, 1, n as u8, host]);
        }
    }
    nid
}

impl World {
    /// A new file system over `mdts` MDTs. `epoch` keeps its FIDs apart from those of other worlds on the same MDTs.
    pub(super) fn new(mdts: usize, seed: u64, epoch: u64, max_files: usize) -> Self {
        const PROGRAMS: [&str; 8] = ["mdtest", "python3", "rsync", "tar", "slurm_1024", "ior", "bash", "git"];
        let clients = PROGRAMS
            .iter()
            .enumerate()
            .map(|(n, program)| {
                let uid = if n == 6 { 0 } else { 1000 + n as u32 };
                Client {
                    nid: nid(n),
                    jobid: format!("{program}.{uid}"),
                    owner: (uid, if uid == 0 { 0 } else { 100 }),
                    next: (0..mdts)
                        .map(|m| {
                            let own = (epoch << 12) | ((n as u64) << 6) | (m as u64 & 0x3f);
                            (0x2_0000_0400 + own, 1, 0)
                        })
                        .collect(),
                }
            })
            .collect();
        let root = Dir { fid: (0x2_0000_0007, 1, 0), mdt: 0, parent: 0, name: Vec::new(), entries: 0, alive: true };
        let mut world = Self {
            rng: SmallRng::seed_from_u64(seed),
            clients,
            dirs: vec![root],
            live_dirs: 1,
            files: Vec::new(),
            open: Vec::new(),
            max_files: max_files.max(16),
            serial: 0,
        };
        // A directory on each MDT, so that each has work from the first operation on (made before the log began).
        for mdt in 0..mdts {
            let fid = world.new_fid(0, mdt);
            let name = format!("mdt{mdt}").into_bytes();
            world.dirs.push(Dir { fid, mdt, parent: 0, name, entries: 1, alive: true });
            world.live_dirs += 1;
        }
        world
    }

    fn new_fid(&mut self, client: usize, mdt: usize) -> Fid {
        let next = &mut self.clients[client].next[mdt];
        let fid = *next;
        next.1 += 1;
        if next.1 > SEQUENCE {
            // The bits above the worlds' epochs: never met by another world.
            *next = (next.0 + (1 << 58), 1, 0);
        }
        fid
    }

    fn new_name(&mut self) -> Vec<u8> {
        const ENDS: [&str; 6] = ["h5", "nc", "txt", "out", "dat", "log"];
        self.serial += 1;
        let mut name = Vec::with_capacity(32);
        let end = ENDS[self.rng.random_range(0..ENDS.len())];
        // Writing to a Vec cannot fail.
        let _ = match self.rng.random_range(0..50) {
            0 => write!(name, "r\u{e9}sultat {:x} é.{end}", self.serial),
            1 => {
                name.extend_from_slice(b"caf\xe9_");
                write!(name, "{:x}.{end}", self.serial)
            }
            _ => write!(name, "output_{:08x}.{end}", self.serial),
        };
        name
    }

    /// A living directory on an MDT that is up.
    fn pick_dir(&mut self, up: &[bool]) -> Option<usize> {
        for _ in 0..64 {
            let at = self.rng.random_range(1..self.dirs.len());
            let dir = &self.dirs[at];
            if dir.alive && up[dir.mdt] {
                return Some(at);
            }
        }
        (1..self.dirs.len()).find(|at| self.dirs[*at].alive && up[self.dirs[*at].mdt])
    }

    fn pick_file(&mut self, up: &[bool]) -> Option<usize> {
        for _ in 0..16 {
            if self.files.is_empty() {
                return None;
            }
            let at = self.rng.random_range(0..self.files.len());
            if up[self.files[at].mdt] {
                return Some(at);
            }
        }
        None
    }

    fn log(&self, client: usize, draft: Draft<'_>, out: &mut Vec<u8>) -> u64 {
        let client = &self.clients[client];
        encode(&Draft { jobid: Some(&client.jobid), owner: Some(client.owner), nid: Some(&client.nid), ..draft }, out);
        1
    }

    /// One operation; its records go to the buffers of their MDTs. Returns how many there were. At least one MDT is up.
    pub(super) fn step(&mut self, up: &[bool], out: &mut [Vec<u8>]) -> u64 {
        let client = self.rng.random_range(0..self.clients.len());
        if self.open.len() >= OPEN_FILES {
            let n = self.close(up, out);
            if n > 0 {
                return n;
            }
        }
        let full = self.files.len() >= self.max_files;
        let made = match self.rng.random_range(0..100) {
            0..30 if !full => self.create(client, up, out),
            30..45 => self.rewrite(client, up, out),
            45..55 => self.rename(client, up, out),
            55..60 => self.link(client, up, out),
            60..64 => self.mkdir(client, up, out),
            64..66 => self.rmdir(client, up, out),
            66..74 => self.setattr(client, up, out),
            74..78 => self.setxattr(client, up, out),
            78..81 if !full => self.symlink(client, up, out),
            81..84 => self.close(up, out),
            _ => self.unlink(client, up, out),
        };
        // Nothing to do it on yet: there is always something to create.
        if made == 0 { self.create(client, up, out) } else { made }
    }
}
