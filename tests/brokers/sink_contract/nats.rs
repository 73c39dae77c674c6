//! NATS JetStream as a ground for the contract. What happens behind the sink's back is done with the async-nats crate
//! directly.

use std::process::Command;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, Context};
use async_trait::async_trait;
use clbridge_sinks::nats::{NatsConfig, NatsSink};
use clbridge_sinks::retraction::RETRACTS_HEADER;
use clbridge_sinks::{Broker as _, Consumer, GroupObserver, MdtSelection, Position, Sink, Subscription, Topic};

use crate::ground::{Ground, variable};

/// Whether the server is the oldest one that works, which lacks some things.
pub fn is_old() -> bool {
    std::env::var("NATS_VERSION").is_ok_and(|v| v == "old")
}

/// One server, given by NATS_URL.
pub struct Nats {
    pub url: String,
}

impl Nats {
    pub fn new() -> Self {
        Self { url: variable("NATS_URL") }
    }

    /// Settings under which what was not acknowledged comes again soon.
    pub fn config(&self) -> NatsConfig {
        NatsConfig {
            servers: self.url.clone(),
            memory_bytes: self.memory(),
            ack_wait_ms: 2_000,
            request_timeout_ms: 30_000,
            ..NatsConfig::default()
        }
    }

    pub fn make(&self) -> NatsSink {
        NatsSink::new(self.config()).unwrap()
    }

    pub async fn js(&self) -> Context {
        jetstream::new(async_nats::connect(&self.url).await.unwrap())
    }

    pub async fn stream(&self, topic: &Topic) -> Stream {
        self.js().await.get_stream(&topic.name).await.unwrap()
    }

    /// Changes the stream's settings behind our back.
    pub async fn change(&self, topic: &Topic, change: impl FnOnce(&mut Config)) {
        let mut config = self.stream(topic).await.cached_info().config.clone();
        change(&mut config);
        self.js().await.update_stream(config).await.unwrap();
    }

    pub fn up(words: &[&str]) {
        let status = Command::new(variable("CLB_UP")).arg("nats").args(words).status().unwrap();
        assert!(status.success(), "tests/up nats {}", words.join(" "));
    }
}

#[async_trait]
impl Ground for Nats {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.make())
    }

    fn observer(&self) -> Box<dyn GroupObserver> {
        Box::new(self.make())
    }

    fn member(&self, group: &str, mdts: MdtSelection) -> Box<dyn Consumer> {
        self.make().consumer(group, &Subscription { mdts, feed: None }).unwrap()
    }

    fn ephemeral(&self, mdts: MdtSelection) -> Box<dyn Consumer> {
        self.make().ephemeral(&Subscription { mdts, feed: None }, true).unwrap()
    }

    fn memory(&self) -> usize {
        32 << 20
    }

    async fn delete(&self, topic: &Topic, recreate: bool) {
        let config = self.stream(topic).await.cached_info().config.clone();
        let js = self.js().await;
        js.delete_stream(&topic.name).await.unwrap();
        if recreate {
            js.create_stream(config).await.unwrap();
        }
    }

    async fn widen(&self, topic: &Topic) {
        self.change(topic, |c| {
            let first = c.subjects[0].clone();
            let root = first.strip_suffix(".0.*").unwrap();
            c.subjects.push(format!("{root}.{}.*", topic.partitions));
        })
        .await;
    }

    async fn set_retention(&self, topic: &Topic) -> Option<&'static str> {
        self.change(topic, |c| c.max_age = Duration::from_secs(3600)).await;
        Some("max_age")
    }

    async fn evict(&self, topic: &Topic, _partition: u32, below: u64) {
        self.stream(topic).await.purge().sequence(below).await.unwrap();
    }

    async fn schema(&self, fingerprint: [u8; 8]) -> Option<String> {
        let key: String = fingerprint.iter().map(|b| format!("{b:02x}")).collect();
        let bucket = self.js().await.get_key_value(NatsConfig::default().schema_bucket()).await.ok()?;
        bucket.get(key).await.unwrap().map(|v| String::from_utf8(v.to_vec()).unwrap())
    }

    async fn retraction_headers(&self, topic: &Topic) -> Vec<(Position, String)> {
        // nats-py, which shares no line with what published them.
        let reader = r#"
import asyncio, sys, nats
async def main(url, stream, header):
    nc = await nats.connect(url)
    js = nc.jetstream()
    info = await js.stream_info(stream)
    for seq in range(info.state.first_seq, info.state.last_seq + 1):
        m = await js.get_msg(stream, seq)
        if m.headers and header in m.headers:
            print(m.subject.split(".")[-2], seq, m.headers[header])
    await nc.close()
asyncio.run(main(*sys.argv[1:]))
"#;
        let said = Command::new(variable("CLB_PYTHON"))
            .args(["-c", reader, &self.url, &topic.name, RETRACTS_HEADER])
            .output()
            .unwrap();
        assert!(said.status.success(), "nats-py: {}", String::from_utf8_lossy(&said.stderr));
        let lines = String::from_utf8(said.stdout).unwrap();
        let headed = lines.lines().map(|line| {
            let mut words = line.split(' ');
            let mut number = || words.next().unwrap().parse::<u64>().unwrap();
            let at = Position { partition: number() as u32, offset: number() };
            (at, words.next().unwrap().to_owned())
        });
        headed.collect()
    }

    fn stall(&self) {
        Self::up(&["stall", &variable("NATS_DIR")]);
    }

    fn go_on(&self) {
        Self::up(&["continue", &variable("NATS_DIR")]);
    }

    fn kill_and_restart(&self) {
        Self::up(&["kill", &variable("NATS_DIR")]);
        Self::up(&["restart", &variable("NATS_DIR")]);
    }
}
