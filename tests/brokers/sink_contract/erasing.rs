//! What was made under a prefix can be deleted again, all of it and nothing else. What is there is looked at by others'
//! means.

use clbridge_schemas::avro::{SchemaVersion, fingerprint, schema_json};
use clbridge_schemas::ids::MdtName;
use clbridge_sinks::{Broker, StartAt, TopicSpec};

use crate::ground::{On, new_group, new_mdt, variable};

/// Makes everything that a bridge and its commands make of these MDTs: topics of two feeds, the place of State, the registry,
/// groups, a schema, and what a repair needs where there is one.
async fn make(sink: &dyn Broker, mdts: &[MdtName], groups: &[&str]) {
    let version = SchemaVersion::default();
    sink.publish_schema(fingerprint(version), schema_json(version)).await.unwrap();
    sink.change_registry(&mut |_| {}).await.unwrap();
    for mdt in mdts {
        let feeds = [None, Some("names".to_owned())];
        let spec = |feed| TopicSpec { mdt: mdt.clone(), feed, partitions: 2, max_message_bytes: 8 << 10 };
        for topic in sink.prepare(&feeds.map(spec), None).await.unwrap() {
            for group in groups {
                sink.register(group, &topic, StartAt::Newest).await.unwrap();
                if sink.capabilities().read_back {
                    sink.repair(&topic, group, &[]).await.unwrap();
                }
            }
        }
    }
}

/// Of these names those that begin so.
fn beginning(names: &[String], with: &str) -> Vec<String> {
    names.iter().filter(|name| name.starts_with(with)).cloned().collect()
}

#[cfg(feature = "nats")]
mod nats {
    use clbridge_sinks::nats::{NatsConfig, NatsSink};
    use futures_util::TryStreamExt as _;

    use super::*;

    fn sink(prefix: &str) -> NatsSink {
        let (servers, prefix, own_prefix) = (variable("NATS_URL"), prefix.to_owned(), format!("{prefix}_own"));
        NatsSink::new(NatsConfig { servers, prefix, own_prefix, ..NatsConfig::default() }).unwrap()
    }

    /// Of every stream, a bucket's too, the name without what a bucket's begins with.
    async fn names() -> Vec<String> {
        let js = async_nats::jetstream::new(async_nats::connect(variable("NATS_URL")).await.unwrap());
        let names: Vec<String> = js.stream_names().try_collect().await.unwrap();
        names.into_iter().map(|name| name.strip_prefix("KV_").unwrap_or(&name).to_owned()).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_was_made_of_mdts_under_a_prefix_is_deleted_and_nothing_else() {
        let _turn = On::Nats.shared().await;
        // given what a bridge makes, of an MDT more than will be deleted, and a neighbour whose prefix begins as ours
        let (prefix, mdts) = (new_group("erase"), [new_mdt(), new_mdt(), new_mdt()]);
        let (ours, neighbour) = (sink(&prefix), sink(&format!("{prefix}_x")));
        make(&ours, &mdts, &["lake", "audit"]).await;
        make(&neighbour, &mdts, &["lake", "audit"]).await;
        let (there, theirs) = (names().await, beginning(&names().await, &format!("{prefix}_x_")));
        // Of an MDT: two topics and two repairs of each, and what is kept of them; and three buckets.
        assert_eq!((beginning(&there, &prefix).len(), theirs.len()), (2 * (3 * 12 + 3), 3 * 12 + 3), "{there:?}");

        // when two of the three MDTs are deleted
        let deleted = ours.erase(&mdts[..2]).await.unwrap();

        // then the third and the neighbour are as they were, and there is nothing more to delete
        assert_eq!(deleted.len(), 2 * 12 + 3, "{deleted:?}");
        let left = names().await;
        assert_eq!(beginning(&left, &format!("{prefix}_x_")), theirs);
        let third = |name: &&String| !name.starts_with(&format!("{prefix}_x_")) && name.contains(mdts[2].as_str());
        let ours_left = beginning(&left, &prefix);
        assert_eq!(ours_left.iter().filter(third).count(), 12, "{left:?}");
        assert_eq!(ours_left.len(), 12 + theirs.len(), "{left:?}");
        assert_eq!(ours.erase(&mdts[..2]).await.unwrap(), Vec::<String>::new());
        ours.erase(&mdts).await.unwrap();
        neighbour.erase(&mdts).await.unwrap();
        assert_eq!(beginning(&names().await, &prefix), Vec::<String>::new());
    }
}

#[cfg(feature = "amqp")]
mod amqp {
    use std::process::Command;

    use clbridge_sinks::amqp::{AmqpConfig, AmqpSink};

    use super::*;

    fn sink(prefix: &str) -> AmqpSink {
        let (prefix, own_prefix) = (prefix.to_owned(), format!("{prefix}.own"));
        let shards = [("spread".to_owned(), 2)].into();
        let config = AmqpConfig { uri: variable("AMQP_URL"), prefix, own_prefix, shards, ..AmqpConfig::default() };
        AmqpSink::new(AmqpConfig { request_timeout_ms: 60_000, ..config }).unwrap()
    }

    /// Of every queue and exchange.
    fn names() -> Vec<String> {
        let list = |what: &str| -> Vec<String> {
            let url = format!("{}/api/{what}?columns=name", variable("AMQP_MANAGEMENT"));
            let said = Command::new("curl").args(["-sS", "-f", &url]).output().unwrap();
            assert!(said.status.success(), "curl: {}", String::from_utf8_lossy(&said.stderr));
            let all: Vec<serde_json::Value> = serde_json::from_slice(&said.stdout).unwrap();
            all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
        };
        [list("queues"), list("exchanges")].concat()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_was_made_of_mdts_and_groups_under_a_prefix_is_deleted_and_nothing_else() {
        let _turn = On::Amqp.shared().await;
        // given what a bridge makes for a group of one queue and one of two, and a neighbour whose prefix begins as ours
        let (prefix, mdts) = (new_group("erase"), [new_mdt()]);
        let (ours, neighbour) = (sink(&prefix), sink(&format!("{prefix}.x")));
        make(&ours, &mdts, &["lake", "spread"]).await;
        make(&neighbour, &mdts, &["lake", "spread"]).await;
        let (there, theirs) = (names(), beginning(&names(), &format!("{prefix}.x")));
        // In each of two feeds: an exchange, a queue, and an exchange with two queues; State, its copy, answers and two
        // exchanges; a schema, the registry and the directory.
        assert_eq!((beginning(&there, &prefix).len(), theirs.len()), (2 * 18, 18), "{there:?}");

        // when ours is deleted, also without knowing the groups
        ours.erase(&mdts, &[]).await.unwrap();

        // then the neighbour is as it was, and deleting again finds nothing and makes nothing
        let left = || beginning(&names(), &prefix);
        assert_eq!(left(), theirs);
        ours.erase(&mdts, &["lake".to_owned(), "spread".to_owned()]).await.unwrap();
        assert_eq!(left(), theirs);
        neighbour.erase(&mdts, &[]).await.unwrap();
        assert_eq!(left(), Vec::<String>::new());
    }
}
