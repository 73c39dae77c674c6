//! A server in a folder of its own, and the calls that most tests make.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use mdt_sim::addr::Addr;
use mdt_sim::client::{Changelog, flags};
use mdt_sim::control::client::Control;
use mdt_sim::layout;
use mdt_sim::mdt::{Mdt, MdtConfig, Stamp};
use mdt_sim::server::{Config, Server, UserSpec};

pub const MDT: &str = "lustre-MDT0000";
pub const SECOND: &str = "lustre-MDT0001";
/// Long enough for any machine: no test relies on it running out, but those that say so.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Sim {
    pub server: Server,
    pub dir: tempfile::TempDir,
}

/// A server with two MDTs, one user each, commits only on command.
pub fn sim() -> Sim {
    sim_with(|_| {})
}

pub fn sim_with(change: impl Fn(&mut MdtConfig)) -> Sim {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), change);
    Sim { server, dir }
}

pub fn start(dir: &std::path::Path, change: impl Fn(&mut MdtConfig)) -> Server {
    let mdts = [MDT, SECOND]
        .iter()
        .map(|name| {
            let mut config = MdtConfig { commit_interval: Duration::ZERO, ..MdtConfig::new(*name, dir) };
            change(&mut config);
            config
        })
        .collect();
    Server::start(&Config {
        mdts,
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        control: vec!["127.0.0.1:0".parse().unwrap()],
        register: vec![UserSpec { name: None, mask: None }],
    })
    .unwrap()
}

impl Sim {
    pub fn addr(&self) -> &Addr {
        &self.server.data_addrs()[0]
    }

    pub fn control(&self) -> Control {
        Control::connect(&self.server.control_addrs()[0]).unwrap()
    }

    pub fn mdt(&self) -> &Arc<Mdt> {
        self.server.mdt(MDT).unwrap()
    }

    pub fn open(&self) -> Changelog {
        Changelog::open(self.addr(), MDT, flags::READ | flags::NID_BE).unwrap()
    }

    pub fn writer(&self) -> Changelog {
        Changelog::open(self.addr(), MDT, flags::WRITE).unwrap()
    }

    /// Logs `count` records named `PREFIX-N`.
    pub fn log(&self, prefix: &str, count: u64) {
        log(self.mdt(), prefix, count);
    }
}

/// Logs `count` CREAT records named `PREFIX-N`.
pub fn log(mdt: &Mdt, prefix: &str, count: u64) {
    let mut bytes = Vec::new();
    for n in 0..count {
        bytes.extend(record(1, &format!("{prefix}-{n}"), n));
    }
    mdt.emit(&bytes, Stamp::Now).unwrap();
}

/// A record of 64 bytes and a name.
pub fn record(kind: u32, name: &str, oid: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&0x1000u16.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 24]);
    out.extend_from_slice(&0x2_0000_0402u64.to_le_bytes());
    out.extend_from_slice(&(oid as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(name.as_bytes());
    out
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub index: u64,
    pub kind: u32,
    pub time_ns: u64,
    pub name: String,
}

/// The records in a buffer.
pub fn parse(mut bytes: &[u8]) -> Vec<Seen> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let len = layout::record_len(bytes).expect("a whole record");
        let head = layout::head(bytes).unwrap();
        let name = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        out.push(Seen {
            index: head.index,
            kind: head.kind,
            time_ns: head.time_ns,
            name: String::from_utf8_lossy(&bytes[len - name..len]).into_owned(),
        });
        bytes = &bytes[len..];
    }
    out
}

/// Everything up to the end, as bytes.
pub fn bytes_to_end(changelog: &mut Changelog) -> Vec<u8> {
    let mut out = Vec::new();
    let mut buf = vec![0; 1 << 20];
    loop {
        match changelog.read(&mut buf, PATIENCE).unwrap() {
            0 => return out,
            n => out.extend_from_slice(&buf[..n]),
        }
    }
}

/// Everything up to the end.
pub fn to_end(changelog: &mut Changelog) -> Vec<Seen> {
    parse(&bytes_to_end(changelog))
}

pub fn indexes(seen: &[Seen]) -> Vec<u64> {
    seen.iter().map(|s| s.index).collect()
}

pub fn errno(result: std::io::Result<usize>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}
