//! The four sinks, as tests see them: what differs in configuration, names and strength, and nothing else.

/// `sink.amqp.most_repeated` in these tests.
const AMQP_MOST_REPEATED: u64 = 5000;

/// A sink, and its mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sink {
    /// Kafka, transactional.
    #[default]
    Kafka,
    /// Kafka, idempotent.
    KafkaIdempotent,
    /// NATS JetStream.
    Nats,
    /// AMQP 0.9.1.
    Amqp,
    /// Files.
    Files,
}

impl Sink {
    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::KafkaIdempotent => "kafka-idempotent",
            Self::Nats => "nats",
            Self::Amqp => "amqp",
            Self::Files => "files",
        }
    }

    /// What `tests/up`, the members and the configuration call it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Kafka | Self::KafkaIdempotent => "kafka",
            other => other.name(),
        }
    }

    /// The variable of `tests/up` with the server's address; files have no server.
    pub fn variable(self) -> Option<&'static str> {
        match self {
            Self::Kafka | Self::KafkaIdempotent => Some("KAFKA_BOOTSTRAP"),
            Self::Nats => Some("NATS_URL"),
            Self::Amqp => Some("AMQP_URL"),
            Self::Files => None,
        }
    }

    /// The sink's table of the configuration, at this address, with names that begin with `name` on it.
    pub fn table(self, at: &str, name: &str) -> String {
        match self {
            Self::Kafka | Self::KafkaIdempotent => {
                let delivery = if self == Self::Kafka { "transactional" } else { "idempotent" };
                format!(
                    r#"[sink.kafka]
bootstrap_servers = "{at}"
topic_prefix = "{name}"
state_prefix = "clbridge.state.{name}."
registry_topic = "clbridge.groups.{name}"
schema_topic = "clbridge.schemas.{name}"
delivery = "{delivery}"
"#
                )
            }
            Self::Nats => {
                format!("[sink.nats]\nservers = \"{at}\"\nprefix = \"{name}\"\nown_prefix = \"own-{name}\"\n")
            }
            Self::Amqp => format!(
                r#"[sink.amqp]
uri = "{at}"
prefix = "{name}"
own_prefix = "own-{name}"
most_repeated = {AMQP_MOST_REPEATED}
"#
            ),
            Self::Files => format!("[sink.files]\ndir = \"{at}\"\nprefix = \"{name}\"\nown_prefix = \"own-{name}\"\n"),
        }
    }

    /// The topic of an MDT's records in a feed (empty: the default one), as members name it.
    pub fn topic(self, name: &str, mdt: &str, feed: &str) -> String {
        let dot = if self == Self::Nats { '_' } else { '.' };
        match feed {
            "" => format!("{name}{dot}{mdt}"),
            feed => format!("{name}{dot}{mdt}{dot}{feed}"),
        }
    }

    /// Where a group that is made before the first record begins: the one place that every sink knows.
    pub fn first_position(self) -> &'static str {
        // AMQP keeps nothing that a group could begin at.
        if self == Self::Amqp { "newest" } else { "oldest" }
    }

    /// Records a second that the members of two groups keep up with beside everything else on a small machine, where
    /// Kafka's do with `kafka`.
    pub fn rate(self, kafka: u64) -> u64 {
        match self {
            Self::Kafka | Self::KafkaIdempotent | Self::Files => kafka,
            Self::Nats => kafka.min(2000),
            Self::Amqp => kafka.min(1000),
        }
    }

    /// Records of an MDT that one start may publish again, behind a retraction, where no MDT crashed; `None`: any number.
    /// On AMQP nobody can read back what was published since State was last written, and configuration bounds it.
    pub fn most_repeated(self) -> Option<u64> {
        Some(if self == Self::Amqp { AMQP_MOST_REPEATED } else { 0 })
    }

    /// Of the places for tests at once, those that a run takes: two of Kafka's are all that a small machine bears.
    pub fn places(self) -> usize {
        match self {
            Self::Kafka | Self::KafkaIdempotent => 2,
            Self::Nats | Self::Amqp | Self::Files => 1,
        }
    }

    /// Records on their way that count as much: most of what the sink ever has there.
    pub fn much(self) -> u64 {
        match self {
            Self::Kafka | Self::KafkaIdempotent => 1000,
            Self::Nats | Self::Files => 100,
            // At its rate, with nothing else on the machine, a confirm takes some ten milliseconds.
            Self::Amqp => 20,
        }
    }
}
