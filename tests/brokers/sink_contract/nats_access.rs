//! The doors of a NATS server: TLS, user and password, NKey, credentials file; what is said when they stay shut; and how
//! little a member of a group needs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::{self, consumer::PullConsumer};
use clbridge_sinks::nats::NatsSink;
use clbridge_sinks::{Broker as _, GroupObserver as _, Sink as _, SinkError, StartAt, State, Subscription};
use futures_util::StreamExt;

use crate::ground::{Mdt, On, counts, new_group, new_mdt, spec, take};
use crate::nats_own::{sink, start};

/// An MDT over this sink.
async fn mdt_over(sink: &NatsSink) -> Mdt {
    let name = new_mdt();
    let topics = sink.prepare(&[spec(&name, None)], None).await.unwrap();
    let recovered = sink.recover(&name, &topics).await.unwrap();
    let state = State::first(name.clone(), "access".to_owned());
    Mdt { name, sink: Box::new(sink.clone()), topics, publisher: recovered.publisher, state }
}

/// Records are published, observed, consumed and acknowledged.
async fn the_whole_way(sink: NatsSink) {
    let mut mdt = mdt_over(&sink).await;
    let group = new_group("access");
    sink.register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
    mdt.write(1..=100);
    let mut member = sink.consumer(&group, &Subscription { mdts: mdt.only(), feed: None }).unwrap();
    let all = take(&mut *member, true, |all| counts(all).len() >= 100).await;
    assert_eq!(counts(&all).len(), 100);
    let progress = sink.progress(std::slice::from_ref(&group), &mdt.topics).await.unwrap();
    assert!(progress.topics[&mdt.topic().name].groups[&group].iter().all(|p| *p == Some(101)));
}

fn file(text: &str) -> (tempfile::NamedTempFile, PathBuf) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_owned();
    (file, path)
}

/// What is asked through a shut door is an error, never an empty broker.
async fn shut(sink: NatsSink) -> String {
    let answer = sink.peek_state(&new_mdt()).await;
    assert!(matches!(answer, Err(SinkError::Unauthorised { .. } | SinkError::Unavailable { .. })), "{answer:?}");
    assert!(sink.registry().await.is_err());
    answer.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn over_tls_with_a_password_from_a_file_or_an_nkey_a_record_goes_the_whole_way() {
    let _turn = On::Nats.shared().await;
    let env = start("nats-accounts", &["--tls", "--auth", "accounts"]);
    let ca = Some(PathBuf::from(&env["NATS_CA"]));
    let (_kept, password) = file(&format!("{}\n", env["NATS_PASSWORD"]));
    let by_password = |c: &mut clbridge_sinks::nats::NatsConfig| {
        (c.user, c.password_file, c.tls_ca) = (Some(env["NATS_USER"].clone()), Some(password.clone()), ca.clone());
    };
    the_whole_way(sink(&env, by_password)).await;
    the_whole_way(sink(&env, |c| (c.nkey_file, c.tls_ca) = (Some(PathBuf::from(&env["NATS_NKEY"])), ca.clone()))).await;
    // and a client's certificate is shown where it is given
    the_whole_way(sink(&env, |c| {
        by_password(c);
        c.tls_cert = Some(PathBuf::from(&env["NATS_CERTIFICATE"]));
        c.tls_key = Some(PathBuf::from(&env["NATS_KEY"]));
    }))
    .await;
    // and what is wrong is said
    let told = shut(sink(&env, |c| {
        by_password(c);
        c.password_file = None;
        c.password = Some("wrong".to_owned());
    }))
    .await;
    assert!(told.contains("not authorised"), "{told}");
    shut(sink(&env, |c| c.tls_ca = ca.clone())).await;
    shut(sink(&env, |c| {
        by_password(c);
        c.tls_ca = Some(PathBuf::from(&env["NATS_WRONG_CA"]));
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn by_a_credentials_file_a_record_goes_the_whole_way() {
    let _turn = On::Nats.shared().await;
    let env = start("nats-operator", &["--auth", "operator"]);
    the_whole_way(sink(&env, |c| c.credentials_file = Some(PathBuf::from(&env["NATS_CREDS"])))).await;
    shut(sink(&env, |_| ())).await;
}

/// A server with a bridge's user, who may do everything, and a member's, who may do what docs/brokers/nats.md says.
fn with_member(stream: &str, group: &str) -> BTreeMap<String, String> {
    let lines = format!(
        r#"accounts {{
  CLB {{ jetstream: enabled, users: [
    {{ user: bridge, password: b }}
    {{ user: member, password: m, permissions: {{
      publish: ["$JS.API.CONSUMER.MSG.NEXT.{stream}.{group}", "$JS.API.CONSUMER.INFO.{stream}.{group}", "$JS.ACK.{stream}.{group}.>"]
      subscribe: ["_INBOX.>"]
    }} }}
  ] }}
}}
"#
    );
    let (_kept, path) = file(&lines);
    start(&format!("nats-member-{group}"), &["--config", path.to_str().unwrap()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_needs_no_more_than_its_own_consumer_and_can_do_no_more() {
    let _turn = On::Nats.shared().await;
    // given a group's member with the rights that docs/brokers/nats.md lists
    let (name, group) = (new_mdt(), new_group("least"));
    let stream = clbridge_sinks::nats::NatsConfig::default().stream_name(&name, None);
    let env = with_member(&stream, &group);
    let bridge = sink(&env, |c| (c.user, c.password) = (Some("bridge".to_owned()), Some("b".to_owned())));
    let topics = bridge.prepare(&[spec(&name, None)], None).await.unwrap();
    let recovered = bridge.recover(&name, &topics).await.unwrap();
    let state = State::first(name.clone(), "access".to_owned());
    let mut mdt = Mdt { name, sink: Box::new(bridge.clone()), topics, publisher: recovered.publisher, state };
    bridge.register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
    mdt.write(1..=30);
    let options = ConnectOptions::with_user_and_password("member".to_owned(), "m".to_owned());
    let client = options.connect(&env["NATS_URL"]).await.unwrap();
    let mut js = jetstream::new(client.clone());
    js.set_timeout(Duration::from_secs(2));
    // when it takes and acknowledges, then that counts
    let consumer: PullConsumer = js.get_consumer_from_stream(&group, &stream).await.unwrap();
    let mut batch = consumer.fetch().max_messages(30).expires(Duration::from_secs(5)).messages().await.unwrap();
    let mut taken = 0;
    while let Some(message) = batch.next().await {
        message.unwrap().double_ack().await.unwrap();
        taken += 1;
    }
    assert_eq!(taken, 30);
    let progress = bridge.progress(std::slice::from_ref(&group), &mdt.topics).await.unwrap();
    assert_eq!(progress.topics[&stream].groups[&group][0], Some(31));
    // and it can neither purge, nor reset, nor change or remove its consumer, nor publish a record
    for (subject, body) in [
        (format!("$JS.API.STREAM.PURGE.{stream}"), "{}".to_owned()),
        (format!("$JS.API.CONSUMER.RESET.{stream}.{group}"), r#"{"seq":30}"#.to_owned()),
        (format!("$JS.API.CONSUMER.DELETE.{stream}.{group}"), String::new()),
        (format!("$JS.API.CONSUMER.CREATE.{stream}.{group}"), format!(r#"{{"stream_name":"{stream}","config":{{}}}}"#)),
        (format!("{}.CREAT", bridge.config().subject_root(&mdt.name, None) + ".0"), "x".to_owned()),
    ] {
        let refused = tokio::time::timeout(Duration::from_secs(2), client.request(subject.clone(), body.into())).await;
        assert!(!matches!(refused, Ok(Ok(_))), "{subject} was answered");
    }
    let progress = bridge.progress(std::slice::from_ref(&group), &mdt.topics).await.unwrap();
    assert_eq!(progress.topics[&stream].groups[&group][0], Some(31));
    mdt.write(31..=40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_right_that_is_missing_is_told_by_its_name() {
    let _turn = On::Nats.shared().await;
    let (_kept, path) = file(
        r#"accounts {
  CLB { jetstream: enabled, users: [
    { user: poor, password: p, permissions: { publish: ["$JS.API.STREAM.INFO.>"], subscribe: ["_INBOX.>"] } }
  ] }
}
"#,
    );
    let env = start("nats-poor", &["--config", path.to_str().unwrap()]);
    let poor = sink(&env, |c| {
        (c.user, c.password) = (Some("poor".to_owned()), Some("p".to_owned()));
        // (what may not be asked stays without an answer)
        c.request_timeout_ms = 5_000;
    });
    let told = poor.prepare(&[spec(&new_mdt(), None)], None).await;
    let Err(SinkError::Unauthorised { why, .. }) = told else { panic!("{told:?}") };
    assert!(why.contains("$JS.API.STREAM.CREATE"), "{why}");
}
