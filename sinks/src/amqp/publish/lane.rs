//! One topic as its writer sees it, and the records that wait there to be packed into one message.

use std::sync::Arc;

use clbridge_schemas::ids::RecordId;
use lapin::types::ShortString;

use crate::amqp::label::Span;
use crate::amqp::life::Routes;
use crate::topic::{Position, TopicIx};
use crate::traits::Message;

/// Every so many records one is reported with its place.
const SAMPLE: u64 = 256;
/// A packed message is not made larger than this, bytes.
const PACKED_BYTES: usize = 1 << 20;

/// Where a record lies.
pub(super) type Place = (TopicIx, Position, RecordId);

/// The content of a message that has not gone out.
#[derive(Default)]
pub(super) struct Pack {
    pub(super) body: Vec<u8>,
    /// Records, and their bytes with their keys'.
    pub(super) carries: (u64, u64),
    pub(super) span: Option<Span>,
    pub(super) places: Vec<Place>,
    pub(super) time_ns: i64,
}

impl Pack {
    /// A message of its own for one record.
    pub(super) fn of(m: &Message<'_>, bytes: u64, place: Option<Place>) -> Self {
        let places = place.into_iter().collect();
        Self { body: m.payload.to_vec(), carries: (1, bytes), span: None, places, time_ns: m.time_ns }
    }

    /// One more record, behind its length.
    pub(super) fn add(&mut self, m: &Message<'_>, span: Span, bytes: u64, place: Option<Place>) {
        self.body.extend_from_slice(&(m.payload.len() as u32).to_be_bytes());
        self.body.extend_from_slice(m.payload);
        self.carries.0 += 1;
        self.carries.1 += bytes;
        self.time_ns = m.time_ns;
        self.places.extend(place);
        self.span = Some(self.span.and_then(|s| s.join(span)).unwrap_or(span));
    }

    /// No more fits than these: `most` records, or what a message may have of bytes.
    pub(super) fn is_full(&self, most: u64) -> bool {
        self.carries.0 >= most || self.body.len() >= PACKED_BYTES
    }
}

/// See the module.
pub(super) struct Lane {
    /// The last index that was published or is settled otherwise: what lies between it and the next record was dropped.
    before: u64,
    pub(super) routes: Arc<Routes>,
    pub(super) pack: Pack,
    published: u64,
    /// The next record begins a batch.
    fresh: bool,
    /// What was published last, and whether its place is to be reported.
    last: Option<(Place, bool)>,
    /// Position of the last record: a retraction stands before one that State's frontier does not tell of yet.
    pub(super) tail: Option<u64>,
    pub(super) reply_to: ShortString,
    pub(super) mdt: String,
}

impl Lane {
    /// A topic of this MDT in which everything up to `before` is settled.
    pub(super) fn new(mdt: String, reply_to: ShortString, before: u64) -> Self {
        let (routes, pack) = (Arc::default(), Pack::default());
        Self { before, routes, pack, published: 0, fresh: true, last: None, tail: None, reply_to, mdt }
    }

    /// Everything from this index on was taken back.
    pub(super) fn retracted(&mut self, from: u64) {
        self.before = from - 1;
    }

    /// A record or retraction is published at `place`. What an answer to it settles, and the place if it is to be
    /// reported.
    pub(super) fn note(&mut self, place: Place, retraction: bool) -> (Span, Option<Place>) {
        let (_, at, id) = place;
        let index = id.index.get();
        let span = if retraction {
            Span::of(id, true)
        } else {
            let before = std::mem::replace(&mut self.before, index);
            Span { from: (before + 1).min(index), ..Span::of(id, false) }
        };
        let sampled = self.fresh || self.published.is_multiple_of(SAMPLE);
        (self.fresh, self.published, self.last) = (false, self.published + 1, Some((place, sampled)));
        if !retraction {
            self.tail = Some(at.offset);
        }
        (span, sampled.then_some(place))
    }

    /// A batch ends: the place of its last record, if it was not reported yet.
    pub(super) fn seal(&mut self) -> Option<Place> {
        self.fresh = true;
        let (place, sampled) = self.last.as_mut()?;
        (!std::mem::replace(sampled, true)).then_some(*place)
    }
}
