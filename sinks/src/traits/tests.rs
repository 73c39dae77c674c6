//! The documentation tells of each sink what the sink itself declares.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::amqp::{AmqpConfig, AmqpSink};
use crate::files::{FilesConfig, FilesSink};
use crate::kafka::{Delivery, KafkaConfig, KafkaSink};
use crate::nats::{NatsConfig, NatsSink};

/// Every sink in every mode, as the documentation calls it.
fn declared() -> [(&'static str, Capabilities); 5] {
    let idempotent = KafkaConfig { delivery: Delivery::Idempotent, ..KafkaConfig::default() };
    [
        ("Kafka, transactional", KafkaSink::new(KafkaConfig::default()).unwrap().capabilities()),
        ("Kafka, idempotent", KafkaSink::new(idempotent).unwrap().capabilities()),
        ("NATS JetStream", NatsSink::new(NatsConfig::default()).unwrap().capabilities()),
        ("RabbitMQ", AmqpSink::new(AmqpConfig::default()).unwrap().capabilities()),
        ("Files", FilesSink::new(FilesConfig::default()).unwrap().capabilities()),
    ]
}

/// A row of the table. Nothing is left out: a capability more does not compile here.
fn row(sink: &str, capabilities: Capabilities) -> String {
    let Capabilities { atomic_state, read_back, exactly_once, partitioned, positions } = capabilities;
    let yes = |yes| if yes { "yes" } else { "no" };
    let positions = match positions {
        Positions::Offsets => "an offset in each partition",
        Positions::Sequence => "one sequence over all partitions",
        Positions::Identity => "the record's incarnation and index",
    };
    let cells = [sink, yes(atomic_state), yes(read_back), yes(exactly_once), yes(partitioned), positions];
    format!("| {} |", cells.join(" | "))
}

#[test]
fn the_table_of_what_differs_by_sink_says_what_the_sinks_declare() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/delivery/guarantees.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("What differs by sink\n")).unwrap();
    let table: Vec<&str> = section.lines().filter(|line| line.starts_with('|')).collect();
    let rows: Vec<String> = declared().into_iter().map(|(sink, capabilities)| row(sink, capabilities)).collect();
    assert_eq!(table[2..], rows, "docs/delivery/guarantees.md: correct the table, then `tests/lib/campaign page`");
}
