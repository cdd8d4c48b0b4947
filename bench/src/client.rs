//! One connection: a socket, and a buffer from which packets are read where they lie. It must never know of scenarios.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::codec::{self, Packet, Version};

/// Room in a buffer when a connection begins: ten thousand idle ones take 5 MB.
const INPUT_BYTES_FIRST: usize = 512;
/// Room that a busy connection reads into at once.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Bytes that came and were not taken yet.
#[derive(Debug)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    taken: usize,
    version: Version,
}

impl Input {
    fn new(version: Version) -> Self {
        Self { bytes: Vec::with_capacity(INPUT_BYTES_FIRST), taken: 0, version }
    }

    /// Waits for more bytes. May be dropped while it waits.
    pub(crate) async fn fill(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        self.make_room();
        match stream.read_buf(&mut self.bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Takes what has come already; whether anything had.
    pub(crate) fn fill_now(&mut self, stream: &TcpStream) -> io::Result<bool> {
        self.make_room();
        match stream.try_read_buf(&mut self.bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn make_room(&mut self) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if self.bytes.len() == self.bytes.capacity() {
            self.bytes.reserve(self.bytes.len().clamp(INPUT_BYTES_FIRST, INPUT_BYTES_MAX));
        }
    }

    /// The next packet, if all of it is here.
    pub(crate) fn next(&mut self) -> io::Result<Option<Packet<'_>>> {
        let next = codec::next(&self.bytes[self.taken..], self.version);
        let next = next.map_err(|malformed| io::Error::new(io::ErrorKind::InvalidData, malformed))?;
        Ok(next.map(|(packet, size)| {
            self.taken += size;
            packet
        }))
    }
}

/// Where a broker is, and how clients introduce themselves.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) broker: SocketAddr,
    pub(crate) version: Version,
    pub(crate) username: Option<String>,
    /// Never printed.
    pub(crate) password: Option<String>,
}

impl Target {
    pub(crate) fn new(broker: SocketAddr, version: Version) -> Self {
        Self { broker, version, username: None, password: None }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("broker", &self.broker).finish_non_exhaustive()
    }
}

/// Why a connection could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    Refused,
    Reset,
    TimedOut,
    /// By CONNACK or SUBACK.
    SaidNo,
    Other,
}

impl Failure {
    pub(crate) const ALL: [Self; 5] = [Self::Refused, Self::Reset, Self::TimedOut, Self::SaidNo, Self::Other];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "attempts refused by the system",
            Self::Reset => "attempts cut off",
            Self::TimedOut => "attempts without an answer",
            Self::SaidNo => "attempts that the broker said no to",
            Self::Other => "attempts that failed otherwise",
        }
    }

    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Self::Reset,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::PermissionDenied => Self::SaidNo,
            _ => Self::Other,
        }
    }
}

/// A client that was let in.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) input: Input,
    pub(crate) version: Version,
}

impl Connection {
    /// Connects, and waits for the broker's word, so long at most.
    pub(crate) async fn open(
        target: &Target,
        client_id: &str,
        clean: bool,
        time_max: Duration,
    ) -> io::Result<Self> {
        timeout(time_max, Self::introduce(target, client_id, clean)).await?
    }

    async fn introduce(target: &Target, client_id: &str, clean: bool) -> io::Result<Self> {
        let mut stream = TcpStream::connect(target.broker).await?;
        stream.set_nodelay(true)?;
        let mut out = Vec::with_capacity(64);
        let credentials = (target.username.as_deref(), target.password.as_deref());
        codec::connect(&mut out, target.version, client_id, clean, credentials);
        stream.write_all(&out).await?;
        let mut connection = Self { stream, input: Input::new(target.version), version: target.version };
        connection.answer(|packet| matches!(packet, Packet::ConnAck { code: 0 })).await?;
        Ok(connection)
    }

    /// Subscribes, and waits until the broker has done it.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<()> {
        let mut out = Vec::with_capacity(64);
        codec::subscribe(&mut out, self.version, filter, qos);
        self.stream.write_all(&out).await?;
        self.answer(|packet| matches!(packet, Packet::SubAck { code: 0..=2 })).await
    }

    async fn answer(&mut self, good: impl Fn(&Packet<'_>) -> bool) -> io::Result<()> {
        loop {
            if let Some(packet) = self.input.next()? {
                let no = || {
                    let text = format!("the broker answered {packet:?}");
                    io::Error::new(io::ErrorKind::PermissionDenied, text)
                };
                return if good(&packet) { Ok(()) } else { Err(no()) };
            }
            self.input.fill(&mut self.stream).await?;
        }
    }

    /// Leaves as MQTT wants it.
    pub(crate) fn close(self) {
        // The run is over: whether the broker hears it is all the same, and one that does not read is not waited for.
        let _told = self.stream.try_write(&codec::DISCONNECT);
    }
}
