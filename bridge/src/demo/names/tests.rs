#![allow(clippy::unwrap_used)]
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::demo::run_id;

const READS_BACK: Capabilities = Capabilities {
    atomic_state: true,
    read_back: true,
    exactly_once: true,
    partitioned: true,
    positions: clbridge_sinks::Positions::Offsets,
};

fn everywhere() -> [Names; 5] {
    let run = run_id();
    [
        Target::Mock("127.0.0.1:1".into()),
        Target::Kafka("127.0.0.1:1".into()),
        Target::Nats("nats://bridge:s3cret@127.0.0.1:2".into()),
        Target::Amqp("amqp://bridge:s3cret@127.0.0.1:3/%2f".into()),
        Target::Files("/tmp/somewhere".into()),
    ]
    .map(|target| Names::new(target, &run))
}

/// Everything of a sink's table that is a name, or that names begin with.
fn names_of(sink: &SinkConfig) -> Vec<String> {
    let kafka = sink.kafka.iter().flat_map(|k| [&k.topic_prefix, &k.state_prefix, &k.registry_topic, &k.schema_topic]);
    let nats = sink.nats.iter().flat_map(|n| [&n.prefix, &n.own_prefix]);
    let amqp = sink.amqp.iter().flat_map(|a| [&a.prefix, &a.own_prefix]);
    kafka.chain(nats).chain(amqp).cloned().collect()
}

#[test]
fn in_somebody_s_broker_every_name_begins_with_the_run_s_prefix() {
    for names in everywhere() {
        let shared = !matches!(names.target(), Target::Mock(_) | Target::Files(_));
        assert_eq!(shared, names.prefix().starts_with("clb-demo-"), "{}", names.place());
        let mut all = names_of(&names.sink());
        all.push(names.group("lake"));
        if let Target::Kafka(at) = names.target() {
            let mdt: MdtName = "demo-MDT0000".parse().unwrap();
            all.extend(names.kafka_topics(at, &[mdt]).into_iter().map(|(topic, _)| topic));
        }
        assert!(all.iter().all(|name| name.starts_with(names.prefix())), "{all:?}");
    }
}

#[test]
fn two_runs_share_no_name_and_none_begins_with_the_other_s_prefix() {
    let ids: Vec<String> = (0..3)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            run_id()
        })
        .collect();
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        assert_ne!(ids[a], ids[b]);
        let prefix = |run: &str| Names::new(Target::Nats("h".into()), run).prefix().to_owned();
        assert!(!prefix(&ids[a]).starts_with(&prefix(&ids[b])), "{ids:?}");
    }
}

#[test]
fn every_sink_accepts_the_names() {
    for names in everywhere() {
        let sink = names.sink();
        let checked = [
            sink.kafka.as_ref().map(KafkaConfig::check),
            sink.nats.as_ref().map(NatsConfig::check),
            sink.amqp.as_ref().map(AmqpConfig::check),
            sink.files.as_ref().map(FilesConfig::check),
        ];
        assert_eq!(checked.iter().flatten().count(), 1, "{}", names.place());
        checked.into_iter().flatten().for_each(|one| one.unwrap());
        // JetStream has the tightest rule for a group's name.
        assert!(names.group("robinhood").len() <= 64);
    }
}

#[test]
fn an_address_is_told_without_its_password() {
    let places = everywhere().map(|names| names.place());
    assert_eq!(
        places,
        ["127.0.0.1:1", "127.0.0.1:1", "nats://127.0.0.1:2", "127.0.0.1:3 vhost /", "/tmp/somewhere"]
            .map(str::to_owned)
    );
}

#[test]
fn host_and_port_alone_are_a_rabbitmq_as_it_is_installed() {
    let names = Names::new(Target::Amqp("rabbit:5672".into()), "1");
    assert_eq!(names.sink().amqp.unwrap().uri, "amqp://rabbit:5672/%2f");
    assert_eq!(names.place(), "rabbit:5672 vhost /");
}

#[test]
fn members_read_a_configuration_that_nobody_else_can() {
    for names in everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("members.toml");
        names.write_members(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let config = Config::load(&[file], []).unwrap();
        assert_eq!(names_of(&config.sink), names_of(&names.sink()));
    }
}

#[test]
fn groups_begin_at_the_oldest_record_where_there_is_one_to_read() {
    let names = &everywhere()[3];
    let from = |sink| names.bridge(&"127.0.0.1:9".parse().unwrap(), &["lake"], sink).groups[&names.group("lake")].from;
    assert_eq!(from(READS_BACK), StartAt::Oldest);
    assert_eq!(from(Capabilities { read_back: false, ..READS_BACK }), StartAt::Newest);
}
