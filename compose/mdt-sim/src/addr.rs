//! Where a server listens and a client connects: a TCP address on loopback or a Unix socket.
//! It must never open a port that other machines can reach: the simulated MDT obeys whoever asks.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// An address: `127.0.0.1:7000` or `unix:/path/to/socket`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Addr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Addr {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let invalid = |why: String| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("address `{text}`: {why}; give HOST:PORT or unix:/PATH"),
            )
        };
        let mut found = text.to_socket_addrs().map_err(|e| invalid(e.to_string()))?;
        found.next().map(Self::Tcp).ok_or_else(|| invalid("no such host".to_owned()))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Addr {
    /// Connects.
    ///
    /// # Errors
    /// Those of the system, with the address named.
    pub fn connect(&self) -> io::Result<Stream> {
        let stream = match self {
            Self::Tcp(addr) => TcpStream::connect(addr).and_then(|s| {
                s.set_nodelay(true)?;
                Ok(Stream::Tcp(s))
            }),
            Self::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
        };
        stream.map_err(|e| io::Error::new(e.kind(), format!("connect to mdt-sim at {self}: {e}")))
    }

    /// Listens. An old socket file at a Unix path is replaced.
    ///
    /// # Errors
    /// Those of the system, and `InvalidInput` for a TCP address that is not loopback.
    pub fn listen(&self) -> io::Result<Listener> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("listen at {self}: {e}"));
        match self {
            Self::Tcp(addr) if !addr.ip().is_loopback() => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("listen at {self}: only loopback addresses are allowed"),
            )),
            Self::Tcp(addr) => TcpListener::bind(addr).map(Listener::Tcp).map_err(named),
            Self::Unix(path) => {
                // A file left by a killed server would make bind fail for ever; a live one still answers.
                if path.exists() {
                    if UnixStream::connect(path).is_ok() {
                        return Err(named(io::Error::from(io::ErrorKind::AddrInUse)));
                    }
                    std::fs::remove_file(path).map_err(named)?;
                }
                UnixListener::bind(path).map(|l| Listener::Unix(l, path.clone())).map_err(named)
            }
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix, with its path.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// Those of the system.
    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(l) => {
                let (s, _) = l.accept()?;
                s.set_nodelay(true)?;
                Ok(Stream::Tcp(s))
            }
            Self::Unix(l, _) => Ok(Stream::Unix(l.accept()?.0)),
        }
    }

    /// The address that clients use, with the port that was really taken.
    ///
    /// # Errors
    /// Those of the system.
    pub fn addr(&self) -> io::Result<Addr> {
        match self {
            Self::Tcp(l) => l.local_addr().map(Addr::Tcp),
            Self::Unix(_, path) => Ok(Addr::Unix(path.clone())),
        }
    }

    /// The socket file to remove at the end, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, path) => Some(path),
        }
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Stream {
    /// How long a read may block; `None` for ever.
    ///
    /// # Errors
    /// Those of the system; a timeout of zero is refused.
    pub fn set_read_timeout(&self, wait: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_read_timeout(wait),
            Self::Unix(s) => s.set_read_timeout(wait),
        }
    }

    /// A second handle to the same connection.
    ///
    /// # Errors
    /// Those of the system.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(s) => s.try_clone().map(Self::Tcp),
            Self::Unix(s) => s.try_clone().map(Self::Unix),
        }
    }

    /// Ends the connection in both directions, also for other handles.
    pub fn shutdown(&self) {
        // A connection that is already gone is what the caller wants.
        let _ = match self {
            Self::Tcp(s) => s.shutdown(std::net::Shutdown::Both),
            Self::Unix(s) => s.shutdown(std::net::Shutdown::Both),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buf),
            Self::Unix(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write(buf),
            Self::Unix(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
