//! The reader and the clearer over a simulated MDT, through its client library: the same code as the real device's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::num::NonZeroU64;
use std::time::Duration;

use clbridge::source::{
    BootClock, Clearer, Device, DeviceClearer, DeviceSource, PaceSettings, Probe, SimDevice, SimFactory, Source,
    SourceError, SourceFactory,
};
use clbridge_schemas::ids::MdtName;
use clbridge_schemas::lustre::records;
use mdt_sim::mdt::{Crash, FaultOn, Malformed, MdtConfig, Stamp};
use mdt_sim::server::{Config, Server, UserSpec};

const MDT: &str = "lustre-MDT0000";
const WAIT: Duration = Duration::from_secs(5);

fn nz(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

fn mdt() -> MdtName {
    MDT.parse().unwrap()
}

/// A server with two MDTs and a user each, which commits on command only.
struct Sim {
    server: Server,
    _dir: tempfile::TempDir,
}

impl Sim {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mdts = [MDT, "lustre-MDT0001"]
            .map(|name| MdtConfig { commit_interval: Duration::ZERO, ..MdtConfig::new(name, dir.path()) });
        let server = Server::start(&Config {
            mdts: mdts.into(),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            control: Vec::new(),
            register: vec![UserSpec { name: None, mask: None }],
        });
        Self { server: server.unwrap(), _dir: dir }
    }

    /// Logs `count` records; the server gives them their indexes and times.
    fn log(&self, count: u64) {
        self.server.mdt(MDT).unwrap().emit(&plain(count), Stamp::Now).unwrap();
    }

    fn device(&self) -> SimDevice {
        SimDevice::new(self.server.data_addrs()[0].clone(), mdt())
    }

    fn source(&self) -> DeviceSource<SimDevice, BootClock> {
        DeviceSource::new(mdt(), self.device(), BootClock, PaceSettings::default())
    }

    fn clearer(&self) -> DeviceClearer<SimDevice, BootClock> {
        DeviceClearer::new(mdt(), self.device(), "cl1".parse().unwrap(), BootClock)
    }

    fn factory(&self) -> SimFactory {
        SimFactory::new(self.server.data_addrs()[0].clone(), PaceSettings::default())
    }
}

/// CREAT records of a head and a name of four letters.
fn plain(count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..count {
        bytes.extend(4_u16.to_le_bytes());
        bytes.extend(0_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend([0; 24]);
        for _ in 0..2 {
            bytes.extend(0x2_0000_0401_u64.to_le_bytes());
            bytes.extend((n as u32 + 1).to_le_bytes());
            bytes.extend(0_u32.to_le_bytes());
        }
        bytes.extend(b"name");
    }
    bytes
}

/// Indexes of at least `count` records.
fn take(source: &mut impl Source, count: usize) -> Vec<u64> {
    let (mut indexes, mut buf) = (Vec::new(), Vec::new());
    while indexes.len() < count {
        buf.clear();
        assert!(source.read(&mut buf, 1 << 20, WAIT).unwrap().bytes > 0, "only {} came", indexes.len());
        indexes.extend(records(&buf, 0).map(|view| view.unwrap().index()));
    }
    indexes
}

fn error_of(source: &mut impl Source) -> SourceError {
    loop {
        if let Err(error) = source.read(&mut Vec::new(), 1 << 20, WAIT) {
            return error;
        }
    }
}

#[test]
fn every_record_comes_once_in_order_across_many_ends_of_the_stream() {
    let sim = Sim::start();
    let mut source = sim.source();
    let mut indexes = Vec::new();
    for round in 0..50 {
        let count = 1 + round * 40;
        sim.log(count);
        indexes.extend(take(&mut source, count as usize));
    }
    assert!(indexes.iter().copied().eq(1..=indexes.len() as u64));
    source.seek(nz(700)).unwrap();
    assert_eq!(take(&mut source, 1)[0], 700);
}

#[test]
fn an_eviction_and_passing_errors_lose_nothing() {
    let sim = Sim::start();
    let mut source = sim.source();
    sim.log(100);
    let mut indexes = take(&mut source, 100);
    for errno in [libc::EIO, libc::EAGAIN, libc::EINTR] {
        sim.server.mdt(MDT).unwrap().fail(FaultOn::Read, errno, Some(2)).unwrap();
        sim.log(100);
        indexes.extend(take(&mut source, 100));
    }
    assert!(indexes.into_iter().eq(1..=400));
}

#[test]
fn an_mdt_that_vanished_is_told_as_such() {
    let sim = Sim::start();
    let mut source = sim.source();
    sim.log(10);
    take(&mut source, 10);
    sim.server.mdt(MDT).unwrap().fail(FaultOn::Read, libc::ENODEV, None).unwrap();
    assert!(error_of(&mut source).is_vanished());
}

#[test]
fn a_malformed_record_is_an_error_that_names_its_index() {
    let sim = Sim::start();
    sim.log(10);
    sim.server.mdt(MDT).unwrap().spoil(7, Malformed::Nul).unwrap();
    let error = error_of(&mut sim.source());
    assert!(matches!(error, SourceError::Malformed { .. }));
    assert!(error.to_string().contains("record 7"), "{error}");
}

#[test]
fn a_crash_that_gives_indexes_anew_leaves_the_reader_in_doubt_and_the_probe_tells() {
    // given ten records read, seven of them committed
    let sim = Sim::start();
    let (mut source, mut clearer) = (sim.source(), sim.clearer());
    sim.log(7);
    sim.server.mdt(MDT).unwrap().commit().unwrap();
    sim.log(3);
    take(&mut source, 10);
    let read = [7, 10].map(|index| clearer.probe(nz(index)).unwrap());
    // when the MDT crashes and the indexes behind the commit point are given to others
    let how = Crash { replay: 0.0, ..Crash::default() };
    sim.server.mdt(MDT).unwrap().crash(&how, plain).unwrap();
    sim.log(5);
    // then what comes behind the last record is in doubt, and the probe sees which record stands
    let mut buf = Vec::new();
    let next = source.read(&mut buf, 1 << 20, WAIT).unwrap();
    assert!(next.bytes > 0 && next.in_doubt());
    let now = [7, 10].map(|index| clearer.probe(nz(index)).unwrap());
    assert_eq!(now[0], read[0]);
    assert!(matches!(now[1], Probe::Found(_)) && now[1] != read[1]);
}

#[test]
fn clears_reach_the_mdt_and_what_they_took_is_gone() {
    let sim = Sim::start();
    sim.log(10);
    let (mut device, user) = (sim.device(), "cl1-anyname".parse().unwrap());
    device.clear(&user, nz(4)).unwrap();
    device.clear(&user, nz(4)).unwrap();
    let mut clearer = sim.clearer();
    assert_eq!(clearer.oldest().unwrap(), Some(5));
    assert_eq!(clearer.probe(nz(4)).unwrap(), Probe::Gone { next: 5 });
    assert_eq!(clearer.probe(nz(11)).unwrap(), Probe::Nothing);
    let errno = |upto| sim.device().clear(&user, nz(upto)).unwrap_err().raw_os_error();
    assert_eq!((errno(3), errno(11)), (Some(libc::ENOENT), Some(libc::EINVAL)));
    let mut scanned = Vec::new();
    clearer.scan(nz(6), 8, &mut |index, _| scanned.push(index)).unwrap();
    assert_eq!(scanned, [6, 7, 8]);
}

#[test]
fn the_factory_finds_the_servers_mdts_and_opens_those_that_are_there() {
    let sim = Sim::start();
    let factory = sim.factory();
    let names: Vec<String> = factory.discover().unwrap().iter().map(MdtName::to_string).collect();
    assert_eq!(names, [MDT, "lustre-MDT0001"]);
    sim.log(3);
    let (mut source, mut clearer) = factory.open(&mdt(), "cl1").unwrap();
    let mut buf = Vec::new();
    assert!(source.read(&mut buf, 1 << 20, WAIT).unwrap().bytes > 0);
    assert_eq!(clearer.oldest().unwrap(), Some(1));
    assert!(factory.open(&"other-MDT0000".parse().unwrap(), "cl1").err().unwrap().is_vanished());
    drop(sim);
    assert!(matches!(factory.discover(), Err(SourceError::Discovery { .. })));
}
