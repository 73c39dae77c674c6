//! The server: MDTs, the sockets that serve them, and the control socket.
//! It listens on loopback and Unix sockets only, and a connection's trouble never reaches another.

mod connection;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::addr::{Addr, Listener, Stream};
use crate::control;
use crate::mdt::{Mdt, MdtConfig};
use crate::workload::Jobs;

/// A user to register when an MDT is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSpec {
    /// The name of `clN-NAME`.
    pub name: Option<String>,
    /// The user's own mask.
    pub mask: Option<u32>,
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The MDTs.
    pub mdts: Vec<MdtConfig>,
    /// Where devices are served.
    pub listen: Vec<Addr>,
    /// Where commands are taken.
    pub control: Vec<Addr>,
    /// Registered on each MDT that is new, in this order: `cl1`, `cl2` …
    pub register: Vec<UserSpec>,
}

/// What every thread of a server shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mdts: BTreeMap<String, Arc<Mdt>>,
    pub(crate) jobs: Jobs,
    connections: Mutex<BTreeMap<u64, (String, Stream)>>,
    next_connection: AtomicU64,
    stopping: AtomicBool,
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, (String, Stream)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a connection so that it can be cut; returns its number.
    pub(crate) fn enter(&self, stream: &Stream) -> io::Result<u64> {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        self.connections().insert(id, (String::new(), stream.try_clone()?));
        Ok(id)
    }

    pub(crate) fn opened(&self, id: u64, mdt: &str) {
        if let Some(entry) = self.connections().get_mut(&id) {
            mdt.clone_into(&mut entry.0);
        }
    }

    pub(crate) fn leave(&self, id: u64) {
        self.connections().remove(&id);
    }

    /// Cuts the connections that have this MDT open, or all that have any; returns how many.
    pub(crate) fn disconnect(&self, mdt: Option<&str>) -> u64 {
        let mut cut = 0;
        for (open, stream) in self.connections().values() {
            if !open.is_empty() && mdt.is_none_or(|m| m == open) {
                stream.shutdown();
                cut += 1;
            }
        }
        cut
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    data: Vec<Addr>,
    control: Vec<Addr>,
    paths: Vec<std::path::PathBuf>,
    acceptors: Vec<JoinHandle<()>>,
    commits: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the MDTs and begins to serve.
    ///
    /// # Errors
    /// Those of disk and network, damaged journals, addresses that are not loopback.
    pub fn start(config: &Config) -> io::Result<Self> {
        let mut mdts = BTreeMap::new();
        for mdt_config in &config.mdts {
            let mdt = Mdt::open(mdt_config)?;
            if mdt.users().is_empty() && mdt.stats().last_index == 0 {
                for user in &config.register {
                    mdt.register(user.name.as_deref(), user.mask)?.map_err(|e| {
                        io::Error::new(
                            io::ErrorKind::InvalidInput,
                            format!("register {user:?} on {}: {}", mdt.name(), io::Error::from_raw_os_error(e.0)),
                        )
                    })?;
                }
            }
            if mdts.insert(mdt_config.name.clone(), mdt).is_some() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} is listed twice", mdt_config.name),
                ));
            }
        }
        let shared = Arc::new(Shared {
            mdts,
            jobs: Jobs::default(),
            connections: Mutex::new(BTreeMap::new()),
            next_connection: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
        });
        let mut server = Self {
            shared: Arc::clone(&shared),
            data: Vec::new(),
            control: Vec::new(),
            paths: Vec::new(),
            acceptors: Vec::new(),
            commits: Vec::new(),
        };
        for mdt in shared.mdts.values() {
            let mdt = Arc::clone(mdt);
            server.commits.push(spawn("commit", move || mdt.run_commits())?);
        }
        for addr in &config.listen {
            let bound = server.accept(addr, "data", connection::serve)?;
            server.data.push(bound);
        }
        for addr in &config.control {
            let bound = server.accept(addr, "control", control::serve)?;
            server.control.push(bound);
        }
        Ok(server)
    }

    fn accept(
        &mut self,
        addr: &Addr,
        what: &'static str,
        serve: fn(&Arc<Shared>, Stream) -> io::Result<()>,
    ) -> io::Result<Addr> {
        let listener = addr.listen()?;
        let bound = listener.addr()?;
        self.paths.extend(listener.path().map(std::path::Path::to_owned));
        let shared = Arc::clone(&self.shared);
        self.acceptors.push(spawn("accept", move || accept_loop(&shared, &listener, what, serve))?);
        Ok(bound)
    }

    /// Where devices are served, with the ports that were really taken.
    #[must_use]
    pub fn data_addrs(&self) -> &[Addr] {
        &self.data
    }

    /// Where commands are taken.
    #[must_use]
    pub fn control_addrs(&self) -> &[Addr] {
        &self.control
    }

    /// An MDT by its device name.
    #[must_use]
    pub fn mdt(&self, name: &str) -> Option<&Arc<Mdt>> {
        self.shared.mdts.get(name)
    }

    /// All MDTs.
    pub fn mdts(&self) -> impl Iterator<Item = &Arc<Mdt>> {
        self.shared.mdts.values()
    }

    /// The workloads that run on this server.
    #[must_use]
    pub fn jobs(&self) -> &Jobs {
        &self.shared.jobs
    }

    /// Ends workloads and connections, commits, and lets go of the sockets.
    ///
    /// # Errors
    /// Those of the last commits.
    pub fn stop(mut self) -> io::Result<()> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> io::Result<()> {
        if self.shared.stopping.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.shared.jobs.stop();
        let mut result = Ok(());
        for mdt in self.shared.mdts.values() {
            result = result.and(mdt.stop());
        }
        self.shared.jobs.join();
        for addr in self.data.iter().chain(&self.control) {
            // Wakes the accept loop, which then sees that it is over.
            drop(addr.connect());
        }
        for thread in self.acceptors.drain(..).chain(self.commits.drain(..)) {
            if thread.join().is_err() {
                result = result.and(Err(io::Error::other("a thread of mdt-sim panicked; see its message above")));
            }
        }
        for (_, stream) in self.shared.connections().values() {
            stream.shutdown();
        }
        for path in &self.paths {
            // Somebody may have tidied up already.
            let _ = std::fs::remove_file(path);
        }
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(e) = self.shut_down() {
            tracing::error!(error = %e, "mdt-sim did not stop cleanly");
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("mdt-sim-{name}")).spawn(body)
}

fn accept_loop(
    shared: &Arc<Shared>,
    listener: &Listener,
    what: &'static str,
    serve: fn(&Arc<Shared>, Stream) -> io::Result<()>,
) {
    while !shared.stopping() {
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "accept failed");
                // Out of descriptors, most likely: trying again at once would only burn a core.
                std::thread::sleep(std::time::Duration::from_millis(50));
                continue;
            }
        };
        if shared.stopping() {
            break;
        }
        let shared = Arc::clone(shared);
        let started = spawn(what, move || {
            if let Err(e) = serve(&shared, stream) {
                tracing::debug!(error = %e, what, "connection ended");
            }
        });
        if let Err(e) = started {
            tracing::warn!(error = %e, "no thread for a connection");
        }
    }
}
