//! One connection: a socket, and a buffer from which packets are read where they lie. It must never know of scenarios.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

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
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if self.bytes.len() == self.bytes.capacity() {
            self.bytes.reserve(self.bytes.len().clamp(INPUT_BYTES_FIRST, INPUT_BYTES_MAX));
        }
        match stream.read_buf(&mut self.bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
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

/// A client that was let in.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) input: Input,
    pub(crate) version: Version,
}

impl Connection {
    /// Connects, and waits for the broker's word.
    pub(crate) async fn open(
        broker: SocketAddr,
        version: Version,
        client_id: &str,
        clean: bool,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(broker).await?;
        stream.set_nodelay(true)?;
        let mut out = Vec::with_capacity(64);
        codec::connect(&mut out, version, client_id, clean);
        stream.write_all(&out).await?;
        let mut connection = Self { stream, input: Input::new(version), version };
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
                let no = || io::Error::other(format!("the broker answered {packet:?}"));
                return if good(&packet) { Ok(()) } else { Err(no()) };
            }
            self.input.fill(&mut self.stream).await?;
        }
    }

    /// Leaves as MQTT wants it.
    pub(crate) async fn close(mut self) {
        // The run is over: whether the broker hears it is all the same.
        let _told = self.stream.write_all(&codec::DISCONNECT).await;
    }
}
