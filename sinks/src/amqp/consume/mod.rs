//! The other side: members of groups, and ephemeral readers.
//!
//! A member answers what is done, waits until the broker has confirmed the answer, and only then acknowledges: who dies
//! in between gets the record again and answers twice, which does no harm; the other way round nobody would ever answer.

mod ephemeral;
mod member;

use clbridge_schemas::avro::{Head, Retracts};
use clbridge_schemas::ids::RecordId;
use lapin::message::Delivery;
use lapin::types::AMQPValue;

use super::label::{Span, split};
use super::publish::MANY;
use super::topology::KEY_HEADER;
use crate::error::SinkError;
use crate::retraction::{RETRACTS_HEADER, read_header};
use crate::topic::Position;
use crate::traits::Consumed;
pub(super) use ephemeral::Ephemeral;
pub(super) use member::Member;

fn header<'a>(d: &'a Delivery, name: &str) -> Option<&'a [u8]> {
    match d.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// The records of a message, and what an answer to it names.
fn records(topic: &str, d: &Delivery) -> Result<Vec<Consumed>, SinkError> {
    let wrong = |why: String| SinkError::Mismatch {
        what: format!("a message in the queue of {topic}"),
        why,
        hint: "another program publishes there: end it, and take its messages out of the queue".to_owned(),
    };
    let id = d.properties.message_id().as_ref().map(|id| id.as_str()).unwrap_or_default();
    let (_, span) = split(id).ok_or_else(|| wrong(format!("its message_id \"{id}\" is not one of clbridge's")))?;
    if d.properties.content_type().as_ref().is_some_and(|t| t.as_str() == MANY) {
        return unpack(&d.data)
            .into_iter()
            .map(|payload| {
                let at = payload.and_then(|p| {
                    let head = Head::decode(p).ok()?;
                    let id = RecordId::new(head.incarnation, std::num::NonZeroU64::new(head.index)?);
                    Some((Span::of(id, false).position()?, p))
                });
                let (at, payload) = at.ok_or_else(|| wrong(format!("message {id} cannot be unpacked")))?;
                Ok(Consumed { topic: topic.to_owned(), at, key: None, payload: payload.to_vec(), retracts: None })
            })
            .collect();
    }
    let at: Position = span.position().ok_or_else(|| wrong(format!("message {id} names no record")))?;
    let retracts: Option<Retracts> = header(d, RETRACTS_HEADER)
        .map(|text| {
            read_header(text).ok_or_else(|| wrong(format!("message {id} has no understandable {RETRACTS_HEADER}")))
        })
        .transpose()?;
    Ok(vec![Consumed {
        topic: topic.to_owned(),
        at,
        key: header(d, KEY_HEADER).map(<[u8]>::to_vec),
        payload: d.data.clone(),
        retracts,
    }])
}

/// The records of a packed body; `None` in place of what is cut off.
fn unpack(mut body: &[u8]) -> Vec<Option<&[u8]>> {
    let mut all = Vec::new();
    while !body.is_empty() {
        let next =
            body.split_first_chunk::<4>().and_then(|(n, rest)| rest.split_at_checked(u32::from_be_bytes(*n) as usize));
        all.push(next.map(|(record, _)| record));
        body = next.map_or(&[], |(_, rest)| rest);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_body_gives_its_records_and_tells_where_it_is_cut_off() {
        let body = [0, 0, 0, 2, 7, 8, 0, 0, 0, 1, 9];
        assert_eq!(unpack(&body), [Some(&[7, 8][..]), Some(&[9][..])]);
        assert_eq!(unpack(&body[..10]), [Some(&[7, 8][..]), None]);
        assert_eq!(unpack(&[]), Vec::<Option<&[u8]>>::new());
    }
}
