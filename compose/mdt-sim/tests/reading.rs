//! Reading, sentence by sentence of LUSTRE.md §1 and of the captures' sections 4.1 to 4.6.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::*;
use mdt_sim::client::{Changelog, flags};
use mdt_sim::descriptor::{Descriptor, PREFETCH};

/// A descriptor without a connection, to see exactly what one `read` does.
fn descriptor(sim: &Sim, prefetch: u32) -> Descriptor {
    Descriptor::open(sim.mdt().clone(), flags::READ | flags::WRITE, prefetch).unwrap()
}

fn read(d: &mut Descriptor, bytes: usize) -> Vec<Seen> {
    let mut out = Vec::new();
    d.wait_ready(&mut |_| panic!("this read must not block")).unwrap();
    d.take(&mut out, bytes, 0);
    parse(&out)
}

#[test]
fn the_end_is_sticky_until_the_device_is_opened_again() {
    let sim = sim();
    sim.log("a", 3);
    let mut reader = sim.open();
    assert_eq!(indexes(&to_end(&mut reader)), [1, 2, 3]);
    // when records follow, then that descriptor never shows them
    sim.log("b", 2);
    assert_eq!(to_end(&mut reader), []);
    assert_eq!(to_end(&mut reader), []);
    // and a fresh one, or the same opened again at the next index, does
    reader.reopen(4).unwrap();
    assert_eq!(indexes(&to_end(&mut reader)), [4, 5]);
    assert_eq!(indexes(&to_end(&mut sim.open())), [1, 2, 3, 4, 5]);
}

#[test]
fn a_buffer_smaller_than_the_next_record_reads_nothing_and_loses_nothing() {
    let sim = sim();
    sim.log("name", 2);
    let mut reader = sim.open();
    for size in [1, 32, 64, 69] {
        assert_eq!(reader.read(&mut vec![0; size], PATIENCE).unwrap(), 0, "{size} bytes");
    }
    assert_eq!(indexes(&to_end(&mut reader)), [1, 2]);
    let mut device = descriptor(&sim, 0);
    assert_eq!(read(&mut device, 64), []);
    assert_eq!(indexes(&read(&mut device, 4096)), [1, 2]);
}

#[test]
fn records_are_whole_and_packed_whatever_the_size_of_the_buffer() {
    let sim = sim();
    sim.log("some-name", 5000);
    for size in [947, 1000, 4096, 65536, 4 << 20] {
        let mut reader = sim.open();
        let mut seen = Vec::new();
        let mut buf = vec![0; size];
        loop {
            let n = reader.read(&mut buf, PATIENCE).unwrap();
            if n == 0 {
                break;
            }
            seen.extend(parse(&buf[..n]));
        }
        assert_eq!(indexes(&seen), (1..=5000).collect::<Vec<_>>(), "{size} bytes");
    }
}

#[test]
fn an_offset_is_an_index_and_only_forward() {
    let sim = sim();
    sim.log("a", 30);
    let mut reader = sim.open();
    // before the first read
    assert_eq!(reader.seek(10).unwrap(), 10);
    assert_eq!(reader.seek(7).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    let mut buf = vec![0; 4096];
    let n = reader.read(&mut buf, PATIENCE).unwrap();
    let first = parse(&buf[..n]);
    assert_eq!(first[0].index, 10);
    let last = first.last().unwrap().index;
    // backwards after reading
    assert_eq!(reader.seek(last).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(reader.seek(0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    // beyond the newest: accepted, then nothing
    let mut beyond = sim.open();
    assert_eq!(beyond.seek(1030).unwrap(), 1030);
    assert_eq!(to_end(&mut beyond), []);
    // the device's own position is the index behind the last one delivered
    let mut device = descriptor(&sim, 0);
    assert_eq!(read(&mut device, 160).len(), 2);
    assert_eq!(device.tell(), 3);
    assert_eq!(device.seek(2).unwrap_err().0, libc::EINVAL);
    // over records that are prefetched already
    device.seek(28).unwrap();
    assert_eq!(indexes(&read(&mut device, 4096)), [28, 29, 30]);
}

#[test]
fn a_seek_to_a_purged_index_reads_from_the_oldest_record_kept() {
    let sim = sim();
    sim.log("a", 20);
    sim.writer().clear("clear:cl1:10").unwrap();
    let mut reader = sim.open();
    reader.seek(5).unwrap();
    assert_eq!(to_end(&mut reader)[0].index, 11);
}

#[test]
fn readers_are_independent_of_each_other_and_of_users() {
    let sim = sim();
    sim.log("a", 100);
    let (mut one, mut two) = (sim.open(), sim.open());
    let mut buf = vec![0; 800];
    let n = one.read(&mut buf, PATIENCE).unwrap();
    let begun = parse(&buf[..n]);
    let all_of_two = to_end(&mut two);
    let rest = to_end(&mut one);
    assert_eq!(begun.into_iter().chain(rest).collect::<Vec<_>>(), all_of_two);
}

#[test]
fn a_descriptor_delivers_what_it_has_prefetched_after_a_purge_and_no_more_than_1024_records() {
    let sim = sim();
    sim.log("a", 5000);
    let mut device = descriptor(&sim, 0);
    // given a reader that has read one record, so that the next 1024 are prefetched
    assert_eq!(read(&mut device, 80).len(), 1);
    // when everything is cleared
    sim.writer().clear("clear:cl1:5000").unwrap();
    // then it still gets those, and nothing after them
    assert_eq!(indexes(&read(&mut device, 4 << 20)), (2..=1 + u64::from(PREFETCH)).collect::<Vec<_>>());
    assert_eq!(read(&mut device, 4 << 20), []);
    // and a fresh one gets nothing
    assert_eq!(to_end(&mut sim.open()), []);
}

#[test]
fn the_client_reads_ahead_no_further_than_the_kernel_prefetches() {
    let sim = sim();
    sim.log("a", 5000);
    let mut reader = sim.open();
    let mut buf = vec![0; 80];
    let mut seen = 0;
    // given a reader that has read on until its client reads ahead as far as it ever does
    while seen < 600 {
        let n = reader.read(&mut buf, PATIENCE).unwrap();
        seen += parse(&buf[..n]).len() as u64;
    }
    // when everything is cleared, and all that was in flight has arrived
    sim.writer().clear("clear:cl1:5000").unwrap();
    let rest = to_end(&mut reader);
    // then it gets what was prefetched, and that is at most the kernel's number
    assert_eq!(rest[0].index, seen + 1);
    assert!(rest.len() as u64 <= u64::from(PREFETCH), "{} records", rest.len());
}

#[test]
fn follow_waits_for_new_records_and_looks_once_a_second() {
    let sim = sim();
    sim.log("a", 2);
    let mut device = Descriptor::open(sim.mdt().clone(), flags::READ | flags::FOLLOW, 0).unwrap();
    let mut out = Vec::new();
    device.wait_ready(&mut |_| panic!("there are records")).unwrap();
    device.take(&mut out, 4096, 0);
    assert_eq!(indexes(&parse(&out)), [1, 2]);
    // when the end is reached, it sleeps to the full second since its last look, also if records come meanwhile
    sim.log("b", 1);
    let mut waits = Vec::new();
    device
        .wait_ready(&mut |wait| {
            waits.push(wait);
            std::thread::sleep(wait);
            true
        })
        .unwrap();
    assert_eq!(waits.len(), 1);
    assert!(waits[0] <= Duration::from_secs(1) && !waits[0].is_zero());
    out.clear();
    device.take(&mut out, 4096, 0);
    assert_eq!(indexes(&parse(&out)), [3]);
    // and over the socket: nothing within the caller's patience is no end
    let mut reader = Changelog::open(sim.addr(), MDT, flags::READ | flags::FOLLOW).unwrap();
    let mut buf = vec![0; 4096];
    assert!(reader.read(&mut buf, PATIENCE).unwrap() > 0);
    let nothing = reader.read(&mut buf, Duration::from_millis(30)).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::TimedOut);
    sim.log("c", 1);
    let n = reader.read(&mut buf, PATIENCE).unwrap();
    assert_eq!(indexes(&parse(&buf[..n])), [4]);
}

#[test]
fn a_descriptor_reads_or_writes_only_as_it_was_opened() {
    let sim = sim();
    assert_eq!(errno(sim.open().clear("clear:cl1:0")), Some(libc::EBADF));
    assert_eq!(errno(sim.writer().read(&mut [0; 1000], PATIENCE)), Some(libc::EBADF));
    let unknown = Changelog::open(sim.addr(), "lustre-MDT0042", flags::READ);
    assert_eq!(unknown.unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(Changelog::list(sim.addr()).unwrap(), [MDT, SECOND]);
}

#[test]
fn a_seek_deep_into_an_uncleared_log_costs_what_was_set_once_per_open() {
    let sim = sim();
    sim.log("a", 3000);
    sim.mdt().set_seek_cost(Duration::from_micros(1));
    let mut device = descriptor(&sim, 0);
    device.seek(2900).unwrap();
    let mut waited = Duration::ZERO;
    device
        .wait_ready(&mut |wait| {
            waited += wait;
            true
        })
        .unwrap();
    // then it is paid for the records skipped (counted by blocks of some hundred)
    assert!(waited >= Duration::from_micros(2000) && waited <= Duration::from_micros(2900), "{waited:?}");
    assert_eq!(read(&mut device, 4096)[0].index, 2900);
    // and not by a reader that begins at the oldest record
    assert_eq!(read(&mut descriptor(&sim, 0), 100)[0].index, 1);
}

#[test]
fn records_behind_the_window_in_memory_come_from_the_journal_unchanged() {
    let sim = sim_with(|c| c.window = 100_000);
    sim.log("a-rather-long-name-to-fill-blocks", 20_000);
    assert!(sim.mdt().stats().resident_bytes < 300_000);
    let seen = to_end(&mut sim.open());
    assert_eq!(seen.len(), 20_000);
    assert!(seen.iter().zip(1..).all(|(s, n)| s.index == n && s.name.ends_with(&format!("-{}", n - 1))));
}
