//! NATS JetStream: against loops over the client that ask for few answers. One names in each message only the sequence
//! that it must get, which is the fastest way that leaves no hole. The other one also names, as the bridge does, the
//! message before it, which is what keeps out a second writer (docs/decisions/ordered-brokers-chain-messages.md).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::stream::Config;
use async_nats::{HeaderMap, Subject, header, jetstream};
use bytes::Bytes;
use clbridge_sinks::nats::{NatsConfig, NatsSink};
use futures_util::StreamExt as _;

use crate::child::{done, ready, say};
use crate::payloads::Payloads;
use crate::rate::Contest;
use crate::setup::MDT;

/// Messages that are on their way at most: the bridge's default.
const WINDOW: u64 = 4000;
/// Every so many messages one asks for an answer. Each proves all before it, since each message names the sequence that
/// it must get: one that is refused leaves no place for those behind it.
const ANSWER: u64 = 100;

/// How long the server remembers identities: as in the bridge's streams.
const ID_MEMORY: Duration = Duration::from_millis(100);

/// A NATS server.
pub struct Nats {
    /// `nats://HOST:PORT`.
    pub url: String,
}

impl Contest for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn rivals(&self) -> &'static [&'static str] {
        &["bare", "chained"]
    }

    fn records(&self, asked: u64) -> u64 {
        asked / 2
    }

    fn repeated(&self) -> usize {
        2
    }

    fn table(&self, name: &str) -> String {
        format!("[sink.nats]\nservers = \"{}\"\nprefix = \"{name}\"\nown_prefix = \"own-{name}\"\n", self.url)
    }

    fn prepare(&self, _rival: &str, name: &str) -> Result<Vec<String>> {
        runtime()?.block_on(async {
            let subjects = vec![format!("{name}.>")];
            let stream = Config { name: stream(name), subjects, duplicate_window: ID_MEMORY, ..Config::default() };
            jetstream::new(async_nats::connect(&self.url).await?).create_stream(stream).await?;
            Ok(vec![self.url.clone(), name.to_owned()])
        })
    }

    fn clean(&self, name: &str) -> Result<()> {
        runtime()?.block_on(async {
            let config = NatsConfig {
                servers: self.url.clone(),
                prefix: name.to_owned(),
                own_prefix: format!("own-{name}"),
                ..NatsConfig::default()
            };
            NatsSink::new(config)?.erase(&[MDT.parse()?]).await?;
            let js = jetstream::new(async_nats::connect(&self.url).await?);
            if js.get_stream(stream(name)).await.is_ok() {
                js.delete_stream(stream(name)).await?;
            }
            Ok(())
        })
    }
}

/// The stream that the bare client writes.
fn stream(name: &str) -> String {
    format!("{name}-bare")
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Publishes `records` payloads; `chained`: each names the message before it.
pub fn rate(sim: &str, records: usize, url: &str, name: &str, chained: bool) -> Result<()> {
    let payloads = Payloads::read(sim, records)?;
    let messages: Vec<(Subject, Bytes)> = payloads
        .iter()
        .map(|m| {
            // As the bridge's subjects are, and as long.
            let subject = format!("{name}.all.lustre.MDT0000.{}.{}", m.partition, m.kind);
            (subject.into(), Bytes::copy_from_slice(m.payload))
        })
        .collect();
    drop(payloads);
    runtime()?.block_on(publish(url, messages, chained))
}

async fn publish(url: &str, messages: Vec<(Subject, Bytes)>, chained: bool) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    client.flush().await?;
    ready()?;
    // Writer, incarnation and index, as the bridge names its messages.
    let identity = |index: u64| format!("7:1:{index}");
    let (records, mut sent, mut stored) = (messages.len() as u64, 0_u64, 0);
    for (subject, payload) in messages {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, sent.to_string());
        if chained {
            headers.insert(header::NATS_MESSAGE_ID, identity(sent + 1));
            if sent > 0 {
                headers.insert(header::NATS_EXPECTED_LAST_MESSAGE_ID, identity(sent));
            }
        }
        sent += 1;
        if sent.is_multiple_of(ANSWER) || sent == records {
            client.publish_with_reply_and_headers(subject, inbox.clone(), headers, payload).await?;
        } else {
            client.publish_with_headers(subject, headers, payload).await?;
        }
        while sent - stored >= WINDOW || (sent == records && stored < records) {
            let answer = answers.next().await.context("the connection was closed")?;
            let ack: serde_json::Value = serde_json::from_slice(&answer.payload)?;
            stored = ack["seq"].as_u64().with_context(|| format!("a message was refused: {ack}"))?;
        }
        if sent.is_multiple_of(4096) {
            say(&format!("at {sent}"))?;
        }
    }
    ensure!(stored == records, "{stored} of {records} messages are stored");
    done()
}
