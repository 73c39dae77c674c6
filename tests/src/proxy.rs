//! A proxy between the bridge and a cluster: what passes can be held up, as by a network that drops everything, or cut.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// What passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Traffic {
    /// Everything.
    Passes = 0,
    /// Nothing; connections stand, and new ones are taken and stay silent.
    Held = 1,
    /// Nothing; connections are closed, and new ones at once.
    Cut = 2,
    /// Everything, each piece late by `LATE`.
    Slow = 3,
}

/// How late a slow network is in each direction.
const LATE: Duration = Duration::from_millis(250);

/// A running proxy; its threads end with the process.
pub struct Proxy {
    bootstrap: String,
    traffic: Arc<AtomicU8>,
}

impl Proxy {
    /// Listens at the first port of each pair `PORT:BROKER'S PORT` of a list with commas.
    pub fn start(ports: &str) -> Self {
        let traffic = Arc::new(AtomicU8::new(Traffic::Passes as u8));
        let mut bootstrap = Vec::new();
        for pair in ports.split(',') {
            let (ours, theirs) = pair.split_once(':').unwrap();
            let listener = TcpListener::bind(format!("127.0.0.1:{ours}")).unwrap();
            bootstrap.push(format!("127.0.0.1:{ours}"));
            let (target, traffic) = (format!("127.0.0.1:{theirs}"), traffic.clone());
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let (target, traffic) = (target.clone(), traffic.clone());
                    // A thread that ends has closed its connection: nobody waits for it.
                    std::thread::spawn(move || serve(client, &target, &traffic));
                }
            });
        }
        Self { bootstrap: bootstrap.join(","), traffic }
    }

    /// The brokers, by this proxy.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// What passes from now on.
    pub fn let_pass(&self, traffic: Traffic) {
        self.traffic.store(traffic as u8, Ordering::SeqCst);
    }
}

fn is(traffic: &AtomicU8, what: Traffic) -> bool {
    traffic.load(Ordering::SeqCst) == what as u8
}

fn serve(client: TcpStream, target: &str, traffic: &Arc<AtomicU8>) {
    while is(traffic, Traffic::Held) {
        std::thread::sleep(Duration::from_millis(10));
    }
    if is(traffic, Traffic::Cut) {
        return;
    }
    // A dead broker: the client sees its connection closed, as it should.
    let Ok(broker) = TcpStream::connect(target) else { return };
    let (Ok(from_client), Ok(from_broker)) = (client.try_clone(), broker.try_clone()) else { return };
    let there = traffic.clone();
    let up = std::thread::spawn(move || pump(from_client, broker, &there));
    pump(from_broker, client, traffic);
    let _ = up.join();
}

/// Passes on what comes until either side ends or the traffic is cut; both ends are closed then.
fn pump(mut from: TcpStream, mut to: TcpStream, traffic: &AtomicU8) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(50)));
    let mut bytes = vec![0; 64 << 10];
    while !is(traffic, Traffic::Cut) {
        if is(traffic, Traffic::Held) {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            // What was read while the traffic stopped is kept until it goes on.
            Ok(n) => {
                if is(traffic, Traffic::Slow) {
                    std::thread::sleep(LATE);
                }
                while is(traffic, Traffic::Held) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                if is(traffic, Traffic::Cut) || to.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
