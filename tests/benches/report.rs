//! Figures by key, their medians, the table and the file.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::kafka::{COMPRESSION, LINGER_MS};
use crate::setup::{Bench, PARTITIONS};

/// What a figure has to reach.
enum Bar {
    Least(f64),
    Above(f64),
    Most(f64),
    Under(f64),
}

const BARS: [(&str, Bar); 12] = [
    ("codec.over_apache_avro", Bar::Least(7.0)),
    ("sim.over_kafka", Bar::Least(3.0)),
    ("kafka.rate_over_bare", Bar::Least(0.85)),
    ("kafka.rate_over_baseproducer", Bar::Above(1.0)),
    ("kafka.cpu_over_bare", Bar::Most(1.35)),
    ("nats.rate_over_bare", Bar::Least(0.8)),
    ("amqp.rate_over_bare", Bar::Least(0.8)),
    ("amqp.packed.rate_over_bare", Bar::Least(0.8)),
    ("files.rate_over_bare", Bar::Least(0.8)),
    ("latency.idempotent.p50_over_bare", Bar::Most(2.0)),
    ("latency.idempotent.p99_over_bare", Bar::Most(2.0)),
    ("idle.cpu_percent", Bar::Under(2.0)),
];

impl Bar {
    fn met(&self, figure: f64) -> bool {
        match self {
            Self::Least(b) => figure >= *b,
            Self::Above(b) => figure > *b,
            Self::Most(b) => figure <= *b,
            Self::Under(b) => figure < *b,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Least(b) => format!("at least {b}"),
            Self::Above(b) => format!("above {b}"),
            Self::Most(b) => format!("at most {b}"),
            Self::Under(b) => format!("under {b}"),
        }
    }
}

/// All figures so far.
#[derive(Default)]
pub struct Report {
    figures: BTreeMap<String, Vec<f64>>,
}

impl Report {
    /// One run's figure.
    pub fn add(&mut self, key: &str, figure: f64) {
        self.figures.entry(key.to_owned()).or_default().push(figure);
    }

    /// Adds figures and shows them, as a run ends.
    pub fn run<K: AsRef<str>>(&mut self, figures: &[(K, f64)]) {
        let shown: Vec<String> =
            figures.iter().map(|(key, figure)| format!("{} {}", key.as_ref(), round(*figure))).collect();
        eprintln!("bench:   {}", shown.join(" · "));
        for (key, figure) in figures {
            self.add(key.as_ref(), *figure);
        }
    }

    /// Prints the table and writes the file.
    pub fn finish(mut self, bench: &Bench) -> Result<()> {
        if let (Some(sim), Some(kafka)) = (self.median("sim.records_per_s"), self.median("kafka.records_per_s")) {
            self.add("sim.over_kafka", sim / kafka);
        }
        println!("{:<40} {:>12}  {:<14} of runs", "figure (median)", "", "bar");
        let mut flat = Map::new();
        let mut missed = 0;
        for (key, figures) in &self.figures {
            let figure = median(figures);
            let bar = BARS.iter().find(|(k, _)| k == key).map(|(_, bar)| bar);
            let verdict =
                bar.map_or(String::new(), |b| if b.met(figure) { b.text() } else { format!("{} MISSED", b.text()) });
            missed += usize::from(bar.is_some_and(|b| !b.met(figure)));
            let all: Vec<String> = figures.iter().map(|f| round(*f).to_string()).collect();
            println!("{key:<40} {:>12}  {verdict:<14} {}", round(figure), all.join(" "));
            flat.insert(key.clone(), round(figure));
        }
        println!(
            "{} runs; {PARTITIONS} partitions, one broker, {} cores; on Kafka both sides: {COMPRESSION}, linger {LINGER_MS} ms; {missed} bars missed",
            bench.runs,
            std::thread::available_parallelism().map_or(1, usize::from)
        );
        let dir = bench.report();
        std::fs::create_dir_all(&dir)?;
        let path = dir.join("bench.json");
        std::fs::write(&path, format!("{:#}\n", Value::Object(flat)))?;
        println!("written to {}", path.display());
        Ok(())
    }

    fn median(&self, key: &str) -> Option<f64> {
        self.figures.get(key).map(|figures| median(figures))
    }
}

/// The middle one; of an even number the mean of the two.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

/// Whole numbers where they are large, else three digits behind the point.
fn round(figure: f64) -> Value {
    if figure.abs() >= 1000.0 { json!(figure.round() as i64) } else { json!((figure * 1000.0).round() / 1000.0) }
}
