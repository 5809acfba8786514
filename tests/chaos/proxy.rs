//! A TCP proxy on the loopback interface, for breaking connections in the ways that networks do.
//!
//! No crate does it for real servers: `toxiproxy_rust` controls a separate program in Go, and `turmoil` simulates sockets
//! within one process.

use anyhow::Result;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use xtask::stack::port;

/// The treatment of bytes and of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Connections stay open and are accepted, but no bytes pass: a pulled cable.
    Blackhole,
    Refuse,
}

/// The way to cut connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// With FIN, as if the other side closes.
    Finish,
    /// With RST, as if the other side has lost its state.
    Reset,
}

/// Forwards connections to a port that can change. Dropping it cuts all connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    wires: Arc<Wires>,
    listening: JoinHandle<()>,
}

/// The state that all connections of a proxy share.
#[derive(Debug)]
struct Wires {
    target: AtomicU16,
    mode: watch::Sender<Mode>,
    cuts: broadcast::Sender<Cut>,
}

impl Proxy {
    /// Listens on a free port for connections to `target`.
    pub fn start(target: u16) -> Result<Proxy> {
        let wires = Arc::new(Wires {
            target: AtomicU16::new(target),
            mode: watch::Sender::new(Mode::Pass),
            cuts: broadcast::Sender::new(16),
        });
        let (port, listener) = port::retrying(|port| {
            let listener = runtime().block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))?;
            Ok((port, listener))
        })?;
        let listening = runtime().spawn(listen(listener, wires.clone()));
        Ok(Proxy { port, wires, listening })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends new connections to this port; existing connections stay.
    pub fn retarget(&self, target: u16) {
        self.wires.target.store(target, Ordering::Release);
    }

    /// Ends all connections.
    pub fn cut(&self, how: Cut) {
        // An error means that there are no connections.
        let _ = self.wires.cuts.send(how);
    }

    /// Holds all bytes until [`pass`](Self::pass).
    pub fn blackhole(&self) {
        self.wires.mode.send_replace(Mode::Blackhole);
    }

    /// Ends all connections and refuses new ones until [`pass`](Self::pass).
    pub fn refuse(&self) {
        self.wires.mode.send_replace(Mode::Refuse);
        self.cut(Cut::Reset);
    }

    /// Lets all bytes through, also the held ones.
    pub fn pass(&self) {
        self.wires.mode.send_replace(Mode::Pass);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut(Cut::Reset);
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("proxies").enable_io().build().expect("a runtime")
    })
}

async fn listen(listener: TcpListener, wires: Arc<Wires>) {
    // A failed accept concerns that connection only.
    loop {
        if let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, wires.clone()));
        }
    }
}

async fn serve(mut client: TcpStream, wires: Arc<Wires>) {
    let mut cuts = wires.cuts.subscribe();
    if *wires.mode.borrow() == Mode::Refuse {
        let _ = client.set_zero_linger();
        return;
    }
    let how = tokio::select! {
        how = cuts.recv() => how.ok(),
        // One side has ended the connection, or the target is down.
        _ = forward(&mut client, &wires) => None,
    };
    if how == Some(Cut::Reset) {
        let _ = client.set_zero_linger();
    }
}

async fn forward(client: &mut TcpStream, wires: &Wires) -> io::Result<()> {
    wires.passing().await;
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, wires.target.load(Ordering::Acquire))).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::try_join!(pump(&mut from_client, &mut to_server, wires), pump(&mut from_server, &mut to_client, wires))?;
    Ok(())
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    wires: &Wires,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        // The end of a stream, or an error, does not pass a blackhole either.
        wires.passing().await;
        match read? {
            0 => return to.shutdown().await,
            length => to.write_all(&buffer[..length]).await?,
        }
    }
}

impl Wires {
    async fn passing(&self) {
        // The sender lives as long as `self`, so there is no error.
        let _ = self.mode.subscribe().wait_for(|mode| *mode != Mode::Blackhole).await;
    }
}
