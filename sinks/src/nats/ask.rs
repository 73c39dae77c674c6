//! The few questions that everything here is made of: a stream, a consumer, a message, a value in a bucket. They are
//! answered by the stream's leader, so what is not there is not there.

use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{DeleteStatus, RawMessage};
use async_nats::jetstream::{ErrorCode, consumer, message::StreamMessage, publish::PublishAck, stream};
use async_nats::{HeaderMap, Request, RequestErrorKind, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::link::{Link, Refusal, What, refused};
use crate::error::SinkError;

/// Which message of a stream.
#[derive(Serialize)]
pub(super) enum Which<'a> {
    /// At this sequence.
    #[serde(rename = "seq")]
    At(u64),
    /// The last one with this subject.
    #[serde(rename = "last_by_subj")]
    Last(&'a str),
}

#[derive(Deserialize)]
struct Got {
    message: RawMessage,
}

#[derive(Deserialize)]
struct Page<T> {
    total: usize,
    #[serde(alias = "streams", alias = "consumers")]
    items: Option<Vec<T>>,
}

impl Link {
    /// A stream as it is now; `None` if there is none of this name.
    pub(super) async fn stream(&self, name: &str) -> Result<Option<stream::Info>, SinkError> {
        let what = || format!("asking for stream {name}");
        missing(what, self.ask(&what, &format!("STREAM.INFO.{name}"), &json!({})).await?, ErrorCode::STREAM_NOT_FOUND)
    }

    /// Creates a stream; false beside it if somebody else was quicker.
    pub(super) async fn create_stream(&self, config: &stream::Config) -> Result<(stream::Info, bool), SinkError> {
        let name = &config.name;
        let what = || format!("creating stream {name}");
        match self.ask(&what, &format!("STREAM.CREATE.{name}"), config).await? {
            Ok(info) => Ok((info, true)),
            Err(e) if e.error_code() == ErrorCode::STREAM_NAME_EXIST => match self.stream(name).await? {
                Some(info) => Ok((info, false)),
                None => Err(refused(what(), &e)),
            },
            Err(e) => Err(refused(what(), &e)),
        }
    }

    /// Deletes a stream with its consumers; false if there is none of this name.
    pub(super) async fn delete_stream(&self, name: &str) -> Result<bool, SinkError> {
        let what = || format!("deleting stream {name}");
        let answer: Result<DeleteStatus, _> = self.ask(&what, &format!("STREAM.DELETE.{name}"), &json!({})).await?;
        Ok(missing(what, answer, ErrorCode::STREAM_NOT_FOUND)?.is_some())
    }

    /// The names of all streams that hold subjects of this filter.
    pub(super) async fn stream_names(&self, filter: &str) -> Result<Vec<String>, SinkError> {
        self.pages("STREAM.NAMES", json!({ "subject": filter })).await
    }

    /// All consumers of a stream.
    pub(super) async fn consumers(&self, stream: &str) -> Result<Vec<consumer::Info>, SinkError> {
        self.pages(&format!("CONSUMER.LIST.{stream}"), json!({})).await
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        subject: &str,
        mut body: serde_json::Value,
    ) -> Result<Vec<T>, SinkError> {
        let what = || format!("asking {subject}");
        let mut all = Vec::new();
        loop {
            body["offset"] = all.len().into();
            let Some(page) = missing(what, self.ask(&what, subject, &body).await?, ErrorCode::STREAM_NOT_FOUND)? else {
                return Ok(all);
            };
            let page: Page<T> = page;
            let items = page.items.unwrap_or_default();
            let last = items.is_empty();
            all.extend(items);
            if last || all.len() >= page.total {
                return Ok(all);
            }
        }
    }

    /// A consumer as it is now; `None` if there is none.
    pub(super) async fn consumer(&self, stream: &str, name: &str) -> Result<Option<consumer::Info>, SinkError> {
        let what = || format!("asking for consumer {name} of {stream}");
        let answer = self.ask(&what, &format!("CONSUMER.INFO.{stream}.{name}"), &json!({})).await?;
        match answer {
            Err(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            answer => missing(what, answer, ErrorCode::CONSUMER_NOT_FOUND),
        }
    }

    /// A message; `None` if there is none, or no such stream.
    pub(super) async fn message(&self, stream: &str, which: &Which<'_>) -> Result<Option<StreamMessage>, SinkError> {
        self.get(stream, &serde_json::to_value(which).unwrap_or_default()).await
    }

    /// The first message at or behind `sequence` whose subject matches.
    pub(super) async fn next_message(
        &self,
        stream: &str,
        sequence: u64,
        filter: &str,
    ) -> Result<Option<StreamMessage>, SinkError> {
        self.get(stream, &json!({ "seq": sequence.max(1), "next_by_subj": filter })).await
    }

    async fn get(&self, stream: &str, which: &serde_json::Value) -> Result<Option<StreamMessage>, SinkError> {
        let what = || format!("reading a message of {stream}");
        let answer: Result<Got, _> = self.ask(&what, &format!("STREAM.MSG.GET.{stream}"), which).await?;
        let got = match answer {
            Err(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => None,
            answer => missing(what, answer, ErrorCode::NO_MESSAGE_FOUND)?,
        };
        let read = got.map(|got| StreamMessage::try_from(got.message)).transpose();
        read.map_err(|e| SinkError::Unavailable { what: what(), why: e.to_string() })
    }

    /// A value, `None` if there is none, and the revision of what was last written there, 0 if nothing ever was.
    pub(super) async fn value(&self, bucket: &str, key: &str) -> Result<(Option<Bytes>, u64), SinkError> {
        let subject = value_subject(bucket, key);
        let found = self.message(&bucket_stream(bucket), &Which::Last(&subject)).await?;
        // What the tools delete leaves a message without a value.
        Ok(found.map_or((None, 0), |m| (Some(m.payload).filter(|p| !p.is_empty()), m.sequence)))
    }

    /// Writes a value, with `revision` only if nothing was written behind that one (0: if there is none). Returns its
    /// own revision; `None` if somebody else wrote.
    pub(super) async fn put(
        &self,
        bucket: &str,
        key: &str,
        value: Vec<u8>,
        revision: Option<u64>,
    ) -> Result<Option<u64>, SinkError> {
        let headers = revision.map(|revision| {
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
            headers
        });
        let what = || format!("writing {key} to bucket {bucket}");
        let ack = self.publish(&what, value_subject(bucket, key), headers, value.into()).await?;
        match ack {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(e) if e.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE => Ok(None),
            Err(e) => Err(refused(what(), &e)),
        }
    }

    /// Publishes one message and waits until it is stored.
    pub(super) async fn publish(
        &self,
        what: What<'_>,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Result<PublishAck, Refusal>, SinkError> {
        let mut request = Request::new().payload(payload);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let answer = self.client.send_request(subject, request).await;
        let answer = answer.map_err(|e| self.unanswered(what(), &e, e.kind() == RequestErrorKind::TimedOut))?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok(ack)) => Ok(Ok(ack)),
            Ok(Response::Err { error }) => Ok(Err(error)),
            Err(e) => {
                Err(SinkError::Unavailable { what: what(), why: format!("the answer cannot be understood: {e}") })
            }
        }
    }
}

fn missing<T>(what: impl Fn() -> String, answer: Result<T, Refusal>, code: ErrorCode) -> Result<Option<T>, SinkError> {
    match answer {
        Ok(t) => Ok(Some(t)),
        Err(e) if e.error_code() == code => Ok(None),
        Err(e) => Err(refused(what(), &e)),
    }
}

/// The stream behind a bucket.
pub(super) fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The subject of a value.
pub(super) fn value_subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}
