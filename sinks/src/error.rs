//! What can go wrong at a broker, sorted by what the caller has to do about it.

use thiserror::Error;

/// Why a broker operation failed. Every variant names what, where and what to do.
#[derive(Debug, Error)]
pub enum SinkError {
    /// Another writer has taken over this MDT (Kafka: `transactional.id` fenced). Do not start again by oneself.
    #[error("{what}: fenced by another bridge{}", owner.as_ref().map(|o| format!(" ({o})")).unwrap_or_default())]
    Fenced {
        /// The operation and the topic or MDT it was for.
        what: String,
        /// The new owner, where State tells.
        owner: Option<String>,
    },
    /// The broker cannot be reached or answered with a passing error: start again later, nothing is decided.
    #[error("{what}: {why} (will be tried again)")]
    Unavailable {
        /// The operation and the topic, group or broker it was for.
        what: String,
        /// The broker's own words.
        why: String,
    },
    /// What the broker holds contradicts what was expected: topic recreated, a limit too small,
    /// a foreign record. An operator has to look; nothing may be published or cleared.
    #[error("{what}: {why}; {hint}")]
    Mismatch {
        /// The topic, group or setting.
        what: String,
        /// What was expected and what is there.
        why: String,
        /// What to do: a command or a setting.
        hint: String,
    },
    /// Rights are missing.
    #[error("{what}: not authorised: {why}; grant the rights listed in the broker's page below docs/brokers")]
    Unauthorised {
        /// The operation and its object.
        what: String,
        /// The broker's own words.
        why: String,
    },
}

/// Why a publisher did not take a call.
#[derive(Debug, Error)]
pub enum Refused {
    /// Buffers are full or a commit is under way: `poll` and call again with the same message.
    #[error("the broker client's buffers are full")]
    Full,
    /// This publisher is dead; start the MDT's pipeline again.
    #[error(transparent)]
    Dead(#[from] SinkError),
}
