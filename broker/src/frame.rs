//! Packets out of a byte stream, with a buffer that is as small as the client is quiet.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use crate::codec::{self, DecodeError, Frame, Split};

/// What is read at a time of a client that says little.
const READ_BYTES_MIN: usize = 1 << 10;

/// Most that is reserved ahead, whatever length a packet claims to have.
const READ_BYTES_STEP: usize = 64 << 10;

/// Why there is no next packet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the client closed the connection")]
    Closed,
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Reads frames from a socket.
pub(crate) struct FrameReader<R> {
    source: R,
    buffer: BytesMut,
    packet_bytes_max: usize,
    /// Nothing but CONNECT may come.
    is_first: bool,
    /// What the next read makes room for: more while the client keeps filling it, less when it falls quiet.
    step: usize,
    /// Bytes read since this was last asked for.
    received_bytes: u64,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(source: R, packet_bytes_max: usize) -> Self {
        Self {
            source,
            buffer: BytesMut::new(),
            packet_bytes_max,
            is_first: true,
            step: READ_BYTES_MIN,
            received_bytes: 0,
        }
    }

    /// The next whole packet. May be dropped at any time without losing a byte.
    pub(crate) async fn next(&mut self) -> Result<Frame, ReadError> {
        loop {
            let needs = match self.split()? {
                Split::Frame(frame) => return Ok(frame),
                Split::Needs(bytes) => bytes,
            };
            let (count, room) = if self.buffer.is_empty() && self.step == READ_BYTES_MIN {
                (self.read_little().await?, READ_BYTES_MIN)
            } else {
                self.buffer.reserve(needs.clamp(self.step, READ_BYTES_STEP));
                let room = self.buffer.capacity() - self.buffer.len();
                (self.source.read_buf(&mut self.buffer).await?, room)
            };
            if count == 0 {
                return Err(ReadError::Closed);
            }
            self.received_bytes += count as u64;
            self.step = if count == room { self.step * 2 } else { self.step / 2 };
            self.step = self.step.clamp(READ_BYTES_MIN, READ_BYTES_STEP);
        }
    }

    /// The next packet, if the whole of it was read with one before; or why there is none, as [`Self::next`] says it.
    pub(crate) fn buffered(&mut self) -> Option<Result<Frame, ReadError>> {
        match self.split() {
            Ok(Split::Frame(frame)) => Some(Ok(frame)),
            Ok(Split::Needs(_)) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    fn split(&mut self) -> Result<Split, DecodeError> {
        if self.is_first && self.buffer.first().is_some_and(|first| first >> 4 != codec::CONNECT) {
            return Err(DecodeError::Protocol("the first packet is not CONNECT"));
        }
        let split = codec::split(&mut self.buffer, self.packet_bytes_max)?;
        if matches!(split, Split::Frame(_)) {
            self.is_first = false;
            if self.buffer.is_empty() {
                // What was read belongs to the frame now; nothing is kept for the next.
                self.buffer = BytesMut::new();
            }
        }
        Ok(split)
    }

    /// Reads into the stack, so that a client holds no buffer while it says nothing; the first bytes are copied.
    async fn read_little(&mut self) -> io::Result<usize> {
        poll_fn(|context| {
            let mut little = [const { MaybeUninit::uninit() }; READ_BYTES_MIN];
            let mut little = ReadBuf::uninit(&mut little);
            ready!(Pin::new(&mut self.source).poll_read(context, &mut little))?;
            self.buffer.extend_from_slice(little.filled());
            Ok(little.filled().len()).into()
        })
        .await
    }

    /// How many bytes were read since the last call.
    pub(crate) fn take_received_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.received_bytes)
    }

    /// Gives back the source; bytes that were read ahead are lost.
    pub(crate) fn into_source(self) -> R {
        self.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a";
    const PINGREQ: &[u8] = &[0xC0, 0];

    async fn after_connect(rest: &[u8]) -> FrameReader<io::Cursor<Vec<u8>>> {
        let mut reader = FrameReader::new(io::Cursor::new([CONNECT, rest].concat()), 1 << 10);
        assert_eq!(reader.next().await.unwrap().first, 0x10);
        reader
    }

    #[tokio::test]
    async fn what_was_read_together_is_at_hand_and_a_part_waits_for_its_rest() {
        let mut reader = after_connect(&[PINGREQ, PINGREQ, &[0x40, 2, 0]].concat()).await;
        for _ in 0..2 {
            assert_eq!(reader.buffered().unwrap().unwrap().first, 0xC0);
        }
        assert!(reader.buffered().is_none());
        reader.source = io::Cursor::new([&[7], PINGREQ].concat());
        let ack = reader.next().await.unwrap();
        assert_eq!((ack.first, &ack.body[..]), (0x40, &[0, 7][..]));
        assert_eq!(reader.buffered().unwrap().unwrap().first, 0xC0);
        assert!(reader.buffered().is_none());
        assert_eq!(reader.take_received_bytes(), (CONNECT.len() + 3 * PINGREQ.len() + 4) as u64);
    }

    #[tokio::test]
    async fn what_is_wrong_behind_a_packet_is_said_where_it_is_found() {
        let mut reader = after_connect(&[PINGREQ, &[0xF1, 0]].concat()).await;
        assert!(reader.buffered().unwrap().is_ok());
        assert!(matches!(reader.buffered(), Some(Err(ReadError::Decode(DecodeError::Malformed(_))))));
        let mut first = FrameReader::new(PINGREQ, 1 << 10);
        assert!(first.buffered().is_none());
        assert!(matches!(first.next().await, Err(ReadError::Decode(DecodeError::Protocol(_)))));
        assert!(matches!(first.buffered(), Some(Err(ReadError::Decode(DecodeError::Protocol(_))))));
    }
}
