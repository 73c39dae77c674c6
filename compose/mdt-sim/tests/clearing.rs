//! Clearing and users: LUSTRE.md §1 and the captures' sections 4.5 and 4.7, on the server of today.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::*;
use mdt_sim::generation::Generation;
use mdt_sim::mask;
use mdt_sim::users::{GcLimits, UsersForm};

fn index_of(sim: &Sim, user: u32) -> u64 {
    sim.mdt().users().iter().find(|u| u.id == user).unwrap().index
}

#[test]
fn a_clear_answers_as_in_the_table_of_the_captures() {
    let sim = sim();
    sim.log("a", 700);
    let mut w = sim.writer();
    let ok = |text: &str| Ok::<usize, i32>(text.len());
    let mut write = |text: &str| w.clear(text).map_err(|e| e.raw_os_error().unwrap());
    assert_eq!(write("clear:cl1:678"), ok("clear:cl1:678"));
    assert_eq!(write("clear:cl1:678"), ok("clear:cl1:678"), "the same again");
    assert_eq!(write("clear:cl1:674"), Err(libc::ENOENT), "backwards");
    assert_eq!(write("clear:cl1:100699"), Err(libc::EINVAL), "beyond the newest index");
    for unknown in ["clear:cl99:5", "clear:cl99:0", "clear:cl0:5"] {
        assert_eq!(write(unknown), Err(libc::ENOENT), "{unknown}");
    }
    let long = format!("clear:cl1:680{}", " ".repeat(60));
    for bad in
        ["clear:foo:5", "clear:cl1:", "clear:cl1", "bogus", "", "CLEAR:cl1:5", "clear:cl1:-1", "clear:cl1-x:680", &long]
    {
        assert_eq!(write(bad), Err(libc::EINVAL), "{bad:?}");
    }
    assert_eq!(index_of(&sim, 1), 678);
    assert_eq!(write("clear:cl1:679\n"), Ok(14));
    assert_eq!(write("clear:cl1:679\0"), Ok(14));
    assert_eq!(write("clear:cl1:680xyz"), Ok(16));
    assert_eq!(index_of(&sim, 1), 680);
    // parsed as 0, which clears everything
    assert_eq!(write("clear:cl1:0x10"), Ok(14));
    assert_eq!(index_of(&sim, 1), 700);
    sim.log("b", 3);
    assert_eq!(write("clear:cl1:0"), Ok(11));
    assert_eq!(index_of(&sim, 1), 703);
    assert_eq!(to_end(&mut sim.open()), []);
}

#[test]
fn an_older_server_refuses_a_backward_clear_with_einval() {
    let sim = sim_with(|c| c.generation = Generation::L2_11);
    sim.log("a", 10);
    let mut w = sim.writer();
    w.clear("clear:cl1:8").unwrap();
    assert_eq!(errno(w.clear("clear:cl1:7")), Some(libc::EINVAL));
}

#[test]
fn records_stay_until_every_user_has_cleared_them() {
    let sim = sim();
    assert_eq!(sim.mdt().register(None, None).unwrap().unwrap(), "cl2");
    sim.log("a", 10);
    let mut w = sim.writer();
    w.clear("clear:cl1:10").unwrap();
    assert_eq!(to_end(&mut sim.open()).len(), 10);
    w.clear("clear:cl2:4").unwrap();
    assert_eq!(indexes(&to_end(&mut sim.open())), (5..=10).collect::<Vec<_>>());
    // deregistering the one that holds lets go of what only it needed
    sim.mdt().deregister("cl2", false).unwrap().unwrap();
    assert_eq!(to_end(&mut sim.open()), []);
    assert_eq!(errno(w.clear("clear:cl2:10")), Some(libc::ENOENT));
}

#[test]
fn the_last_user_takes_all_records_along_and_its_number_is_not_used_again() {
    let sim = sim();
    sim.log("a", 5);
    sim.mdt().deregister("cl1", false).unwrap().unwrap();
    assert_eq!(to_end(&mut sim.open()), []);
    // without users nothing is logged
    sim.log("b", 3);
    assert_eq!(sim.mdt().stats().last_index, 5);
    // but with a mask set by hand
    sim.mdt().set_mask(mask::ALL, false);
    sim.log("c", 1);
    assert_eq!(indexes(&to_end(&mut sim.open())), [6]);
    assert_eq!(sim.mdt().register(None, None).unwrap().unwrap(), "cl2");
    assert_eq!(index_of(&sim, 2), 6);
}

#[test]
fn names_are_unique_and_a_clear_takes_the_number_only() {
    let sim = sim();
    let mdt = sim.mdt();
    assert_eq!(
        mdt.register(Some("robin"), Some(mask::parse("MARK,CREAT,UNLNK").unwrap())).unwrap().unwrap(),
        "cl2-robin"
    );
    assert_eq!(mdt.register(Some("robin"), None).unwrap().unwrap_err().0, libc::EEXIST);
    assert_eq!(mdt.register(Some("no/name"), None).unwrap().unwrap_err().0, libc::EINVAL);
    sim.log("a", 2);
    let mut w = sim.writer();
    assert_eq!(errno(w.clear("clear:cl2-robin:1")), Some(libc::EINVAL));
    w.clear("clear:cl2:1").unwrap();
    mdt.deregister("cl2-robin", false).unwrap().unwrap();
    assert_eq!(mdt.deregister("cl2-robin", false).unwrap().unwrap_err().0, libc::ENOENT);
}

#[test]
fn changelog_users_has_the_text_of_each_generation() {
    let sim = sim();
    sim.mdt().register(Some("watcher"), Some(mask::parse("MARK,CREAT").unwrap())).unwrap().unwrap();
    sim.log("a", 34);
    sim.writer().clear("clear:cl1:12").unwrap();
    sim.mdt().age_users(Duration::from_secs(45));
    let text = |form| sim.mdt().users_text(Some(form));
    assert_eq!(text(UsersForm::V2_10), "current index: 34\nID    index\ncl1   12\ncl2   0\n");
    assert_eq!(text(UsersForm::V2_12), "current index: 34\nID    index (idle seconds)\ncl1   12 (45)\ncl2   0 (45)\n");
    let today = "\
current_index: 34
ID                            index (idle) mask
cl1                              12 (45)
cl2-watcher                       0 (45) mask=MARK,CREAT
";
    assert_eq!(text(UsersForm::V2_15), today);
    assert_eq!(sim.control().users(MDT).unwrap(), today);
}

#[test]
fn a_clear_refreshes_the_idle_time_also_when_it_repeats_the_last_value() {
    let sim = sim();
    sim.log("a", 5);
    let mut w = sim.writer();
    w.clear("clear:cl1:5").unwrap();
    sim.mdt().age_users(Duration::from_secs(1000));
    assert!(sim.mdt().users_text(None).contains("(1000)"));
    w.clear("clear:cl1:5").unwrap();
    assert!(!sim.mdt().users_text(None).contains("(1000)"));
}

#[test]
fn a_user_that_is_idle_for_too_long_is_removed_unread_records_and_all() {
    let sim = sim();
    sim.mdt().register(Some("idle"), None).unwrap().unwrap();
    sim.mdt().set_gc(GcLimits { min_interval_s: 0, ..GcLimits::default() });
    sim.log("a", 100);
    let mut w = sim.writer();
    w.clear("clear:cl2:90").unwrap();
    // given a month without a clear of cl1
    sim.mdt().age_users(Duration::from_secs(2_592_000));
    w.clear("clear:cl2:95").unwrap();
    sim.mdt().age_users(Duration::from_secs(10));
    // when the next record comes
    sim.log("b", 1);
    // then cl1 is gone, its unread records too, and it hears of it at its next clear
    assert_eq!(errno(w.clear("clear:cl1:1")), Some(libc::ENOENT));
    assert_eq!(indexes(&to_end(&mut sim.open())), (96..=101).collect::<Vec<_>>());
    // too many unread records do the same
    sim.mdt().set_gc(GcLimits { min_interval_s: 0, max_idle_indexes: 50, ..GcLimits::default() });
    sim.log("c", 60);
    assert_eq!(errno(w.clear("clear:cl2:101")), Some(libc::ENOENT));
    assert_eq!(to_end(&mut sim.open()), []);
}

#[test]
fn the_effective_mask_is_the_union_and_a_restart_loses_part_of_it() {
    let sim = sim();
    let mdt = sim.mdt();
    assert_eq!(mdt.stats().mask, mask::names(mask::DEFAULT, " "));
    // OPEN is not in the default
    mdt.emit(&record(10, "", 1), mdt_sim::mdt::Stamp::Now).unwrap();
    assert_eq!(mdt.stats().last_index, 0);
    mdt.register(Some("robin"), Some(mask::parse("CREAT,UNLNK").unwrap())).unwrap().unwrap();
    assert_eq!(mdt.stats().mask, mask::names(mask::DEFAULT, " "));
    mdt.restart(Duration::ZERO, false).unwrap();
    assert_eq!(mdt.stats().mask, "MARK CREAT UNLNK");
    mdt.deregister("robin", false).unwrap().unwrap();
    assert_eq!(mdt.stats().mask, mask::names(mask::DEFAULT, " "));
    // the administrator's mask comes back only if it was kept
    mdt.set_mask(mask::ALL, false);
    mdt.restart(Duration::ZERO, false).unwrap();
    assert_eq!(mdt.stats().mask, mask::names(mask::DEFAULT, " "));
    mdt.set_mask(mask::ALL, true);
    mdt.restart(Duration::ZERO, false).unwrap();
    assert_eq!(mdt.stats().mask, mask::names(mask::ALL, " "));
}
