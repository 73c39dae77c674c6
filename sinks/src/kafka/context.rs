//! What the sink's clients do with events that come beside the answers.

use rdkafka::client::ClientContext;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

/// The context of clients that need nothing else.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        trace_event(&error, reason);
    }
}

impl ConsumerContext for Quiet {}

/// The crate would log each of these as an error, even the end of a partition, which a reader waits for. Whoever polls
/// or asks gets them as the answer and knows which of them matter, so here they are but a trace.
pub(super) fn trace_event(error: &KafkaError, reason: &str) {
    tracing::debug!(target: "librdkafka", %error, reason, "client event");
}
