//! How fast the simulated MDT serves: a reader over the socket that discards, with the bridge's way of reading (a
//! large buffer, reopened where it ended). Prints one JSON object: the median of several runs over TCP and over the
//! Unix socket, and the rate at which records are logged.

use std::time::{Duration, Instant};

use mdt_sim::addr::Addr;
use mdt_sim::client::{Changelog, flags};
use mdt_sim::control::client::Control;
use mdt_sim::mdt::MdtConfig;
use mdt_sim::server::{Config, Server, UserSpec};
use mdt_sim::workload::Plan;

const MDT: &str = "lustre-MDT0000";
const RUNS: usize = 5;

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Records a second, from the oldest to the newest.
fn read_all(addr: &Addr, records: u64) -> std::io::Result<f64> {
    let mut buf = vec![0; 1 << 20];
    let start = Instant::now();
    let mut reader = Changelog::open(addr, MDT, flags::READ | flags::NID_BE)?;
    let mut bytes = 0u64;
    loop {
        match reader.read(&mut buf, Duration::from_secs(60))? {
            0 => break,
            n => bytes += n as u64,
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    if bytes < records * 64 {
        return Err(std::io::Error::other(format!("{bytes} bytes are too few for {records} records")));
    }
    Ok(records as f64 / seconds)
}

fn main() -> anyhow::Result<()> {
    let records: u64 = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 1_000_000,
    };
    let dir = std::env::temp_dir().join(format!("sim-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let unix = format!("unix:{}", dir.join("data").display()).parse()?;
    let server = Server::start(&Config {
        mdts: vec![MdtConfig { commit_interval: Duration::ZERO, ..MdtConfig::new(MDT, &dir) }],
        listen: vec!["127.0.0.1:0".parse()?, unix],
        control: vec!["127.0.0.1:0".parse()?],
        register: vec![UserSpec { name: None, mask: None }],
    })?;
    let filled = Control::connect(&server.control_addrs()[0])?.emit(Plan::fill(records, 1), true)?;
    let seconds = filled["seconds"].as_f64().unwrap_or(f64::NAN);
    let logged = filled["count"].as_u64().unwrap_or(0);
    let mut rates = Vec::new();
    for addr in server.data_addrs() {
        let runs = (0..RUNS).map(|_| read_all(addr, logged)).collect::<Result<Vec<_>, _>>()?;
        rates.push(median(runs));
    }
    println!(
        "{}",
        serde_json::json!({
            "sim.records_per_s": rates[0].round(),
            "sim.unix_records_per_s": rates[1].round(),
            "sim.emit_records_per_s": (logged as f64 / seconds).round(),
        })
    );
    server.stop()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
