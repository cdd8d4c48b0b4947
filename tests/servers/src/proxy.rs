//! A way between a client and a server that can be cut, held up and made slow.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that pass at once.
const PIECE_BYTES: usize = 16 * 1024;

/// What the way does to those who use it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weather {
    /// How often all connections were cut.
    cuts: u64,
    /// New connections are closed at once.
    closed: bool,
    /// Nothing passes, and nobody is told.
    held: bool,
    /// How late each piece arrives.
    delay: Duration,
}

/// A TCP proxy on the loopback interface. It ends with the runtime that it was started in.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
}

impl Proxy {
    /// A proxy in front of `server`.
    ///
    /// # Panics
    /// Where no port is free.
    pub async fn before(server: SocketAddr) -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"), server).await
    }

    /// A proxy at `address` in front of `server`, for servers that tell clients where to come.
    ///
    /// # Panics
    /// Where the address is in use.
    pub async fn at(address: SocketAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (weather, seen) = watch::channel(Weather::default());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !seen.borrow().closed {
                    tokio::spawn(connection(client, server, seen.clone()));
                }
            }
        });
        Self { address, weather }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection that there is, wherever its bytes are; new ones are welcome.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Cuts every connection and takes no new one until [`Proxy::open`].
    pub fn close(&self) {
        self.weather.send_modify(|weather| (weather.cuts, weather.closed) = (weather.cuts + 1, true));
    }

    /// Takes connections again, and lets pass what was held.
    pub fn open(&self) {
        self.weather.send_modify(|weather| (weather.closed, weather.held) = (false, false));
    }

    /// Lets nothing pass, and tells nobody, until [`Proxy::open`]: a cable that was pulled.
    pub fn hold(&self) {
        self.weather.send_modify(|weather| weather.held = true);
    }

    /// Makes each piece arrive `delay` late.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }
}

async fn connection(client: TcpStream, server: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let cuts = weather.borrow().cuts;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = pass(from_client, to_server, weather.clone());
    let down = pass(from_server, to_client, weather.clone());
    tokio::select! {
        ((), ()) = async { tokio::join!(up, down) } => {}
        // The sender is gone with the proxy; then nobody cuts any more, and the connection ends with the runtime.
        _ = weather.wait_for(|weather| weather.cuts > cuts) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        drop(weather.wait_for(|weather| !weather.held).await);
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}
