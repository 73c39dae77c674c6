//! A schedule: the list of what happens in a run, drawn from its seed. Each step carries its own chance, so that the
//! rest still means the same when steps are left out.

use crate::draw::Draw;

/// Steps of a run, before everything has to come to rest.
pub const STEPS: usize = 600;

macro_rules! faults {
    ($($weight:literal $name:ident = $text:literal,)*) => {
        /// What goes wrong.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Fault { $($name,)* }

        impl Fault {
            /// Every one of them with how often it is drawn, in thousandths or so.
            pub const ALL: &[(Self, u64)] = &[$((Self::$name, $weight),)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

faults! {
    120 BridgeKilled = "bridge_killed",
    20 BridgeStopped = "bridge_stopped",
    40 BridgeStalled = "bridge_stalled",
    80 MdtCrash = "mdt_crash",
    30 MdtCrashTwice = "mdt_crash_twice",
    40 KilledAtCrash = "bridge_killed_at_crash",
    30 CrashWhileDown = "mdt_crash_while_down",
    15 Purge = "mdt_purge",
    1 ChangelogReset = "changelog_reset",
    40 ClearDelayed = "clear_delayed",
    20 MdtBusy = "mdt_busy",
    20 UserUnknown = "user_unknown",
    50 Stall = "stall",
    40 BrokerStalled = "broker_stalled",
    40 Disconnected = "disconnected",
    40 CommitRefused = "commit_refused",
    50 ConfirmationLost = "confirmation_lost",
    40 ConfirmationLate = "confirmation_late",
    30 StateUnreadable = "state_unreadable_for_a_while",
    1 StateLost = "state_lost",
    1 ForeignRecord = "foreign_record",
    1 TopicRecreated = "topic_recreated",
    40 RegistryUnreadable = "registry_unreadable_for_a_while",
    40 PositionsUnreadable = "positions_unreadable_for_a_while",
    60 PositionVanished = "position_vanished",
    60 PositionBack = "position_back",
    60 PositionBeyond = "position_beyond",
    40 RecordsDeleted = "records_deleted",
    60 MemberDied = "member_died",
    60 GroupLate = "group_late",
    8 GroupRemoved = "group_removed",
    60 Accept = "accept",
    60 Repair = "repair",
}

/// What happens in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Emit,
    Read,
    Seal,
    Broker,
    Reply,
    Work,
    Observe,
    Probe,
    Clear,
    Trim,
    /// What a dead connection had still on its way arrives, or not.
    Adrift,
    /// A bridge that slept while another took over goes on.
    Zombie,
    Fault(Fault),
}

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Its place in the whole schedule.
    pub number: usize,
    pub op: Op,
    /// Its own chance.
    pub salt: u64,
}

/// The whole schedule of a seed.
pub fn of(seed: u64) -> Vec<Step> {
    let mut draw = Draw::new(seed ^ 0x5EED);
    (0..STEPS).map(|number| Step { number, op: op(&mut draw), salt: draw.number() }).collect()
}

fn op(draw: &mut Draw) -> Op {
    match draw.below(100) {
        0..15 => Op::Emit,
        15..35 => Op::Read,
        35..44 => Op::Seal,
        44..55 => Op::Broker,
        55..65 => Op::Reply,
        65..77 => Op::Work,
        77..86 => Op::Observe,
        86..89 => Op::Probe,
        89..92 => Op::Clear,
        92 => Op::Trim,
        93 => Op::Adrift,
        94..96 => Op::Zombie,
        _ => Op::Fault(fault(draw)),
    }
}

fn fault(draw: &mut Draw) -> Fault {
    let total: u64 = Fault::ALL.iter().map(|(_, weight)| weight).sum();
    let mut at = draw.range(0, total);
    for (fault, weight) in Fault::ALL {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return *fault,
        }
    }
    Fault::Stall
}

/// The numbers of steps as they are typed: `3,17,20-25`.
pub fn numbers(steps: &[Step]) -> String {
    let mut out = String::new();
    let mut at = 0;
    while let Some(first) = steps.get(at) {
        let mut to = at;
        while steps.get(to + 1).is_some_and(|s| s.number == steps[to].number + 1) {
            to += 1;
        }
        let comma = if out.is_empty() { "" } else { "," };
        out += &match to - at {
            0 => format!("{comma}{}", first.number),
            _ => format!("{comma}{}-{}", first.number, steps[to].number),
        };
        at = to + 1;
    }
    out
}

/// Only the steps with these numbers.
pub fn keep(steps: &[Step], numbers: &str) -> Option<Vec<Step>> {
    let mut ranges = Vec::new();
    for part in numbers.split(',').filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        ranges.push(from.parse::<usize>().ok()?..=to.parse::<usize>().ok()?);
    }
    Some(steps.iter().filter(|s| ranges.iter().any(|r| r.contains(&s.number))).copied().collect())
}
