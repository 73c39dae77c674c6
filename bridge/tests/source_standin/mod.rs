//! A stand-in of the changelog device at the level of its system calls, in simulated time: it keeps what LUSTRE.md's
//! device does (prefetch of 1024 records by a thread that only `poll` starts, the sticky end, whole records only,
//! `lseek` forward, the cost of seeking, following once a second, sticky `EIO`, clears with the kernel's errors, and
//! the old kernel that takes the ioctl's argument for a boolean).
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use clbridge::source::{Clock, DeviceClearer, DeviceSource, LustreDevice, PaceSettings, Read, Source, Syscalls};
use clbridge_schemas::ids::MdtName;
use clbridge_schemas::lustre::records;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_micros(100);
const PREFETCH: usize = 1024;
/// What a new descriptor costs where nothing has to be skipped.
const OPENING: Duration = Duration::from_micros(200);

pub fn nz(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

pub fn mdt() -> MdtName {
    "lustre-MDT0000".parse().unwrap()
}

/// A record in the log: its content is told by `version`, which a crash changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    pub index: u64,
    pub version: u32,
}

#[derive(Default)]
pub struct World {
    pub now: Duration,
    pub log: Vec<Stored>,
    pub newest: u64,
    pub version: u32,
    /// Of `cl1`.
    pub cleared: u64,
    pub absent: bool,
    pub down: bool,
    /// An old kernel.
    pub boolean: bool,
    /// What skipping one uncleared record costs at an opening.
    pub skip_cost: Duration,
    /// Records made every tick, in thousandths.
    pub rate: u64,
    made: u64,
    /// Reads of the next descriptors that fail with `EAGAIN` although there are records.
    pub eagain: u32,
    /// How many of the next openings give a descriptor that fails.
    pub bad_openings: u32,
    files: BTreeMap<RawFd, File>,
    pub calls: Vec<String>,
    /// How much time passed between openings and their first answers.
    pub opening_time: Duration,
    pub openings: u32,
    pub follows: u32,
    pub polls: u32,
}

struct File {
    writes: bool,
    position: u64,
    follow: bool,
    big_endian: bool,
    queue: VecDeque<Stored>,
    started: bool,
    ready: Duration,
    opened: Duration,
    looked: bool,
    end: bool,
    error: Option<i32>,
}

impl World {
    pub fn append(&mut self, count: u64) {
        for _ in 0..count {
            self.newest += 1;
            self.log.push(Stored { index: self.newest, version: self.version });
        }
    }

    /// A crash takes back everything behind `keep`; what is made from now on differs.
    pub fn crash(&mut self, keep: u64) {
        self.log.retain(|r| r.index <= keep);
        self.newest = keep;
        self.version += 1;
    }

    /// The client is evicted: every open descriptor fails from now on.
    pub fn evict(&mut self) {
        for file in self.files.values_mut() {
            file.error = Some(libc::EIO);
        }
    }

    pub fn open_files(&self) -> usize {
        self.files.len()
    }

    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while self.now < until {
            self.now += TICK.min(until - self.now);
            self.made += self.rate;
            let due = self.made / 1000;
            self.made %= 1000;
            self.append(due);
            self.fetch();
        }
    }

    /// What the threads behind the descriptors do.
    fn fetch(&mut self) {
        if self.down {
            return;
        }
        for file in self.files.values_mut() {
            if !file.started || file.end || file.error.is_some() || self.now < file.ready {
                continue;
            }
            if !file.looked {
                file.looked = true;
                self.opening_time += self.now - file.opened;
            }
            let first = self.log.partition_point(|r| r.index < file.position);
            for &record in &self.log[first..] {
                if file.queue.len() == PREFETCH {
                    break;
                }
                file.queue.push_back(record);
                file.position = record.index + 1;
            }
            if file.queue.len() < PREFETCH {
                file.end = !file.follow;
                file.ready = self.now + SECOND;
            }
        }
    }
}

/// A record of 64 + 8 + 24 + 4 bytes: extra flags, a NID, a name of four letters.
pub fn encode(record: Stored, big_endian: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let seconds = 1_795_000_000_u64;
    bytes.extend(4_u16.to_le_bytes());
    bytes.extend(0x8000_u16.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(record.index.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(((seconds << 30) + record.index + 500_000 * u64::from(record.version)).to_le_bytes());
    for _ in 0..2 {
        bytes.extend(0x2_0000_0401_u64.to_le_bytes());
        bytes.extend((record.index as u32).to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
    }
    bytes.extend((if big_endian { 0x12_u64 } else { 0x02 }).to_le_bytes());
    bytes.extend([0; 24]);
    bytes.extend(b"name");
    bytes
}

fn errno<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

#[derive(Clone, Default)]
pub struct StandIn(Arc<Mutex<World>>);

impl StandIn {
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub fn with(records: u64) -> Self {
        let standin = Self::default();
        standin.world().append(records);
        standin
    }

    pub fn device(&self) -> LustreDevice<Self> {
        LustreDevice::with_calls(Path::new("/dev"), &mdt(), self.clone())
    }

    pub fn source(&self) -> DeviceSource<LustreDevice<Self>, Self> {
        DeviceSource::new(mdt(), self.device(), self.clone(), PaceSettings::default())
    }

    pub fn clearer(&self) -> DeviceClearer<LustreDevice<Self>, Self> {
        DeviceClearer::new(mdt(), self.device(), "cl1".parse().unwrap(), self.clone())
    }
}

impl Clock for StandIn {
    fn now(&self) -> Duration {
        self.world().now
    }

    fn sleep(&self, time: Duration) {
        self.world().advance(time);
    }
}

impl Syscalls for StandIn {
    fn open(&self, path: &Path, flags: libc::c_int) -> io::Result<RawFd> {
        let mut world = self.world();
        let mode = if flags & libc::O_ACCMODE == libc::O_WRONLY { "O_WRONLY" } else { "O_RDONLY" };
        world.calls.push(format!("open {} {mode}", path.display()));
        if world.absent {
            return errno(libc::ENOENT);
        }
        let reads = flags & libc::O_ACCMODE == libc::O_RDONLY;
        assert_eq!(flags & libc::O_NONBLOCK != 0, reads, "reads must not block");
        let fd = (3..).find(|fd| !world.files.contains_key(fd)).unwrap();
        let bad = world.bad_openings > 0 && reads;
        world.bad_openings -= u32::from(bad);
        world.openings += u32::from(reads);
        let file = File {
            writes: !reads,
            position: 1,
            follow: false,
            big_endian: false,
            queue: VecDeque::new(),
            started: false,
            ready: Duration::ZERO,
            opened: world.now,
            looked: false,
            end: false,
            error: bad.then_some(libc::EIO),
        };
        world.files.insert(fd, file);
        Ok(fd)
    }

    fn lseek(&self, fd: RawFd, offset: i64) -> io::Result<()> {
        let mut world = self.world();
        world.calls.push(format!("lseek {offset}"));
        let file = world.files.get_mut(&fd).unwrap();
        if (offset as u64) < file.position {
            return errno(libc::EINVAL);
        }
        file.position = offset as u64;
        Ok(())
    }

    fn ioctl(&self, fd: RawFd, request: u64, arg: u64) -> io::Result<()> {
        let mut world = self.world();
        world.calls.push(format!("ioctl {request:#x} {arg:#x}"));
        assert_eq!(request, 0x8008_66e9);
        let boolean = world.boolean;
        world.follows += u32::from(arg & 1 != 0);
        let file = world.files.get_mut(&fd).unwrap();
        file.follow = if boolean { arg != 0 } else { arg & 1 != 0 };
        file.big_endian = !boolean && arg & 0x10 != 0;
        Ok(())
    }

    fn poll(&self, fd: RawFd, events: i16, timeout: Duration) -> io::Result<i16> {
        let mut world = self.world();
        world.polls += 1;
        assert_eq!(events, libc::POLLIN);
        let until = world.now + timeout;
        let (now, skip_cost) = (world.now, world.skip_cost);
        let position = world.files[&fd].position;
        let skipped = world.log.partition_point(|r| r.index < position) as u32;
        let file = world.files.get_mut(&fd).unwrap();
        if !file.started {
            file.started = true;
            file.ready = now + OPENING + skip_cost * skipped;
        }
        loop {
            let file = &world.files[&fd];
            let mut there = 0;
            there |= if file.queue.is_empty() { 0 } else { libc::POLLIN };
            there |= if file.end { libc::POLLHUP } else { 0 };
            there |= if file.error.is_some() { libc::POLLERR } else { 0 };
            if there != 0 || world.now >= until {
                return Ok(there);
            }
            let left = until - world.now;
            world.advance(TICK.min(left));
        }
    }

    fn read(&self, fd: RawFd, buf: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        let mut world = self.world();
        world.calls.push("read".to_owned());
        if world.eagain > 0 {
            world.eagain -= 1;
            return errno(libc::EAGAIN);
        }
        let file = world.files.get_mut(&fd).unwrap();
        if file.writes {
            return errno(libc::EBADF);
        }
        let mut got = 0;
        while let Some(&record) = file.queue.front() {
            let bytes = encode(record, file.big_endian);
            if got + bytes.len() > room {
                return Ok(got);
            }
            got += bytes.len();
            buf.extend(bytes);
            file.queue.pop_front();
        }
        match (got, file.error, file.end) {
            (0, Some(error), _) => errno(error),
            (0, None, false) => errno(libc::EAGAIN),
            (got, _, _) => Ok(got),
        }
    }

    fn write(&self, fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
        let mut world = self.world();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        world.calls.push(format!("write {text:?}"));
        if !world.files[&fd].writes {
            return errno(libc::EBADF);
        }
        let parts: Vec<&str> = text.trim_end_matches('\0').split(':').collect();
        let &["clear", user, number] = parts.as_slice() else { return errno(libc::EINVAL) };
        if bytes.len() > 64 {
            return errno(libc::EINVAL);
        }
        let upto: u64 = number.parse().unwrap();
        assert_ne!(upto, 0, "this would clear everything");
        if user != "cl1" || upto < world.cleared {
            return errno(libc::ENOENT);
        }
        if upto > world.newest {
            return errno(libc::EINVAL);
        }
        world.cleared = upto;
        world.log.retain(|r| r.index > upto);
        Ok(bytes.len())
    }

    fn close(&self, fd: RawFd) {
        let mut world = self.world();
        world.calls.push("close".to_owned());
        world.files.remove(&fd).expect("closed once only");
    }
}

/// One read, its records' indexes and versions.
pub fn read(source: &mut impl Source, limit: usize, wait: Duration) -> (Read, Vec<Stored>) {
    let mut buf = Vec::new();
    let read = source.read(&mut buf, limit, wait).unwrap();
    assert_eq!(read.bytes, buf.len());
    (read, stored(&buf))
}

pub fn stored(buf: &[u8]) -> Vec<Stored> {
    let each = records(buf, 0).map(|view| {
        let view = view.unwrap();
        let version = (view.time().nanos() % 1_000_000_000) as u64 - view.index();
        Stored { index: view.index(), version: (version / 500_000) as u32 }
    });
    each.collect()
}

/// All indexes until `count` have come.
pub fn read_many(source: &mut impl Source, count: usize) -> Vec<u64> {
    let mut indexes = Vec::new();
    for _ in 0..1_000_000 {
        if indexes.len() >= count {
            break;
        }
        let (_, got) = read(source, 1 << 20, 50 * MS);
        indexes.extend(got.iter().map(|r| r.index));
    }
    indexes
}
