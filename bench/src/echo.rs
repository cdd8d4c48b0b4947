//! What loopback gives: a server that sends back what comes, and clients that keep as many packets on the way as the
//! publishers of the scenarios do. No MQTT is read; what is left is the kernel's work and the runtime's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Room that is read into at once, on both sides.
const INPUT_BYTES: usize = 64 << 10;
/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            let mut bytes = vec![0; INPUT_BYTES];
            loop {
                match stream.read(&mut bytes).await? {
                    0 => return Ok::<_, io::Error>(()),
                    count => stream.write_all(bytes.get(..count).unwrap_or_default()).await?,
                }
            }
        });
    }
}

/// Packets a second that come back.
pub(crate) async fn rate(
    server: SocketAddr,
    clients: usize,
    window: usize,
    packet_bytes: usize,
    time: Duration,
) -> io::Result<f64> {
    let mut streams = Vec::with_capacity(clients);
    for _ in 0..clients {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let start = Instant::now();
    let mut running = JoinSet::new();
    for stream in streams {
        running.spawn(exchange(stream, window, packet_bytes, start + time));
    }
    let mut bytes = 0;
    while let Some(done) = running.join_next().await {
        bytes += done.map_err(io::Error::other)??;
    }
    Ok(bytes as f64 / packet_bytes as f64 / start.elapsed().as_secs_f64())
}

/// Whole packets are sent again as they come back, so that the window stays full.
async fn exchange(
    mut stream: TcpStream,
    window: usize,
    packet_bytes: usize,
    end: Instant,
) -> io::Result<u64> {
    let packets = vec![b'x'; window * packet_bytes];
    let mut input = vec![0; INPUT_BYTES];
    stream.write_all(&packets).await?;
    let (mut back, mut again) = (0, 0);
    while Instant::now() < end {
        let count = match timeout(ANSWER_MAX, stream.read(&mut input)).await?? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => count,
        };
        back += count as u64;
        let whole = back / packet_bytes as u64 - again;
        again += whole;
        let bytes = usize::try_from(whole).unwrap_or(window).min(window) * packet_bytes;
        stream.write_all(packets.get(..bytes).unwrap_or_default()).await?;
    }
    Ok(back)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = listener.local_addr().expect("its address");
        tokio::spawn(serve(listener));
        let rate = rate(server, 3, 20, 256, Duration::from_millis(50)).await.expect("a rate");
        assert!(rate >= 3.0 * 20.0, "{rate}");
    }
}
