//! The ceiling: loops that do nothing but hand ready payloads to librdkafka, in the fastest way known.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::child::{done, ready, say};
use crate::kafka::{IN_FLIGHT, OVERHEAD, producer};
use crate::native::{Batch, Producer};
use crate::payloads::{Message, Payloads};
use crate::setup::{PARTITIONS, SEAL_BYTES, SEAL_MS};

/// Messages that are handed over in one call.
const HAND_OVER: usize = 256;
/// The parent is told every so many messages.
const TELL: usize = 8192;

/// A producer and what is on its way.
struct Loop<'a> {
    producer: Producer,
    batches: Vec<Batch<'a>>,
    /// Messages handed over and not reported, and their bytes.
    outstanding: (u64, usize),
}

impl<'a> Loop<'a> {
    fn serve(&mut self, wait_ms: i32) -> Result<()> {
        let (count, bytes) = self.producer.serve(wait_ms)?;
        self.outstanding.0 -= count;
        self.outstanding.1 -= bytes;
        Ok(())
    }

    fn push(&mut self, m: &Message<'a>) -> Result<()> {
        let batch = &mut self.batches[m.partition as usize];
        batch.push(m.key, m.payload);
        self.outstanding.0 += 1;
        self.outstanding.1 += m.key.len() + m.payload.len();
        if batch.len() >= HAND_OVER {
            self.producer.produce(batch)?;
        }
        Ok(())
    }

    fn hand_over_all(&mut self) -> Result<()> {
        self.batches.iter_mut().filter(|b| b.len() > 0).try_for_each(|b| self.producer.produce(b))
    }

    fn commit(&mut self) -> Result<()> {
        self.hand_over_all()?;
        while self.outstanding.0 > 0 {
            self.producer.hurry();
            self.serve(1)?;
        }
        self.producer.commit()
    }
}

/// Publishes `records` payloads in transactions that are sealed as the bridge seals its own.
pub fn rate(sim: &str, records: usize, brokers: &str, topic: &str, id: &str) -> Result<()> {
    let payloads = Payloads::read(sim, records)?;
    let producer = Producer::new(&producer(brokers, Some(id)), topic)?;
    producer.init_transactions()?;
    let mut l = Loop { producer, batches: Batch::each(PARTITIONS), outstanding: (0, 0) };
    ready()?;
    let mut open: Option<(usize, Instant)> = None;
    for (n, m) in payloads.iter().enumerate() {
        if open.is_none() {
            l.producer.begin()?;
        }
        let (sealed, since) = open.get_or_insert_with(|| (0, Instant::now()));
        *sealed += m.key.len() + m.payload.len();
        let (full, since) = (*sealed >= SEAL_BYTES, *since);
        l.push(&m)?;
        if n % 1024 == 1023 {
            l.serve(0)?;
            while l.outstanding.1 + l.outstanding.0 as usize * OVERHEAD > IN_FLIGHT {
                l.serve(1)?;
            }
            if n % TELL == TELL - 1 {
                say(&format!("at {n}"))?;
            }
        }
        if full || (n % 256 == 255 && since.elapsed() >= Duration::from_millis(SEAL_MS)) {
            l.commit()?;
            open = None;
        }
    }
    if open.is_some() {
        l.commit()?;
    }
    done()
}

/// Publishes at a rate, idempotently, with the time of emission in the first 8 bytes of each payload.
pub fn paced(sim: &str, brokers: &str, topic: &str, rate: u64, seconds: u64) -> Result<()> {
    let payloads = Payloads::read(sim, 10_000)?;
    let mut next = payloads.iter().cycle();
    let producer = Producer::new(&producer(brokers, None), topic)?;
    let mut stamped: VecDeque<Vec<u8>> = VecDeque::new();
    let mut outstanding = 0;
    ready()?;
    let began = Instant::now();
    let mut sent = 0;
    while sent < rate * seconds {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        let mut tick = Vec::new();
        while sent < due.min(rate * seconds) {
            let Some(m) = next.next() else { break };
            let mut payload = stamped.pop_front().unwrap_or_default();
            payload.clear();
            payload.extend_from_slice(m.payload);
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as i64;
            payload[..8].copy_from_slice(&now.to_le_bytes());
            tick.push((m.partition, m.key, payload));
            sent += 1;
        }
        let mut batches = Batch::each(PARTITIONS);
        for (partition, key, payload) in &tick {
            batches[*partition as usize].push(key, payload);
        }
        outstanding += tick.len() as u64;
        batches.iter_mut().filter(|b| b.len() > 0).try_for_each(|b| producer.produce(b))?;
        stamped.extend(tick.into_iter().map(|(_, _, payload)| payload));
        outstanding -= producer.serve(0)?.0;
        std::thread::sleep(Duration::from_millis(1));
    }
    while outstanding > 0 {
        outstanding -= producer.serve(10)?.0;
    }
    done()
}
