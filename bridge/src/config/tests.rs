#![allow(clippy::unwrap_used)]
use super::*;
use std::collections::BTreeSet;
use std::fs;

fn parsed(toml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("clbridge.toml");
    fs::write(&file, toml).unwrap();
    Config::load(&[file], env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

const FULL: &str = r#"
instance = "bridge-a"
keep = "2d"
takeover_after = "12s"
backlog_limit = 50000000

[source]
kind = "lustre"
fs = "scratch"
mdts = ["scratch-MDT0000", "scratch-MDT0001"]
user = "cl1"
users = { "scratch-MDT0001" = "cl2-bridge" }

[sink.kafka]

[clear]
min_age = "45s"
without_groups = "durable"

[feed]
schema_version = 4
key = "parent"

[feeds.names]
types = ["CREAT", "UNLNK", "RENME"]
framing = { confluent = { id = 7 } }

[groups.Robinhood]
mdts = ["scratch-MDT0000"]

[groups.lake]
feed = "names"
from = "oldest"
policy = { release = { backlog = 1000000, age = "1day 2h" } }

[[patterns]]
pattern = "audit-.*"

[memory]
limit = "512MiB"

[log]
format = "json"
"#;

#[test]
fn a_file_gives_every_kind_of_value_and_defaults_fill_the_rest() {
    let config = parsed(FULL, &[]).unwrap();
    assert_eq!(config.instance, "bridge-a");
    assert_eq!(config.keep, Duration::from_secs(2 * 24 * 3600));
    assert_eq!(config.clear.min_age, Duration::from_secs(45));
    assert_eq!(config.clear.without_groups, WithoutGroups::Durable);
    assert_eq!(config.clear.batch, 10_000);
    assert_eq!(config.memory.limit, Bytes::mib(512));
    assert_eq!(config.source.user_of(&"scratch-MDT0001".parse().unwrap()), "cl2-bridge");
    assert_eq!(config.source.user_of(&"scratch-MDT0000".parse().unwrap()), "cl1");
    assert!(!config.source.takes(&"scratch-MDT0002".parse().unwrap()));
    assert_eq!(config.feed(None).unwrap().key, clbridge_schemas::key::KeyKind::Parent);
    assert_eq!(config.feed(Some("names")).unwrap().framing, FramingName::Confluent { id: 7 });
    assert_eq!(config.all_feeds().map(|(name, _)| name).collect::<Vec<_>>(), [None, Some("names")]);
    assert!(config.patterns[0].pattern.matches("audit-x"));
    assert_eq!(config.log.format, LogFormat::Json);
    // Names keep their case.
    let robinhood = config.groups["Robinhood"].spec("Robinhood");
    assert!(!robinhood.mdts.takes(&"scratch-MDT0001".parse().unwrap()));
    assert_eq!(
        config.groups["lake"].spec("lake").policy,
        clbridge_sinks::Policy::Release { backlog: Some(1_000_000), age: Some(Duration::from_secs(26 * 3600)) }
    );
}

#[test]
fn without_a_file_the_defaults_stand_and_the_instance_is_the_host() {
    let config = Config::load(&[], []).unwrap();
    assert_eq!(config.instance, host_name());
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9415");
    assert_eq!(config.clear.without_groups, WithoutGroups::Hold);
}

#[test]
fn the_environment_overrides_any_key() {
    let config = parsed(
        FULL,
        &[
            ("CLBRIDGE_INSTANCE", "bridge-b"),
            ("CLBRIDGE_CLEAR__MIN_AGE", "1m"),
            ("CLBRIDGE_CLEAR__BATCH", "77"),
            ("CLBRIDGE_SOURCE__MDTS", "[\"scratch-MDT0001\", \"scratch-MDT0000\", \"scratch-MDT0003\"]"),
            ("CLBRIDGE_SOURCE__USERS", "{ \"scratch-MDT0003\" = \"cl9\" }"),
            ("CLBRIDGE_FEEDS__NAMES__SCHEMA_VERSION", "2"),
            ("CLBRIDGE_GROUPS__AUDIT__POLICY__RELEASE__BACKLOG", "5"),
            ("CLBRIDGE_CONFIG", "/not/a/key"),
            ("CLBRIDGE_FAILPOINT", "before_commit:1"),
            ("OTHER", "x"),
        ],
    )
    .unwrap();
    assert_eq!(config.instance, "bridge-b");
    assert_eq!(config.clear.min_age, Duration::from_secs(60));
    assert_eq!(config.clear.batch, 77);
    assert_eq!(config.source.mdts.len(), 3);
    assert_eq!(config.source.user_of(&"scratch-MDT0003".parse().unwrap()), "cl9");
    assert_eq!(config.source.user_of(&"scratch-MDT0001".parse().unwrap()), "cl2-bridge");
    assert_eq!(config.feeds["names"].schema_version, 2);
    assert_eq!(config.groups["audit"].policy, PolicyConfig::Release { backlog: Some(5), age: None });
    assert_eq!(config.groups.len(), 3);
}

#[test]
fn a_later_file_wins_key_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
    fs::write(&a, "instance = \"a\"\n[clear]\nbatch = 5\nevery = \"3s\"\n").unwrap();
    fs::write(&b, "[clear]\nbatch = 6\n").unwrap();
    let config = Config::load(&[a, b], []).unwrap();
    assert_eq!((config.instance.as_str(), config.clear.batch), ("a", 6));
    assert_eq!(config.clear.every, Duration::from_secs(3));
}

#[test]
fn a_secret_is_read_from_its_own_file_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "bridge-from-file\n").unwrap();
    let path = secret.to_str().unwrap();
    let config = parsed(&format!("instance = {{ file = \"{path}\" }}"), &[]).unwrap();
    assert_eq!(config.instance, "bridge-from-file");
    let config = parsed("", &[("CLBRIDGE_INSTANCE__FILE", path)]).unwrap();
    assert_eq!(config.instance, "bridge-from-file");
    let error = parsed("instance = { file = \"/no/such/file\" }", &[]).unwrap_err();
    assert_eq!(error.key(), Some("instance"));
    assert!(error.to_string().contains("/no/such/file"), "{error}");
}

#[test]
fn an_unknown_key_is_an_error_that_names_it_wherever_it_stands() {
    for (toml, key) in [
        ("instanse = \"x\"", "instanse"),
        ("[source]\nusr = \"cl1\"", "source.usr"),
        ("[clear]\nmin_ago = \"30s\"", "clear.min_ago"),
        ("[feed]\ntypez = []", "feed.typez"),
        ("[feeds.names]\ntypez = []", "feeds.names.typez"),
        ("[groups.lake]\nfrm = \"oldest\"", "groups.lake.frm"),
        ("[[patterns]]\npattern = \"x\"\nfed = \"y\"", "patterns[0].fed"),
        ("[sink]\nkafca = 1", "sink.kafca"),
        ("[sink.kafka]\nboostrap = \"x\"", "sink.kafka.boostrap"),
        ("[batch]\nmax = 1", "batch.max"),
        ("[memory]\nlimt = 1", "memory.limt"),
        ("[poll]\ngrups = \"1s\"", "poll.grups"),
        ("[http]\nlissen = \"x\"", "http.lissen"),
        ("[log]\nfilterr = \"x\"", "log.filterr"),
    ] {
        let error = parsed(toml, &[]).unwrap_err();
        assert_eq!(error.key(), Some(key), "{error}");
        assert!(error.to_string().contains(key), "{error}");
    }
    let error = parsed("", &[("CLBRIDGE_CLEAR__MIN_AGO", "30s")]).unwrap_err();
    assert_eq!(error.key(), Some("clear.min_ago"), "{error}");
}

#[test]
fn a_value_of_the_wrong_type_is_an_error_that_names_the_key() {
    for (toml, key) in [
        ("keep = \"7 parsecs\"", "keep"),
        ("[source]\nkind = \"ext4\"", "source.kind"),
        ("[source]\nmdts = [\"MDT0000\"]", "source.mdts[0]"),
        ("[clear]\nbatch = \"many\"", "clear.batch"),
        ("[memory]\nlimit = \"lots\"", "memory.limit"),
        ("[http]\nlisten = \"localhost\"", "http.listen"),
        ("[feed]\nkey = \"colour\"", "feed.key"),
        ("[[patterns]]\npattern = \"a(\"", "patterns[0].pattern"),
    ] {
        let error = parsed(toml, &[]).unwrap_err();
        assert_eq!(error.key(), Some(key), "{error}");
    }
}

#[test]
fn an_impossible_combination_is_an_error_that_names_the_key_to_change() {
    for (toml, key) in [
        ("instance = \"\"", "instance"),
        ("[source]\nkind = \"sim\"", "source.address"),
        ("[source]\naddress = \"127.0.0.1:1\"", "source.address"),
        ("[source]\nkind = \"replay\"", "source.files"),
        ("[source]\nfiles = { \"fs-MDT0000\" = [\"a\"] }", "source.files"),
        ("[source]\nfs = \"a\"\nmdts = [\"b-MDT0000\"]", "source.mdts"),
        ("[source]\nuser = \"robinhood\"", "source.user"),
        ("[source]\nuser = \"cl0\"", "source.user"),
        ("[source]\nusers = { \"fs-MDT0000\" = \"cl\" }", "source.users.fs-MDT0000"),
        ("[source]\nfs = \"a\"\nusers = { \"b-MDT0000\" = \"cl1\" }", "source.users.b-MDT0000"),
        ("[source]\nreopen_share = 1.5", "source.reopen_share"),
        ("[source]\npoll_min = \"1s\"\npoll_max = \"10ms\"", "source.poll_max"),
        ("[clear]\nmin_age = \"0s\"", "clear.min_age"),
        ("[clear]\nbatch = 0", "clear.batch"),
        ("[clear]\nstate_fresh = \"3s\"", "clear.state_fresh"),
        ("takeover_after = \"4s\"", "clear.state_fresh"),
        ("[feed]\nschema_version = 6", "feed.schema_version"),
        ("[feed]\npartitions = 0", "feed.partitions"),
        ("[feeds.names]\ntypes = [\"CREATE\"]", "feeds.names.types"),
        ("[feeds.names]\ntypes = []", "feeds.names.types"),
        ("[feeds.repair]\n", "feeds.repair"),
        ("[feeds.\"a.b\"]\n", "feeds.a.b"),
        ("[groups.lake]\nfeed = \"names\"", "groups.lake.feed"),
        ("[source]\nfs = \"a\"\n[groups.lake]\nmdts = [\"b-MDT0000\"]", "groups.lake.mdts"),
        ("[groups.lake]\npolicy = { release = {} }", "groups.lake.policy.release"),
        ("[groups.lake]\npolicy = { release = { age = \"0s\" } }", "groups.lake.policy.release.age"),
        ("[[patterns]]\npattern = \"a\"\nfeed = \"names\"", "patterns[0].feed"),
        ("backlog_limit = 0", "backlog_limit"),
        ("[memory]\nlimit = \"1MiB\"", "memory.limit"),
        ("[batch]\nmax_bytes = \"128MiB\"", "batch.max_bytes"),
        ("[poll]\ngroups = \"0s\"", "poll.groups"),
        ("[log]\nfilter = \"a=b=c\"", "log.filter"),
        ("[sink.kafka]\ninstance = \"x\"", "sink.kafka.instance"),
        ("[sink.kafka]\npartitions = 3", "sink.kafka.partitions"),
        ("[sink.kafka]\nmock = true", "sink.kafka.mock"),
        ("[sink.kafka]\nlinger_ms = 9999999", "sink.kafka"),
        ("[sink.kafka.librdkafka]\nacks = \"1\"", "sink.kafka"),
        ("[sink.files]\ninstance = \"x\"", "sink.files.instance"),
        ("[sink.files]\ndir = \"x\"", "sink.files"),
        ("[sink.files]\n[feed]\nframing = { confluent = { id = 1 } }", "feed.framing"),
        ("[sink.kafka]\n[sink.files]\n", "sink.files"),
    ] {
        let error = parsed(toml, &[]).unwrap_err();
        assert!(matches!(error, ConfigError::Impossible { .. }), "{toml}: {error}");
        assert_eq!(error.key(), Some(key), "{error}");
    }
}

#[test]
fn settings_of_librdkafka_keep_their_dots_and_their_secrets_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "s3cret\n").unwrap();
    let toml = format!(
        "[sink.kafka.librdkafka]\n\"security.protocol\" = \"sasl_plaintext\"\n\"sasl.password\" = {{ file = {secret:?} }}\n"
    );
    let env = [("CLBRIDGE_SINK__KAFKA__LIBRDKAFKA", "{ \"sasl.mechanism\" = \"PLAIN\" }")];
    let settings = parsed(&toml, &env).unwrap().sink.kafka.unwrap().librdkafka;
    let expected = [("sasl.mechanism", "PLAIN"), ("sasl.password", "s3cret"), ("security.protocol", "sasl_plaintext")];
    assert_eq!(settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_an_error_that_names_the_file() {
    let error = Config::load(&[PathBuf::from("/no/such/clbridge.toml")], []).unwrap_err();
    assert!(error.to_string().contains("/no/such/clbridge.toml"), "{error}");
    let error = parsed("a = = 1", &[]).unwrap_err();
    assert!(error.to_string().contains("clbridge.toml"), "{error}");
}

/// Tables whose names are the operator's own: to the documentation they are one key.
const NAMED_BY_OPERATORS: [&str; 5] =
    ["source.users", "source.files", "sink.kafka.librdkafka", "sink.nats.group_types", "sink.amqp.shards"];

/// Every key, the names in maps written as they are in the documentation.
fn keys(value: &serde_json::Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(table) if !NAMED_BY_OPERATORS.contains(&path) => {
            for (name, inner) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                keys(inner, &path, into);
            }
        }
        serde_json::Value::Array(list) if path == "patterns" => {
            for inner in list {
                keys(inner, path, into);
            }
        }
        _ => drop(into.insert(path.to_owned())),
    }
}

/// Every key that there is, for all sinks and for everything that may stand in its place.
fn all_keys() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for sink in ["kafka", "nats", "amqp", "files"] {
        for policy in ["\"hold\"", "{ release = { backlog = 1, age = \"1s\" } }"] {
            let toml = format!(
                "[sink.{sink}]\n[feeds.NAME]\n[groups.NAME]\npolicy = {policy}\n[[patterns]]\npattern = \"x\"\n"
            );
            keys(&serde_json::to_value(parsed(&toml, &[]).unwrap()).unwrap(), "", &mut all);
        }
    }
    all
}

#[test]
fn without_a_broker_s_table_records_go_to_files() {
    assert_eq!(parsed("", &[]).unwrap().sink.name(), "files");
    assert_eq!(parsed("[sink.kafka]", &[]).unwrap().sink.name(), "kafka");
    let config = parsed("[sink.files]\ncodec = \"zstd\"\nrotate_bytes = 1048576", &[]).unwrap();
    assert_eq!(config.sink.name(), "files");
    assert_eq!(config.sink.files.unwrap().rotate_bytes, 1 << 20);
}

fn documentation() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md")).unwrap()
}

#[test]
fn every_key_of_every_sink_is_described_in_the_documentation() {
    let (all, docs) = (all_keys(), documentation());
    for sink in ["kafka", "nats", "amqp", "files"] {
        assert!(all.iter().filter(|key| key.starts_with(&format!("sink.{sink}."))).count() >= 9, "{all:?}");
    }
    let missing: Vec<_> = all.iter().filter(|key| !docs.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "not in docs/configuration.md: {missing:?}");
}

#[test]
fn every_key_that_the_documentation_describes_is_there() {
    let (all, docs) = (all_keys(), documentation());
    // The first cell of each row: one key, or several that are described together.
    let cells = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | ").map(|(cell, _)| cell));
    let described: Vec<&str> = cells.flat_map(|cell| cell.split(", ")).map(|key| key.trim_matches('`')).collect();
    assert!(described.len() > 100, "{described:?}");
    let unknown: Vec<_> = described.iter().filter(|key| !all.contains(**key)).collect();
    assert!(unknown.is_empty(), "docs/configuration.md describes what is no key: {unknown:?}");
}
