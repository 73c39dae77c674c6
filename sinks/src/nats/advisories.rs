//! What the server says of a consumer besides its floor: a message was terminated or delivered too often, and the floor
//! passes it although nobody acknowledged it. A stream keeps that, also while no bridge runs.

use serde::Deserialize;

use super::Shared;
use super::link::Link;
use super::topology::id_of;
use crate::error::SinkError;

#[derive(Deserialize, Default)]
struct Told {
    #[serde(default)]
    stream_seq: u64,
    #[serde(default)]
    reason: String,
}

impl Shared {
    /// When the stream that keeps it was created, and its last sequence; empty if it is gone.
    pub(super) async fn advisories(&self, link: &Link, stream: &str) -> Result<(String, u64), SinkError> {
        let info = link.stream(&self.config.advisory_stream(stream)).await?;
        Ok(info.map_or_else(Default::default, |info| (id_of(&info), info.state.last_sequence)))
    }

    /// The first thing that the server said of a consumer behind `settled`, in words.
    pub(super) async fn said(
        &self,
        link: &Link,
        stream: &str,
        consumer: &str,
        settled: u64,
    ) -> Result<Option<String>, SinkError> {
        let filter = format!("$JS.EVENT.ADVISORY.CONSUMER.*.{stream}.{consumer}");
        let kept = self.config.advisory_stream(stream);
        let Some(message) = link.next_message(&kept, settled + 1, &filter).await? else { return Ok(None) };
        let told: Told = serde_json::from_slice(&message.payload).unwrap_or_default();
        let reason = if told.reason.is_empty() { String::new() } else { format!(" ({})", told.reason) };
        let event = message.subject.split('.').nth(4).unwrap_or_default();
        Ok(Some(match event {
            "MSG_TERMINATED" => {
                format!("a member gave up message {} or it was deleted while a member had it{reason}", told.stream_seq)
            }
            "MAX_DELIVERIES" => format!("message {} was delivered too often and given up", told.stream_seq),
            "DELETED" => "its consumer was deleted".to_owned(),
            other => format!("the server said {other} of message {}", told.stream_seq),
        }))
    }
}
