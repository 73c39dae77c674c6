//! The character device's system calls against listings of a real Lustre, probes, scans and clears over the stand-in,
//! and discovery.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod source_standin;

use std::fs;
use std::path::Path;
use std::time::Duration;

use clbridge::source::{
    Answer, Clearer, Descriptor, Device, LustreDevice, LustreFactory, Mode, PaceSettings, Probe, SourceFactory,
};
use clbridge_schemas::ids::MdtName;
use source_standin::{MS, StandIn, encode, mdt, nz};

/// The listing's calls on the device, up to the first read, in the stand-in's words. JOBID, EXTRA_FLAGS (0xc) and BLOCK
/// (2) are ignored by the kernel, so they are taken out of the ioctl's argument.
fn listed(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/lustre").join(name);
    let listing = fs::read_to_string(path).unwrap();
    // A process may be named before the call.
    let lines = listing.lines().map(|line| line.split_once("] ").map_or(line, |(_, call)| call));
    let mut calls = Vec::new();
    for (name, rest) in lines.filter_map(|line| line.split_once('(')) {
        let args: Vec<&str> = rest.rsplit_once(')').unwrap().0.split(", ").collect();
        match name {
            "openat" if args[1].contains("/dev/changelog-") => {
                calls.push(format!("open {} {}", args[1].trim_matches('"'), args[2]));
            }
            "lseek" if args[0] == "3" => calls.push(format!("lseek {}", args[1])),
            "ioctl" => {
                // _IOC(direction, type, number, size)
                let number = |text: &str| {
                    let digits = text.trim_end_matches(')').trim_start_matches("0x");
                    u64::from_str_radix(digits, 16).unwrap()
                };
                let (kind, nr, size, arg) = (number(args[2]), number(args[3]), number(args[4]), number(args[5]));
                let request = (2 << 30) | (size << 16) | (kind << 8) | nr;
                calls.push(format!("ioctl {request:#x} {:#x}", arg & !0xe));
            }
            "read" if args[0] == "3" => {
                calls.push("read".to_owned());
                return calls;
            }
            "write" if args[0] == "3" => {
                calls.push(format!("write {:?}", args[1].trim_matches('"').replace("\\0", "\0")));
                return calls;
            }
            _ => {}
        }
    }
    calls
}

#[test]
fn reading_issues_the_calls_of_a_real_client_in_its_order_with_its_arguments() {
    let cases = [
        ("lfs-changelog.strace.txt", None, Mode::Once, 3),
        ("lfs-changelog-range.strace.txt", Some(nz(705)), Mode::Once, 4),
        ("lfs-changelog-follow.strace.txt", None, Mode::Follow, 3),
    ];
    for (listing, from, mode, calls) in cases {
        let standin = StandIn::with(712);
        let mut descriptor = standin.device().open(from, mode).unwrap();
        let answer = descriptor.read(&mut Vec::new(), 1 << 20, 10 * MS).unwrap();
        assert_eq!(answer, Answer::Records);
        assert_eq!(standin.world().calls, listed(listing));
        assert_eq!(standin.world().calls.len(), calls);
        drop(descriptor);
        assert_eq!(standin.world().calls.last().unwrap(), "close");
    }
}

#[test]
fn clearing_issues_the_calls_of_a_real_client_with_the_numeric_user_only() {
    let standin = StandIn::with(712);
    // The stand-in knows only cl1; what is written is the point here.
    let cases =
        [("cl4-robin", 709, "lfs-changelog_clear-named.strace.txt"), ("cl3", 705, "lfs-changelog_clear.strace.txt")];
    for (user, upto, listing) in cases {
        standin.world().calls.clear();
        let _ = standin.device().clear(&user.parse().unwrap(), nz(upto));
        let calls = standin.world().calls.clone();
        assert_eq!(calls[..2], listed(listing));
        assert_eq!(calls[2..], ["close"]);
    }
}

#[test]
fn without_poll_nothing_is_fetched_so_the_first_read_polls_even_when_it_must_not_wait() {
    let standin = StandIn::with(5);
    let mut descriptor = standin.device().open(None, Mode::Once).unwrap();
    let mut buf = Vec::new();
    assert_eq!(descriptor.read(&mut buf, 1 << 20, Duration::ZERO).unwrap(), Answer::Nothing);
    standin.world().advance(10 * MS);
    assert_eq!(descriptor.read(&mut buf, 1 << 20, Duration::ZERO).unwrap(), Answer::Records);
    assert_eq!(descriptor.read(&mut buf, 1 << 20, Duration::ZERO).unwrap(), Answer::End);
    standin.world().append(1);
    assert_eq!(descriptor.read(&mut buf, 1 << 20, 10 * MS).unwrap(), Answer::End);
}

#[test]
#[should_panic(expected = "can look like the end")]
fn a_read_without_room_for_any_record_is_refused() {
    let standin = StandIn::with(5);
    let mut descriptor = standin.device().open(None, Mode::Once).unwrap();
    let _ = descriptor.read(&mut Vec::new(), 951, MS);
}

#[test]
fn a_probe_finds_a_record_or_the_next_one_or_nothing() {
    let standin = StandIn::with(10);
    standin.world().log.retain(|r| r.index != 4 && r.index > 2);
    let mut clearer = standin.clearer();
    let three = clearer.probe(nz(3)).unwrap();
    assert!(matches!(three, Probe::Found(_)));
    assert_eq!(clearer.probe(nz(4)).unwrap(), Probe::Gone { next: 5 });
    assert_eq!(clearer.probe(nz(1)).unwrap(), Probe::Gone { next: 3 });
    assert_eq!(clearer.probe(nz(11)).unwrap(), Probe::Nothing);
    assert_eq!(clearer.oldest().unwrap(), Some(3));
    // given the same index with another record
    standin.world().crash(2);
    standin.world().append(1);
    let again = clearer.probe(nz(3)).unwrap();
    assert!(matches!(again, Probe::Found(_)) && again != three);
    assert_eq!(standin.world().open_files(), 0);
}

#[test]
fn a_probe_never_follows_so_it_ends_on_an_old_kernel_too() {
    let standin = StandIn::with(10);
    standin.world().boolean = true;
    assert_eq!(standin.clearer().probe(nz(11)).unwrap(), Probe::Nothing);
    assert!(standin.world().calls.iter().all(|call| !call.starts_with("ioctl")));
}

#[test]
fn a_probe_waits_for_an_mdt_that_is_away_but_not_for_ever() {
    let standin = StandIn::with(10);
    standin.world().down = true;
    let error = standin.clearer().probe(nz(5)).unwrap_err();
    assert!(error.to_string().contains("/dev/changelog-lustre-MDT0000"), "{error}");
    assert!(standin.world().now >= Duration::from_secs(60));
    assert_eq!(standin.world().open_files(), 0);
}

#[test]
fn a_scan_gives_every_record_of_its_range_and_no_other() {
    let standin = StandIn::with(5000);
    let mut seen = Vec::new();
    let mut clearer = standin.clearer();
    clearer.scan(nz(1200), 4321, &mut |index, digest| seen.push((index, digest))).unwrap();
    assert!(seen.iter().map(|s| s.0).eq(1200..=4321));
    let Probe::Found(digest) = clearer.probe(nz(4321)).unwrap() else { panic!() };
    assert_eq!(seen.last().unwrap().1, digest);
    clearer.scan(nz(10), 9, &mut |_, _| panic!("nothing is in this range")).unwrap();
}

#[test]
fn discovery_finds_what_appears_and_forgets_what_vanishes_of_the_file_system_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let touch = |name: &str| fs::write(dir.path().join(name), b"").unwrap();
    for name in
        ["changelog-lustre-MDT0001", "changelog-lustre-MDT0000", "changelog-other-MDT0000", "changelog-x", "null"]
    {
        touch(name);
    }
    let factory = |fsname: Option<&str>| {
        LustreFactory::in_dir(dir.path().into(), fsname.map(str::to_owned), PaceSettings::default())
    };
    let names =
        |fsname| -> Vec<String> { factory(fsname).discover().unwrap().iter().map(MdtName::to_string).collect() };
    assert_eq!(names(None), ["lustre-MDT0000", "lustre-MDT0001", "other-MDT0000"]);
    assert_eq!(names(Some("lustre")), ["lustre-MDT0000", "lustre-MDT0001"]);
    touch("changelog-lustre-MDT000a");
    fs::remove_file(dir.path().join("changelog-lustre-MDT0000")).unwrap();
    assert_eq!(names(Some("lustre")), ["lustre-MDT0001", "lustre-MDT000a"]);
    // One that vanished is an error of its own, and the others open.
    assert!(factory(None).open(&mdt(), "cl1").err().unwrap().is_vanished());
    assert!(factory(None).open(&"lustre-MDT0001".parse().unwrap(), "cl1").is_ok());
    let error = factory(None).open(&"lustre-MDT0001".parse().unwrap(), "robin").err().unwrap();
    assert!(error.to_string().contains("\"robin\" is not a changelog user"), "{error}");
    drop(dir);
}

#[test]
fn discovery_in_a_folder_that_is_not_there_names_it() {
    let factory = LustreFactory::in_dir("/nonexistent/dev".into(), None, PaceSettings::default());
    let error = factory.discover().unwrap_err().to_string();
    assert!(error.contains("/nonexistent/dev"), "{error}");
}

#[test]
fn the_kernels_own_calls_read_write_and_close() {
    // given a plain file where the device would be
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changelog-lustre-MDT0000");
    let bytes: Vec<u8> =
        (1..=100).flat_map(|index| encode(source_standin::Stored { index, version: 0 }, true)).collect();
    fs::write(&path, &bytes).unwrap();
    let mut device = LustreDevice::new(dir.path(), &mdt());
    // when it is read through the real system calls
    let mut buf = Vec::new();
    for mode in [Mode::Plain, Mode::Once] {
        buf.clear();
        let mut descriptor = device.open(None, mode).unwrap();
        while descriptor.read(&mut buf, 1000, MS).unwrap() == Answer::Records {}
        // then all bytes came and the file is closed
        assert_eq!(buf, bytes);
    }
    let mine = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to == path);
    assert!(!fs::read_dir("/proc/self/fd").unwrap().any(|entry| entry.is_ok_and(mine)));
    // and a clear writes what liblustreapi writes
    device.clear(&"cl4-robin".parse().unwrap(), nz(709)).unwrap();
    assert_eq!(&fs::read(&path).unwrap()[..14], b"clear:cl4:709\0");
}
