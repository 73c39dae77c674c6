//! Reading records at given places: no group, nothing committed, many partitions at once.
//!
//! A log has holes (control records, aborted transactions), so an offset is never assumed to hold a record.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};

use super::config::KafkaConfig;
use super::context::Quiet;
use super::native::{Found, NativeError, Place, Where, positions};
use super::{Shared, client_error, moves, sort, sort_kafka};
use crate::error::SinkError;
use crate::record;
use crate::retraction::RETRACTS_HEADER;
use crate::topic::{Position, Stored, Topic};

/// A part of a partition: offsets `from..until`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) partition: u32,
    pub(super) from: u64,
    pub(super) until: u64,
}

/// A record as it lies there.
pub(super) struct Raw<'a> {
    pub(super) at: Position,
    pub(super) payload: &'a [u8],
    /// Value of the header that a retraction has.
    pub(super) retracts: Option<&'a [u8]>,
}

/// The same, kept.
#[derive(Clone)]
struct Kept {
    at: Position,
    payload: Vec<u8>,
    retracts: Option<Vec<u8>>,
}

impl Kept {
    fn of(raw: &Raw<'_>) -> Self {
        Self { at: raw.at, payload: raw.payload.to_vec(), retracts: raw.retracts.map(<[u8]>::to_vec) }
    }

    fn raw(&self) -> Raw<'_> {
        Raw { at: self.at, payload: &self.payload, retracts: self.retracts.as_deref() }
    }
}

/// Whether more of a partition is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Go {
    /// The next record, please.
    On,
    /// Enough of this partition.
    Enough,
}

/// A client that reads assigned partitions.
pub(super) struct Reader {
    consumer: BaseConsumer<Quiet>,
    patience: Duration,
}

impl Reader {
    pub(super) fn new(config: &KafkaConfig) -> Result<Self, SinkError> {
        Ok(Self {
            consumer: config.reader(true)?.create_with_context(Quiet).map_err(|e| client_error(config, &e))?,
            patience: config.request_timeout(),
        })
    }

    /// Reads all spans of one topic at once, in order within each.
    pub(super) fn scan(
        &self,
        topic: &str,
        spans: &[Span],
        each: &mut dyn FnMut(Raw<'_>) -> Result<Go, SinkError>,
    ) -> Result<(), SinkError> {
        let what = || format!("reading {topic}");
        let mut open: Vec<Span> = spans.iter().copied().filter(|s| s.from < s.until).collect();
        if open.is_empty() {
            return Ok(());
        }
        let places: Vec<(Place, u64)> = open.iter().map(|s| ((topic.to_owned(), s.partition), s.from)).collect();
        let list = positions(&places).map_err(|e| sort(what(), &e))?;
        self.consumer.assign(&list).map_err(|e| sort_kafka(what(), e))?;
        let result = self.take(topic, &mut open, each);
        // Else it would go on fetching.
        self.consumer.unassign().map_err(|e| sort_kafka(what(), e))?;
        result
    }

    fn take(
        &self,
        topic: &str,
        open: &mut Vec<Span>,
        each: &mut dyn FnMut(Raw<'_>) -> Result<Go, SinkError>,
    ) -> Result<(), SinkError> {
        let what = || format!("reading {topic}");
        let mut last_news = Instant::now();
        let mut last_error = None;
        while !open.is_empty() {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(m)) => {
                    last_news = Instant::now();
                    let at = Position { partition: m.partition() as u32, offset: m.offset() as u64 };
                    let Some(i) = open.iter().position(|s| s.partition == at.partition) else {
                        continue;
                    };
                    let go = if at.offset < open[i].until {
                        each(Raw { at, payload: m.payload().unwrap_or_default(), retracts: retracts_header(&m) })?
                    } else {
                        Go::Enough
                    };
                    if go == Go::Enough || at.offset + 1 >= open[i].until {
                        open.swap_remove(i);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    last_news = Instant::now();
                    open.retain(|s| i64::from(s.partition) != i64::from(partition));
                }
                Some(Err(KafkaError::MessageConsumption(
                    code @ (RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::Resolve
                    | RDKafkaErrorCode::OperationTimedOut),
                ))) => last_error = Some(code),
                Some(Err(e)) => return Err(sort_kafka(what(), e)),
                None => {}
            }
            if last_news.elapsed() > self.patience {
                return Err(SinkError::Unavailable {
                    what: what(),
                    why: format!(
                        "no answer in {} s{}",
                        self.patience.as_secs(),
                        last_error.map(|c| format!(" ({c})")).unwrap_or_default()
                    ),
                });
            }
        }
        Ok(())
    }
}

/// The value of the header that says what a retraction makes void.
pub(super) fn retracts_header<'m>(m: &'m BorrowedMessage<'_>) -> Option<&'m [u8]> {
    m.headers()?.iter().find(|h| h.key == RETRACTS_HEADER)?.value
}

/// Where a record lies, in words.
pub(super) fn place(topic: &str, at: Position) -> String {
    format!("{topic} partition {} offset {}", at.partition, at.offset)
}

/// Understands a record of ours.
pub(super) fn stored(topic: &Topic, raw: &Raw<'_>) -> Result<Stored, SinkError> {
    record::stored(topic, raw.at, &place(&topic.name, raw.at), raw.payload, raw.retracts)
}

/// An answer in which a partition's leader was moving is none: it is asked again.
pub(super) fn settled_leaders(found: Found) -> Result<Found, NativeError> {
    match found.iter().find_map(|(_, offset)| offset.as_ref().err().filter(|e| moves(e.code))) {
        Some(e) => Err(e.clone()),
        None => Ok(found),
    }
}

/// What the first step back from the end covers, and how much further each step goes.
const FIRST_STEP: u64 = 1;
const WIDER: u64 = 16;

impl Shared {
    /// Runs `f` with the common reader, or with a new one while that is lent.
    pub(super) fn with_reader<T>(&self, f: impl FnOnce(&Reader) -> Result<T, SinkError>) -> Result<T, SinkError> {
        let lent = self.reader.lock().unwrap_or_else(|e| e.into_inner()).take();
        let reader = match lent {
            Some(r) => r,
            None => Reader::new(&self.config)?,
        };
        let result = f(&reader);
        // One that met an error may still have its old assignment.
        if result.is_ok() {
            *self.reader.lock().unwrap_or_else(|e| e.into_inner()) = Some(reader);
        }
        result
    }

    /// One offset for each partition, from 0.
    pub(super) fn offsets(&self, topic: &str, partitions: u32, at: Where) -> Result<Vec<u64>, SinkError> {
        let what = || format!("asking for the offsets of {topic}");
        let places: Vec<Place> = (0..partitions).map(|p| (topic.to_owned(), p)).collect();
        let mut found = vec![None; partitions as usize];
        for ((_, partition), offset) in self.ask(what, |a| settled_leaders(a.list_offsets(&places, at)?))? {
            let offset = offset.map_err(|e| sort(what(), &e))?;
            if let (Some(slot), Ok(offset)) = (found.get_mut(partition as usize), u64::try_from(offset)) {
                *slot = Some(offset);
            }
        }
        found
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| SinkError::Unavailable { what: what(), why: "the broker left a partition out".to_owned() })
    }

    pub(super) fn lows(&self, topic: &Topic) -> Result<Vec<u64>, SinkError> {
        self.offsets(&topic.name, topic.partitions, Where::Low)
    }

    pub(super) fn ends(&self, topic: &Topic) -> Result<Vec<u64>, SinkError> {
        self.offsets(&topic.name, topic.partitions, Where::End)
    }

    /// The last record of each partition below `ends`, as `keep` makes it of what lies there.
    pub(super) fn last_records<T>(
        &self,
        topic: &str,
        lows: &[u64],
        ends: &[u64],
        keep: &mut dyn FnMut(&Raw<'_>) -> Result<T, SinkError>,
    ) -> Result<Vec<Option<T>>, SinkError> {
        self.with_reader(|reader| {
            let mut found: Vec<Option<Kept>> = vec![None; ends.len()];
            let mut step = FIRST_STEP;
            loop {
                // What was looked through before need not be read again.
                let seen = step / WIDER;
                let spans: Vec<Span> = (0..ends.len())
                    .filter(|p| found[*p].is_none())
                    .map(|p| Span {
                        partition: p as u32,
                        from: ends[p].saturating_sub(step).max(lows[p]),
                        until: ends[p].saturating_sub(seen).max(lows[p]),
                    })
                    .filter(|s| s.from < s.until)
                    .collect();
                if spans.is_empty() {
                    break;
                }
                reader.scan(topic, &spans, &mut |raw| {
                    found[raw.at.partition as usize] = Some(Kept::of(&raw));
                    Ok(Go::On)
                })?;
                step = step.saturating_mul(WIDER);
            }
            found.into_iter().map(|f| f.map(|kept| keep(&kept.raw())).transpose()).collect()
        })
    }

    pub(super) fn read_at(&self, topic: &Topic, at: &[Position]) -> Result<Vec<Option<Stored>>, SinkError> {
        let (lows, ends) = (self.lows(topic)?, self.ends(topic)?);
        let mut answers: Vec<Option<Stored>> = vec![None; at.len()];
        self.answer(topic, at, &lows, &ends, &mut answers)?;
        // "Nothing there" must not be said of records that are committed and whose transaction's end is only on its
        // way to the partition.
        let in_doubt = |i: usize| {
            let p = at[i].partition as usize;
            answers[i].is_none() && ends.get(p).is_some_and(|end| at[i].offset < *end)
        };
        if (0..at.len()).any(in_doubt) {
            self.settle(&topic.name, &ends)?;
            self.answer(topic, at, &lows, &ends, &mut answers)?;
        }
        Ok(answers)
    }

    /// Fills in what can be read now of the answers that are missing.
    fn answer(
        &self,
        topic: &Topic,
        at: &[Position],
        lows: &[u64],
        ends: &[u64],
        answers: &mut [Option<Stored>],
    ) -> Result<(), SinkError> {
        let mut todo: Vec<usize> = (0..at.len()).filter(|i| answers[*i].is_none()).collect();
        self.with_reader(|reader| {
            while !todo.is_empty() {
                // A partition can be assigned once at a time: one question a partition and round.
                let mut spans: Vec<Span> = Vec::new();
                let mut asked = vec![None; ends.len()];
                todo.retain(|i| {
                    let p = at[*i].partition as usize;
                    match asked.get_mut(p) {
                        Some(slot @ None) => {
                            *slot = Some(*i);
                            spans.push(Span { partition: p as u32, from: at[*i].offset.max(lows[p]), until: ends[p] });
                            false
                        }
                        // A partition that does not exist has no record.
                        None => false,
                        Some(Some(_)) => true,
                    }
                });
                reader.scan(&topic.name, &spans, &mut |raw| {
                    if let Some(i) = asked[raw.at.partition as usize] {
                        answers[i] = Some(stored(topic, &raw)?);
                    }
                    Ok(Go::Enough)
                })?;
            }
            Ok(())
        })
    }

    /// Streams to `each` until it says false.
    pub(super) fn read_back(
        &self,
        topic: &Topic,
        incarnation: u32,
        above: u64,
        each: &mut dyn FnMut(Stored) -> bool,
    ) -> Result<(), SinkError> {
        let lows = self.lows(topic)?;
        let ends = self.settled(&topic.name, topic.partitions)?;
        let old = |s: &Stored| s.head.id().incarnation <= incarnation && s.head.id().index.get() <= above;
        self.with_reader(|reader| {
            // Within a partition records rise, so all before an old one are old.
            let mut from: Vec<Option<u64>> = vec![None; ends.len()];
            let mut step = FIRST_BACK;
            while from.iter().any(Option::is_none) {
                let mut spans = Vec::new();
                for p in 0..ends.len() {
                    let start = ends[p].saturating_sub(step).max(lows[p]);
                    if from[p].is_none() && start == lows[p] {
                        from[p] = Some(start);
                    } else if from[p].is_none() {
                        spans.push(Span { partition: p as u32, from: start, until: ends[p] });
                    }
                }
                reader.scan(&topic.name, &spans, &mut |raw| {
                    if old(&stored(topic, &raw)?) {
                        from[raw.at.partition as usize] = Some(raw.at.offset);
                    }
                    Ok(Go::Enough)
                })?;
                step = step.saturating_mul(WIDER);
            }
            let spans: Vec<Span> = (0..ends.len())
                .map(|p| Span { partition: p as u32, from: from[p].unwrap_or(lows[p]), until: ends[p] })
                .collect();
            let mut wanted = true;
            reader.scan(&topic.name, &spans, &mut |raw| {
                wanted = wanted && each(stored(topic, &raw)?);
                Ok(if wanted { Go::On } else { Go::Enough })
            })
        })
    }
}

/// How far the search for the start of a read-back first goes back, offsets.
const FIRST_BACK: u64 = 1024;
