//! The contract of `sinks::traits`, sentence by sentence, against real brokers.
//!
//! Written once over the traits and `Capabilities`; a broker joins by a `Ground` of its own and one line below. No
//! sentence asks for a broker by name, none asserts a time. Run it through `tests/up run -- cargo test
//! --release -p clbridge-sinks --test sink_contract`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "amqp")]
#[path = "sink_contract/amqp.rs"]
mod amqp;
#[cfg(feature = "amqp")]
#[path = "sink_contract/amqp_drained.rs"]
mod amqp_drained;
#[cfg(feature = "amqp")]
#[path = "sink_contract/amqp_faults.rs"]
mod amqp_faults;
#[cfg(feature = "amqp")]
#[path = "sink_contract/amqp_own.rs"]
mod amqp_own;
#[cfg(feature = "amqp")]
#[path = "sink_contract/amqp_scene.rs"]
mod amqp_scene;
#[path = "sink_contract/consuming.rs"]
mod consuming;
#[path = "sink_contract/erasing.rs"]
mod erasing;
#[path = "sink_contract/faults.rs"]
mod faults;
#[path = "sink_contract/fencing.rs"]
mod fencing;
#[cfg(feature = "files")]
#[path = "sink_contract/files.rs"]
mod files;
#[cfg(feature = "files")]
#[path = "sink_contract/files_own.rs"]
mod files_own;
#[path = "sink_contract/ground.rs"]
mod ground;
#[path = "sink_contract/groups.rs"]
mod groups;
#[cfg(feature = "kafka")]
#[path = "sink_contract/kafka.rs"]
mod kafka;
#[cfg(feature = "kafka")]
#[path = "sink_contract/kafka_own.rs"]
mod kafka_own;
#[cfg(feature = "kafka")]
#[path = "sink_contract/kafka_security.rs"]
mod kafka_security;
#[cfg(feature = "nats")]
#[path = "sink_contract/nats.rs"]
mod nats;
#[cfg(feature = "nats")]
#[path = "sink_contract/nats_access.rs"]
mod nats_access;
#[cfg(feature = "nats")]
#[path = "sink_contract/nats_cluster.rs"]
mod nats_cluster;
#[cfg(feature = "nats")]
#[path = "sink_contract/nats_floor.rs"]
mod nats_floor;
#[cfg(feature = "nats")]
#[path = "sink_contract/nats_groups.rs"]
mod nats_groups;
#[cfg(feature = "nats")]
#[path = "sink_contract/nats_own.rs"]
mod nats_own;
#[path = "sink_contract/publishing.rs"]
mod publishing;
#[path = "sink_contract/topics.rs"]
mod topics;

/// Every sentence as a test of one broker. Sentences that disturb the broker itself have it alone.
macro_rules! contract {
    ($broker:ident, $on:ident, $make:expr) => {
        mod $broker {
            contract!(@each $on, $make, shared: publishing {
                what_is_published_and_sealed_is_durable_in_order,
                every_durable_place_holds_the_record_that_was_reported_there,
                a_seal_without_messages_makes_dropped_records_count,
                state_becomes_durable_with_its_batch_or_not_at_all,
                what_was_never_sealed_is_not_reported_durable_and_not_counted_after_a_crash,
                tails_and_reads_at_positions_are_right_across_holes,
                where_nothing_can_be_read_back_a_start_finds_what_state_told_and_positions_tell_identities,
                reading_back_shows_every_record_above_the_asked_one,
                a_feed_has_a_topic_of_its_own,
                a_retraction_says_what_is_void_in_every_schema_version,
                a_start_finds_a_retraction_at_the_end_for_what_it_is,
            });
            contract!(@each $on, $make, shared: fencing {
                the_second_recover_fences_the_first_for_good,
                looking_at_state_fences_nobody,
            });
            contract!(@each $on, $make, shared: groups {
                a_group_that_committed_nothing_has_no_position,
                only_what_was_committed_is_progress,
                a_group_without_members_is_registered_at_the_newest_or_the_oldest_record,
                a_running_group_is_registered_in_a_new_topic_before_its_first_record,
                a_running_group_is_not_moved_in_a_topic_that_holds_records,
                what_a_group_has_already_is_left_as_it_is,
                a_topic_that_is_gone_is_missing_in_progress,
                changes_of_the_registry_by_two_writers_at_once_are_both_kept,
                groups_are_listed_with_their_members,
            });
            contract!(@each $on, $make, shared: consuming {
                what_was_not_done_is_delivered_again,
                a_batch_that_is_done_late_never_moves_a_position_back,
                a_member_notices_the_topic_of_a_new_mdt,
                a_member_without_a_position_is_told_what_to_do,
                a_member_whose_records_were_evicted_is_told_what_to_do,
                an_ephemeral_reader_sees_what_comes_and_leaves_nothing_behind,
                a_repair_reaches_its_group,
            });
            contract!(@each $on, $make, shared: topics {
                preparing_again_finds_the_same_topics,
                a_topic_that_was_recreated_is_refused,
                partitions_that_others_added_are_left_alone_where_state_pins_the_number,
                a_topic_whose_retention_was_changed_is_refused,
                trimming_keeps_the_last_record_and_never_passes_its_limit,
                trimming_keeps_what_is_young,
                a_schema_is_found_by_its_fingerprint,
            });
            contract!(@each $on, $make, alone: faults {
                full_buffers_refuse_and_lose_nothing_while_the_broker_is_stalled,
                what_was_durable_before_the_broker_was_killed_is_there_afterwards,
                readers_go_on_by_themselves_when_the_broker_was_killed_and_restarted,
            });
        }
    };
    (@each $on:ident, $make:expr, $lock:ident: $room:ident { $($name:ident),* $(,)? }) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                let _turn = crate::ground::On::$on.$lock().await;
                crate::$room::$name(&$make).await;
                crate::ground::passed(concat!(module_path!(), "::", stringify!($name)));
            }
        )*
    };
}

#[cfg(feature = "kafka")]
contract!(kafka_transactional, Kafka, crate::kafka::Kafka::new(clbridge_sinks::kafka::Delivery::Transactional));
#[cfg(feature = "kafka")]
contract!(kafka_idempotent, Kafka, crate::kafka::Kafka::new(clbridge_sinks::kafka::Delivery::Idempotent));
#[cfg(feature = "nats")]
contract!(nats_jetstream, Nats, crate::nats::Nats::new());
#[cfg(feature = "amqp")]
contract!(amqp_contract, Amqp, crate::amqp::Amqp::new());
#[cfg(feature = "files")]
contract!(files_embedded, Files, crate::files::Files::new(clbridge_sinks::files::Codec::Deflate));
#[cfg(feature = "files")]
contract!(files_embedded_zstd, Files, crate::files::Files::new(clbridge_sinks::files::Codec::Zstd));
