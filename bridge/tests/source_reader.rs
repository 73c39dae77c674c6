//! The reader over the stand-in of the device: the end of a stream, following, errors, doubts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod source_standin;

use clbridge::source::{Source, SourceError};
use source_standin::{MS, SECOND, StandIn, Stored, nz, read, read_many};

#[test]
fn behind_the_end_the_reader_opens_again_and_goes_on_behind_the_last_record() {
    let mdt = StandIn::with(3000);
    let mut source = mdt.source();
    assert!(read_many(&mut source, 3000).into_iter().eq(1..=3000));
    for round in 0..20_u64 {
        mdt.world().append(5);
        let got = read_many(&mut source, 5);
        let first = 3001 + round * 5;
        assert!(got.into_iter().eq(first..first + 5));
    }
}

#[test]
fn a_reopening_that_finds_the_last_record_unchanged_raises_no_doubt_and_ends_the_silence() {
    let mdt = StandIn::with(10);
    let mut source = mdt.source();
    let (first, _) = read(&mut source, 1 << 20, SECOND);
    assert!(first.reopened, "nobody has seen what is before the first record");
    // Quiet for ten seconds, in which the reader looks again and again.
    for _ in 0..10 {
        let (nothing, _) = read(&mut source, 1 << 20, SECOND);
        assert_eq!((nothing.bytes, nothing.reopened), (0, false));
    }
    mdt.world().append(1);
    let (read, got) = read(&mut source, 1 << 20, SECOND);
    assert_eq!(got.len(), 1);
    assert!(!read.in_doubt(), "{read:?}");
}

#[test]
fn a_reopening_that_finds_another_record_under_the_last_index_is_in_doubt_until_records_came() {
    let mdt = StandIn::with(10);
    let mut source = mdt.source();
    read_many(&mut source, 10);
    mdt.world().crash(7);
    mdt.world().append(6);
    let (read, got) = read(&mut source, 1 << 20, SECOND);
    assert_eq!(got.iter().map(|r| r.index).collect::<Vec<_>>(), [11, 12, 13]);
    assert!(read.reopened);
}

#[test]
fn a_reopening_that_finds_nothing_is_in_doubt_and_stays_so_until_records_come() {
    let mdt = StandIn::with(10);
    let mut source = mdt.source();
    read_many(&mut source, 10);
    mdt.world().crash(7);
    let (nothing, _) = read(&mut source, 1 << 20, SECOND);
    assert_eq!((nothing.bytes, nothing.reopened), (0, true));
    mdt.world().append(4);
    let (read, got) = read(&mut source, 1 << 20, SECOND);
    assert_eq!((got, read.reopened), (vec![Stored { index: 11, version: 1 }], true));
}

#[test]
fn a_caller_that_stayed_away_gets_a_fresh_look_instead_of_what_was_prefetched() {
    // given a reader with 1024 records prefetched behind its first read
    let mdt = StandIn::with(5000);
    let mut source = mdt.source();
    let (_, got) = read(&mut source, 100 * 100, SECOND);
    let last = got.last().unwrap().index;
    // when the caller stalls while the MDT crashes and gives the indexes anew
    mdt.world().crash(last);
    mdt.world().append(500);
    mdt.world().advance(10 * SECOND);
    // then what comes is what stands now
    let (read, got) = read(&mut source, 1 << 20, SECOND);
    assert_eq!(got[0], Stored { index: last + 1, version: 1 });
    assert!(!read.in_doubt());
}

#[test]
fn what_the_caller_does_between_the_first_opening_and_the_first_read_does_not_make_openings_look_dear() {
    let mdt = StandIn::with(5);
    let mut source = mdt.source().begin().unwrap();
    mdt.world().advance(500 * MS);
    assert_eq!(read_many(&mut source, 5).len(), 5);
    for _ in 0..20 {
        read(&mut source, 1 << 20, SECOND);
    }
    assert_eq!(mdt.world().follows, 0);
}

#[test]
fn while_an_mdt_is_away_the_reader_waits_and_tells_how_long() {
    let mdt = StandIn::with(10);
    let mut source = mdt.source();
    read_many(&mut source, 10);
    mdt.world().down = true;
    for _ in 0..40 {
        assert_eq!(read(&mut source, 1 << 20, SECOND).0.bytes, 0);
    }
    assert!(read(&mut source, 1 << 20, SECOND).0.paused > 38 * SECOND);
    mdt.world().down = false;
    mdt.world().append(1);
    assert_eq!(read_many(&mut source, 1), [11]);
}

#[test]
fn following_is_chosen_when_a_reopening_is_dear_and_left_when_it_is_cheap_again() {
    // given a backlog that every new descriptor has to skip through: 0.1 ms for each of 5000 records
    let mdt = StandIn::with(5000);
    mdt.world().skip_cost = MS / 10;
    let mut source = mdt.source();
    read_many(&mut source, 5000);
    mdt.world().rate = 10;
    // when it is read for a minute
    let began = mdt.world().now;
    while mdt.world().now - began < 60 * SECOND {
        read(&mut source, 1 << 20, 100 * MS);
    }
    // then the time spent on openings keeps to its share, and the kernel was told to follow
    let (openings, follows, time) = {
        let world = mdt.world();
        (world.openings, world.follows, world.opening_time)
    };
    assert!(follows >= 1 && openings <= 8, "{openings} openings, {follows} to follow");
    assert!(time <= 60 * SECOND / 20, "{time:?} spent on opening");
    // and while the backlog is kept small, the quick way is found again
    let began = mdt.world().now;
    while mdt.world().now - began < 120 * SECOND {
        read(&mut source, 1 << 20, 100 * MS);
        let mut world = mdt.world();
        let newest = world.newest;
        world.log.retain(|r| r.index + 10 > newest);
    }
    let openings = mdt.world().openings;
    assert!(openings > 1000, "{openings} openings");
}

#[test]
fn a_cheap_stream_is_looked_at_every_few_milliseconds_and_every_record_comes_once() {
    let mdt = StandIn::with(1);
    mdt.world().rate = 500;
    let mut source = mdt.source();
    let (mut indexes, mut late) = (Vec::new(), 0);
    for _ in 0..2000 {
        let (_, got) = read(&mut source, 1 << 20, 5 * MS);
        // Five records are made each millisecond of simulated time.
        let newest = mdt.world().newest;
        late = late.max(got.first().map_or(0, |r| newest - r.index));
        indexes.extend(got.iter().map(|r| r.index));
    }
    assert!(indexes.len() > 10_000);
    assert!(indexes.iter().copied().eq(1..=indexes.len() as u64));
    assert!(late <= 50, "a record waited {late} fifths of a millisecond");
    let world = mdt.world();
    assert!(world.opening_time <= world.now / 19, "{:?} of {:?}", world.opening_time, world.now);
}

#[test]
fn a_quiet_mdt_is_looked_at_a_few_times_a_second_only() {
    let mdt = StandIn::with(10);
    let mut source = mdt.source();
    read_many(&mut source, 10);
    mdt.world().advance(10 * SECOND);
    read(&mut source, 1 << 20, 10 * SECOND);
    let (openings, polls) = {
        let world = mdt.world();
        (world.openings, world.polls)
    };
    for _ in 0..60 {
        read(&mut source, 1 << 20, SECOND);
    }
    let world = mdt.world();
    assert!(world.openings - openings <= 60 * 5 && world.polls - polls <= 60 * 10);
}

#[test]
fn an_eviction_is_cured_by_a_new_descriptor() {
    let mdt = StandIn::with(5000);
    let mut source = mdt.source();
    let (_, first) = read(&mut source, 100 * 100, SECOND);
    mdt.world().evict();
    let mut indexes: Vec<u64> = first.iter().map(|r| r.index).collect();
    indexes.extend(read_many(&mut source, 5000 - indexes.len()));
    assert!(indexes.into_iter().eq(1..=5000));
}

#[test]
fn an_error_that_new_descriptors_do_not_cure_names_the_device() {
    let mdt = StandIn::with(5);
    mdt.world().bad_openings = 1000;
    let mut source = mdt.source();
    let error = loop {
        match source.read(&mut Vec::new(), 1 << 20, SECOND) {
            Ok(read) => assert_eq!(read.bytes, 0),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("reading /dev/changelog-lustre-MDT0000"), "{error}");
    let world = mdt.world();
    assert!(world.now < 5 * SECOND && world.openings < 10);
}

#[test]
fn an_mdt_that_vanished_is_an_error_at_once_and_no_descriptor_stays_open() {
    let mdt = StandIn::with(5);
    let mut source = mdt.source();
    read_many(&mut source, 5);
    mdt.world().absent = true;
    let error = loop {
        match source.read(&mut Vec::new(), 1 << 20, SECOND) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.is_vanished(), "{error}");
    assert_eq!(mdt.world().open_files(), 0);
}

#[test]
fn passing_errors_are_retried_without_a_busy_loop() {
    let mdt = StandIn::with(5);
    mdt.world().eagain = 100;
    let mut source = mdt.source();
    assert_eq!(read_many(&mut source, 5).len(), 5);
    assert!(mdt.world().now >= 100 * MS);
}

#[test]
fn an_old_kernel_that_follows_unasked_is_read_without_the_ioctl_once_that_is_known() {
    let mdt = StandIn::with(5);
    mdt.world().boolean = true;
    let mut source = mdt.source();
    assert_eq!(read_many(&mut source, 5).len(), 5);
    for _ in 0..3 {
        read(&mut source, 1 << 20, SECOND);
    }
    mdt.world().calls.clear();
    mdt.world().append(1);
    assert_eq!(read_many(&mut source, 1), [6]);
    let world = mdt.world();
    assert!(!world.calls.is_empty() && world.calls.iter().all(|call| !call.starts_with("ioctl")));
}

#[test]
fn seeking_begins_at_the_index_forwards_and_backwards() {
    let mdt = StandIn::with(100);
    let mut source = mdt.source();
    for index in [50, 80, 20, 1, 100] {
        source.seek(nz(index)).unwrap();
        let (read, got) = read(&mut source, 1 << 20, SECOND);
        assert_eq!(got[0].index, index);
        assert!(read.reopened);
    }
    // A purged index: reading starts at the oldest record kept.
    mdt.world().log.retain(|r| r.index > 60);
    source.seek(nz(20)).unwrap();
    assert_eq!(read(&mut source, 1 << 20, SECOND).1[0].index, 61);
}

#[test]
fn an_index_that_does_not_rise_on_one_descriptor_is_an_error_that_names_both() {
    for (bad, last) in [(7, 10), (10, 10)] {
        let mdt = StandIn::with(10);
        mdt.world().log.push(Stored { index: bad, version: 0 });
        let mut source = mdt.source();
        let error = source.read(&mut Vec::new(), 1 << 20, SECOND).unwrap_err();
        let SourceError::OutOfOrder { last: a, got: b, .. } = &error else { panic!("{error}") };
        assert_eq!((*a, *b), (last, bad));
        assert!(error.to_string().contains(&format!("record {bad} came behind record {last}")), "{error}");
    }
}

#[test]
fn the_smallest_limit_still_brings_whole_records() {
    let mdt = StandIn::with(300);
    let mut source = mdt.source();
    let mut indexes = Vec::new();
    while indexes.len() < 300 {
        let (read, got) = read(&mut source, 0, SECOND);
        assert!(read.bytes <= 952);
        indexes.extend(got.iter().map(|r| r.index));
    }
    assert!(indexes.into_iter().eq(1..=300));
}

#[test]
fn dropping_a_reader_closes_its_descriptor() {
    let mdt = StandIn::with(5000);
    let mut source = mdt.source();
    read(&mut source, 100 * 100, SECOND);
    assert_eq!(mdt.world().open_files(), 1);
    drop(source);
    assert_eq!(mdt.world().open_files(), 0);
}
