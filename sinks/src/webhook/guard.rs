//! Which addresses a webhook may connect to. With `private_ranges = refuse` only addresses of the public Internet
//! count, decided for each connection by what the name resolves to at that moment: a name that changes its mind
//! afterwards (DNS rebinding) gains nothing. It must never know a request.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Ranges of IPv4 that no public service is in: network, length of its prefix, what it is (RFC 6890 and its heirs).
const REFUSED_V4: &[(Ipv4Addr, u32, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared by a carrier's customers"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a cloud's metadata"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "for protocols"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a relay of 6to4"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// The same of IPv6.
const REFUSED_V6: &[(Ipv6Addr, u32, &str)] = &[
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (v6(0x64, 0xff9b, 1), 48, "a translator's"),
    (v6(0x100, 0, 0), 64, "discarded"),
    (v6(0x2001, 0, 0), 23, "for protocols"),
    (v6(0x2001, 0xdb8, 0), 32, "for documentation"),
    (v6(0x3fff, 0, 0), 20, "for documentation"),
    (v6(0x5f00, 0, 0), 16, "for segment routing"),
    (v6(0xfc00, 0, 0), 7, "unique-local"),
    (v6(0xfe80, 0, 0), 10, "link-local"),
    (v6(0xfec0, 0, 0), 10, "site-local"),
    (v6(0xff00, 0, 0), 8, "multicast"),
];

const fn v6(a: u16, b: u16, c: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
}

/// Why an address may not be connected to; none where it may.
pub(super) fn refused(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => refused_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => refused_v4(inner),
            None => {
                REFUSED_V6.iter().find(|(net, length, _)| within_v6(address, *net, *length)).map(|it| it.2)
            }
        },
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<&'static str> {
    let within = |net: Ipv4Addr, length: u32| (address.to_bits() ^ net.to_bits()) >> (32 - length) == 0;
    REFUSED_V4.iter().find(|(net, length, _)| within(*net, *length)).map(|it| it.2)
}

fn within_v6(address: Ipv6Addr, net: Ipv6Addr, length: u32) -> bool {
    (address.to_bits() ^ net.to_bits()) >> (128 - length) == 0
}

/// The IPv4 address inside of an IPv6 one that leads to it: mapped, compatible, by NAT64, by 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let inner = |shift: u32| {
        let [.., a, b, c, d] = (address.to_bits() >> shift).to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    let low = [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST].contains(&address);
    let mapped = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    if within_v6(address, mapped, 96) || within_v6(address, v6(0x64, 0xff9b, 0), 96) {
        return inner(0);
    }
    if within_v6(address, Ipv6Addr::UNSPECIFIED, 96) && !low {
        return inner(0);
    }
    if within_v6(address, v6(0x2002, 0, 0), 16) { inner(80) } else { None }
}

/// A connection that was not made.
#[derive(Debug)]
pub(super) struct Refused {
    what: &'static str,
}

/// Says neither the name nor the address: whoever may write a rule need not be told what the network looks like.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the address is not a public one ({}), and `private_ranges = refuse` refuses those",
            self.what
        )
    }
}

impl Error for Refused {}

impl Refused {
    /// Whether this is why a request was not made.
    pub(super) fn among_causes_of(error: &(dyn Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<Self>() {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Refuses an address that is written as a number: no name is resolved for those.
pub(super) fn check_literal(url: &Url) -> Result<(), Refused> {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match host.parse().ok().and_then(refused) {
        Some(what) => Err(Refused { what }),
        None => Ok(()),
    }
}

/// The system's resolver, whose answers are used only if each of them is public.
#[derive(Debug, Clone, Copy)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(public(found.collect())?.into_iter()) as Addrs)
        })
    }
}

/// All of `found`, or none: a name with one address inside and one outside is up to something.
fn public(found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
    match found.iter().find_map(|address| refused(address.ip())) {
        Some(what) => Err(Refused { what }),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Edges of each range from both sides, and each way to write one address as another.
    #[test]
    fn the_table_of_ranges() {
        let inside = "0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 100.100.100.200 \
            127.0.0.1 127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.254 172.16.0.0 172.31.255.255 \
            192.0.0.8 192.0.2.1 192.88.99.1 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.9 \
            203.0.113.255 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 \
            :: ::1 ::ffff:127.0.0.1 ::ffff:10.1.2.3 ::ffff:169.254.169.254 ::7f00:1 ::10.0.0.1 64:ff9b::10.0.0.1 \
            64:ff9b:1::1 64:ff9b::7f00:1 100::1 2001::1 2001:1ff:ffff::1 2001:db8::1 2002:7f00:1:: \
            2002:c0a8:101::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 febf::1 fec0::1 ff02::1";
        let outside = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 \
            168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.1 192.167.0.1 \
            192.169.0.0 198.17.255.255 198.20.0.0 203.0.114.0 223.255.255.255 \
            2001:200::1 2001:4860:4860::8888 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1 \
            2003::1 fbff::1 2a00::1 100:0:0:1::1";
        for address in inside.split_whitespace() {
            assert!(refused(address.parse().unwrap()).is_some(), "{address} should be refused");
        }
        for address in outside.split_whitespace() {
            assert_eq!(refused(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn numbers_in_every_notation_are_looked_at() {
        let hosts = "127.0.0.1 2130706433 0x7f.1 017700000001 0 10.1 [::1] [::ffff:a9fe:a9fe] 127.1 \
            user:pass@192.168.1.1 %31%30.0.0.1 \u{ff11}\u{ff10}.0.0.1";
        for host in hosts.split_whitespace() {
            let url = Url::parse(&format!("http://{host}:8080/x")).unwrap();
            assert!(check_literal(&url).is_err(), "{host} is {url}");
        }
        for host in "8.8.8.8 example.com [2606:4700::1111]".split_whitespace() {
            check_literal(&Url::parse(&format!("https://{host}/")).unwrap()).unwrap();
        }
    }

    #[test]
    fn one_bad_address_among_good_ones_is_enough() {
        let addresses =
            |list: &[&str]| list.iter().map(|one| one.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert!(public(addresses(&["8.8.8.8:0", "10.0.0.1:0"])).is_err());
        assert_eq!(public(addresses(&["8.8.8.8:0", "1.1.1.1:0"])).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let error = PublicOnly.resolve("localhost".parse().unwrap()).await.err().unwrap();
        assert!(Refused::among_causes_of(error.as_ref()), "{error}");
    }
}
