//! Kafka over TLS with SCRAM: the whole way of a record, and what is said when the door stays shut.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::OnceLock;

use clbridge_sinks::kafka::{KafkaConfig, KafkaSink};
use clbridge_sinks::{Broker as _, Subscription};
use clbridge_sinks::{GroupObserver, Sink, SinkError, StartAt};

use crate::ground::variable;
use crate::ground::{Mdt, On, counts, new_group, new_mdt, spec, take};

/// A variable of a broker with TLS and SCRAM: the one that was given, else one of our own beside it, which `tests/up run`
/// takes down with all that lies below its folder.
fn secured(name: &str) -> String {
    static OWN: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    if let Ok(value) = std::env::var(name) {
        return value;
    }
    let own = OWN.get_or_init(|| {
        let dir = format!("{}/kafka-secured", variable("CLB_RUN_DIR"));
        let started = Command::new(variable("CLB_UP")).args(["kafka", "start", &dir, "--sasl-tls"]).output().unwrap();
        let said = String::from_utf8_lossy(&started.stdout).into_owned();
        assert!(started.status.success(), "{said}{}", String::from_utf8_lossy(&started.stderr));
        said.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    });
    own[name].clone()
}

fn config(changed: &[(&str, &str)]) -> KafkaConfig {
    let mut librdkafka = BTreeMap::from([
        ("security.protocol".to_owned(), "SASL_SSL".to_owned()),
        ("sasl.mechanism".to_owned(), "SCRAM-SHA-512".to_owned()),
        ("ssl.ca.location".to_owned(), secured("KAFKA_CA")),
        ("sasl.username".to_owned(), secured("KAFKA_USER")),
        ("sasl.password".to_owned(), secured("KAFKA_PASSWORD")),
    ]);
    librdkafka.extend(changed.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    KafkaConfig {
        bootstrap_servers: secured("KAFKA_SASL_SSL"),
        request_timeout_ms: 10_000,
        librdkafka,
        ..KafkaConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn over_tls_and_scram_a_record_goes_the_whole_way() {
    let _turn = On::Kafka.shared().await;
    // given a password in a file
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", secured("KAFKA_PASSWORD"))).unwrap();
    let mut config = config(&[("sasl.password_file", file.path().to_str().unwrap())]);
    config.librdkafka.remove("sasl.password");
    let sink = KafkaSink::new(config).unwrap();
    // when records are published, observed, consumed and acknowledged
    let name = new_mdt();
    let topics = sink.prepare(&[spec(&name, None)], None).await.unwrap();
    let recovered = sink.recover(&name, &topics).await.unwrap();
    let state = clbridge_sinks::State::first(name.clone(), "secure".to_owned());
    let mut mdt = Mdt { name, sink: Box::new(sink.clone()), topics, publisher: recovered.publisher, state };
    let group = new_group("secure");
    sink.register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
    mdt.write(1..=100);
    let what = Subscription { mdts: mdt.only(), feed: None };
    let mut member = sink.consumer(&group, &what).unwrap();
    let all = take(&mut *member, true, |all| counts(all).len() >= 100).await;
    // then all of it has happened
    assert_eq!(counts(&all).len(), 100);
    let progress = sink.progress(std::slice::from_ref(&group), &mdt.topics).await.unwrap();
    assert!(progress.topics[&mdt.topic().name].groups[&group].iter().all(|p| p.is_some_and(|p| p > 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wrong_password_or_authority_never_looks_like_an_empty_broker() {
    let _turn = On::Kafka.shared().await;
    let wrong_ca = secured("KAFKA_WRONG_CA");
    for changed in [[("sasl.password", "wrong")], [("ssl.ca.location", wrong_ca.as_str())]] {
        let sink = KafkaSink::new(config(&changed)).unwrap();
        let answer = sink.peek_state(&new_mdt()).await;
        assert!(matches!(answer, Err(SinkError::Unauthorised { .. } | SinkError::Unavailable { .. })), "{answer:?}");
        assert!(sink.registry().await.is_err());
    }
}
