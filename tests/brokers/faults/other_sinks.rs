//! The faults that every sink has to bear, on those that are not Kafka: the same bodies, told which sink it is.

use clbridge_tests::sink::Sink;

use super::{broker, consumers, kills, mdt_crash, takeover, unanswered};

/// A module of tests for a sink; each test is a body in the room of its fault.
macro_rules! on {
    ($module:ident, $sink:expr; $($name:ident: $room:ident::$body:ident;)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$room::$body($sink);
                }
            )*
        }
    };
}

on! { nats, super::Sink::Nats;
    kills_of_the_bridge_lose_and_double_nothing: kills::the_bridge_killed_again_and_again;
    broker_killed_and_restarted_loses_and_doubles_nothing: broker::the_broker_killed_and_restarted;
    broker_stalled_under_load_bounds_memory: broker::the_broker_stalled;
    takeover_when_the_worker_is_killed_or_stopped: takeover::the_worker_killed_or_stopped;
    takeover_at_once_when_the_worker_ends: takeover::the_worker_ended;
    takeover_by_a_second_bridge_of_the_same_name: takeover::a_second_bridge_of_the_same_name;
    mdt_crash_while_it_is_read_is_told_apart: mdt_crash::a_crash_while_it_is_read;
    mdt_crash_with_everything_replayed_is_told_apart: mdt_crash::a_crash_with_everything_replayed;
    mdt_crash_while_the_bridge_is_down_is_told_apart: mdt_crash::a_crash_while_the_bridge_is_down;
    mdt_crash_and_the_bridge_killed_is_told_apart: mdt_crash::a_crash_and_the_bridge_killed_when_it_has_noticed;
    mdt_crash_twice_in_a_row_is_told_apart: mdt_crash::two_crashes_in_a_row;
    mdt_crash_of_what_was_acknowledged_clears_nothing_new: mdt_crash::a_crash_that_takes_back_what_was_acknowledged;
    mdt_crash_behind_a_stalled_broker_is_told_apart: mdt_crash::a_crash_hidden_behind_a_stalled_broker;
    mdt_crash_with_a_clear_in_flight_clears_nothing_early: mdt_crash::a_crash_with_a_clear_in_flight;
}

on! { amqp, super::Sink::Amqp;
    queue_purged_holds_until_the_group_begins_anew: unanswered::a_purged_queue;
    kills_of_the_bridge_lose_nothing_and_repeat_little: kills::the_bridge_killed_again_and_again;
    broker_killed_and_restarted_loses_nothing: broker::the_broker_killed_and_restarted;
    broker_stalled_under_load_bounds_memory: broker::the_broker_stalled;
    takeover_when_the_worker_is_killed_or_stopped: takeover::the_worker_killed_or_stopped;
    takeover_at_once_when_the_worker_ends: takeover::the_worker_ended;
    takeover_by_a_second_bridge_of_the_same_name: takeover::a_second_bridge_of_the_same_name;
    mdt_crash_while_it_is_read_is_told_apart: mdt_crash::a_crash_while_it_is_read;
    mdt_crash_with_everything_replayed_is_told_apart: mdt_crash::a_crash_with_everything_replayed;
    mdt_crash_while_the_bridge_is_down_is_told_apart: mdt_crash::a_crash_while_the_bridge_is_down;
    mdt_crash_and_the_bridge_killed_is_told_apart: mdt_crash::a_crash_and_the_bridge_killed_when_it_has_noticed;
    mdt_crash_twice_in_a_row_is_told_apart: mdt_crash::two_crashes_in_a_row;
    mdt_crash_of_what_was_acknowledged_clears_nothing_new: mdt_crash::a_crash_that_takes_back_what_was_acknowledged;
    mdt_crash_behind_a_stalled_broker_is_told_apart: mdt_crash::a_crash_hidden_behind_a_stalled_broker;
    mdt_crash_with_a_clear_in_flight_clears_nothing_early: mdt_crash::a_crash_with_a_clear_in_flight;
}

// Files have no broker that could be killed or stalled.
on! { files, super::Sink::Files;
    consume_killed_again_and_again_loses_nothing: consumers::members_killed_again_and_again;
    kills_of_the_bridge_lose_and_double_nothing: kills::the_bridge_killed_again_and_again;
    takeover_when_the_worker_is_killed_or_stopped: takeover::the_worker_killed_or_stopped;
    takeover_at_once_when_the_worker_ends: takeover::the_worker_ended;
    takeover_by_a_second_bridge_of_the_same_name: takeover::a_second_bridge_of_the_same_name;
    mdt_crash_while_it_is_read_is_told_apart: mdt_crash::a_crash_while_it_is_read;
    mdt_crash_with_everything_replayed_is_told_apart: mdt_crash::a_crash_with_everything_replayed;
    mdt_crash_while_the_bridge_is_down_is_told_apart: mdt_crash::a_crash_while_the_bridge_is_down;
    mdt_crash_and_the_bridge_killed_is_told_apart: mdt_crash::a_crash_and_the_bridge_killed_when_it_has_noticed;
    mdt_crash_twice_in_a_row_is_told_apart: mdt_crash::two_crashes_in_a_row;
    mdt_crash_of_what_was_acknowledged_clears_nothing_new: mdt_crash::a_crash_that_takes_back_what_was_acknowledged;
    mdt_crash_with_a_clear_in_flight_clears_nothing_early: mdt_crash::a_crash_with_a_clear_in_flight;
}
