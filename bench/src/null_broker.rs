//! A broker that does nothing: it says yes to each CONNECT and SUBSCRIBE and acknowledges each PUBLISH at once. What
//! the load generator gets from it is the limit of the machine's loopback and of the generator itself.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Room that is read into at once.
const INPUT_BYTES: usize = 64 << 10;

pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut out) = (Vec::with_capacity(INPUT_BYTES), Vec::new());
    loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        let mut at = 0;
        while let Some(size) = packet_size(&input[at..]) {
            reply(&input[at..at + size], &mut out);
            at += size;
        }
        input.drain(..at);
        input.reserve(INPUT_BYTES);
        stream.write_all(&out).await?;
        out.clear();
    }
}

/// The size of the first packet, if it is whole.
fn packet_size(bytes: &[u8]) -> Option<usize> {
    let (mut length, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 || at > 4 {
            return (bytes.len() >= at + length).then_some(at + length);
        }
    }
}

/// MQTT 3.1.1 alone.
fn reply(packet: &[u8], out: &mut Vec<u8>) {
    let body = 1 + packet.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let pair = |at: usize| [packet.get(at).copied().unwrap_or(0), packet.get(at + 1).copied().unwrap_or(0)];
    match packet[0] >> 4 {
        1 => out.extend_from_slice(&[0x20, 2, 0, 0]),
        3 => {
            let qos = (packet[0] >> 1) & 3;
            let [high, low] = pair(body + 2 + usize::from(u16::from_be_bytes(pair(body))));
            match qos {
                1 => out.extend_from_slice(&[0x40, 2, high, low]),
                2 => out.extend_from_slice(&[0x50, 2, high, low]),
                _ => {}
            }
        }
        6 => {
            let [high, low] = pair(body);
            out.extend_from_slice(&[0x70, 2, high, low]);
        }
        8 => {
            let [high, low] = pair(body);
            out.extend_from_slice(&[0x90, 3, high, low, 1]);
        }
        12 => out.extend_from_slice(&[0xd0, 0]),
        _ => {}
    }
}
