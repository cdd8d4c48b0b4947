//! The PROXY protocol, versions 1 and 2: a load balancer says, before anything else, from where the client really came.
//! Not a byte beyond the header is read. It must never be believed where an operator did not ask for it.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, by the standard, with its end of line.
const TEXT_BYTES_MAX: usize = 107;
/// Most bytes behind the fixed part of version 2: addresses, and what else the balancer wants to tell.
const BODY_BYTES_MAX: usize = 4 << 10;

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the connection ended within the header")]
    Io(#[from] io::Error),
    #[error("there is no header of the PROXY protocol")]
    Missing,
    #[error("the header of the PROXY protocol is wrong: {0}")]
    Wrong(&'static str),
}

/// Where the client is and what it reached, as the balancer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) client: SocketAddr,
    pub(super) reached: SocketAddr,
}

/// Reads the header; nothing where it says that the connection is the balancer's own, or from nowhere that has an
/// address.
pub(super) async fn read(source: &mut (impl AsyncRead + Unpin)) -> Result<Option<Addresses>, ProxyError> {
    let mut start = [0; SIGNATURE.len()];
    let (first, rest) = start.split_at_mut(6);
    source.read_exact(first).await?;
    if first == b"PROXY " {
        return text(source).await;
    }
    // Nothing else has to wait for more bytes than it sent.
    if first != &SIGNATURE[..6] {
        return Err(ProxyError::Missing);
    }
    source.read_exact(rest).await?;
    if start != SIGNATURE {
        return Err(ProxyError::Missing);
    }
    let mut head = [0; 4];
    source.read_exact(&mut head).await?;
    let [version_and_command, family, length @ ..] = head;
    let length = usize::from(u16::from_be_bytes(length));
    if length > BODY_BYTES_MAX {
        return Err(ProxyError::Wrong("it is too long"));
    }
    let mut body = vec![0; length];
    source.read_exact(&mut body).await?;
    binary(version_and_command, family, &body)
}

fn binary(version_and_command: u8, family: u8, body: &[u8]) -> Result<Option<Addresses>, ProxyError> {
    match version_and_command {
        // LOCAL: the balancer looks whether we are here.
        0x20 => return Ok(None),
        0x21 => {}
        0x22..=0x2F => return Err(ProxyError::Wrong("there is no such command")),
        _ => return Err(ProxyError::Wrong("there is no such version")),
    }
    let short = || ProxyError::Wrong("it is too short for its addresses");
    match family {
        // TCP over IPv4.
        0x11 => {
            let (addresses, ports) = body.split_first_chunk::<8>().ok_or_else(short)?;
            let [a, b, c, d, e, f, g, h] = *addresses;
            let (client, reached) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            with_ports(client.into(), reached.into(), ports)
        }
        // TCP over IPv6.
        0x21 => {
            let (client, rest) = body.split_first_chunk::<16>().ok_or_else(short)?;
            let (reached, ports) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            with_ports(Ipv6Addr::from(*client).into(), Ipv6Addr::from(*reached).into(), ports)
        }
        // Unspecified, or sockets of the balancer's machine: by the standard the connection's own addresses count.
        0x00 | 0x31 => Ok(None),
        _ => Err(ProxyError::Wrong("it speaks of something other than TCP")),
    }
}

fn with_ports(client: IpAddr, reached: IpAddr, ports: &[u8]) -> Result<Option<Addresses>, ProxyError> {
    let ports = ports.first_chunk::<4>().ok_or(ProxyError::Wrong("it is too short for its addresses"))?;
    let [a, b, c, d] = *ports;
    Ok(Some(Addresses {
        client: SocketAddr::new(client, u16::from_be_bytes([a, b])),
        reached: SocketAddr::new(reached, u16::from_be_bytes([c, d])),
    }))
}

/// The rest of a header of version 1, byte by byte: what follows it is not ours to read.
async fn text(source: &mut (impl AsyncRead + Unpin)) -> Result<Option<Addresses>, ProxyError> {
    let mut line = Vec::with_capacity(TEXT_BYTES_MAX);
    let rest_bytes_max = TEXT_BYTES_MAX - b"PROXY ".len();
    while !line.ends_with(b"\r\n") {
        if line.len() == rest_bytes_max {
            return Err(ProxyError::Wrong("it is too long"));
        }
        line.push(source.read_u8().await?);
    }
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.ok_or(ProxyError::Wrong("it is no text"))?.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let is_ipv6 = match family {
        Some("TCP4") => false,
        Some("TCP6") => true,
        _ => return Err(ProxyError::Wrong("it speaks of something other than TCP")),
    };
    let address = |word: Option<&str>| {
        let address = word.and_then(|it| it.parse::<IpAddr>().ok()).filter(|it| it.is_ipv6() == is_ipv6);
        address.ok_or(ProxyError::Wrong("there is no such address"))
    };
    let port = |word: Option<&str>| {
        let digits = word.filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|it| it.parse::<u16>().ok()).ok_or(ProxyError::Wrong("there is no such port"))
    };
    let (client, reached) = (address(words.next())?, address(words.next())?);
    let (client_port, reached_port) = (port(words.next())?, port(words.next())?);
    if words.next().is_some() {
        return Err(ProxyError::Wrong("it says too much"));
    }
    let client = SocketAddr::new(client, client_port);
    Ok(Some(Addresses { client, reached: SocketAddr::new(reached, reached_port) }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::runtime::Builder;

    use super::*;

    /// What is read of `bytes`, and how many of them are left.
    fn outcome(bytes: &[u8]) -> (Result<Option<Addresses>, ProxyError>, usize) {
        let mut source = bytes;
        let runtime = Builder::new_current_thread().build().unwrap();
        (runtime.block_on(read(&mut source)), source.len())
    }

    fn v2(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([version_and_command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    #[test]
    fn what_is_no_header_closes() {
        let short = &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0][..];
        let long_line = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        for bytes in [
            &b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02ab"[..],
            b"GET /mqtt HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\0",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY \xff\r\n",
            b"",
            &long_line,
            &v2(0x21, 0x11, short),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &vec![0; BODY_BYTES_MAX + 1]),
        ] {
            assert!(outcome(bytes).0.is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn who_has_no_address_keeps_that_of_the_connection() {
        for bytes in [
            v2(0x20, 0x00, b""),
            v2(0x20, 0x11, &[9; 12]),
            v2(0x21, 0x00, b"anything"),
            v2(0x21, 0x31, &[0; 216]),
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
        ] {
            let with_more = [&bytes[..], b"more"].concat();
            let (read, left) = outcome(&with_more);
            assert_eq!((read.unwrap(), left), (None, 4), "{bytes:?}");
        }
    }

    fn address(is_ipv6: bool) -> BoxedStrategy<IpAddr> {
        if is_ipv6 {
            any::<[u8; 16]>().prop_map(|it| IpAddr::V6(it.into())).boxed()
        } else {
            any::<[u8; 4]>().prop_map(|it| IpAddr::V4(it.into())).boxed()
        }
    }

    fn addresses() -> impl Strategy<Value = Addresses> {
        any::<bool>()
            .prop_flat_map(|is_ipv6| (address(is_ipv6), address(is_ipv6), any::<u16>(), any::<u16>()))
            .prop_map(|(client, reached, a, b)| Addresses {
                client: SocketAddr::new(client, a),
                reached: SocketAddr::new(reached, b),
            })
    }

    fn octets(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(it) => it.octets().to_vec(),
            IpAddr::V6(it) => it.octets().to_vec(),
        }
    }

    proptest! {
        #[test]
        fn both_versions_say_what_was_written_and_leave_what_follows(
            it in addresses(),
            extra in prop::collection::vec(any::<u8>(), 0..64),
            more in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let Addresses { client, reached } = it;
            let word = if client.is_ipv6() { "TCP6" } else { "TCP4" };
            let line = format!(
                "PROXY {word} {} {} {} {}\r\n", client.ip(), reached.ip(), client.port(), reached.port()
            );
            let family = if client.is_ipv6() { 0x21 } else { 0x11 };
            let ports = [client.port().to_be_bytes(), reached.port().to_be_bytes()].concat();
            let body = [octets(client.ip()), octets(reached.ip()), ports, extra].concat();
            for header in [line.into_bytes(), v2(0x21, family, &body)] {
                let (read, left) = outcome(&[&header[..], &more].concat());
                prop_assert_eq!(read.unwrap(), Some(it));
                prop_assert_eq!(left, more.len());
            }
        }

        #[test]
        fn no_bytes_break_it(
            start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 1.2.3.4 ", &SIGNATURE]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = outcome(&[start, &bytes].concat());
        }
    }
}
