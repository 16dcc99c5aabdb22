//! Who may: networks, as an operator lists them. An IPv4 address that comes in IPv6's clothes
//! (`::ffff:10.0.0.1`) is the IPv4 address, in the list and at the door.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};

use crate::error::Error;
use crate::fail;
use crate::text::shown;

/// Bits of an IPv6 address before the IPv4 one that it maps.
const MAPPED_BITS: u8 = 96;

/// One network, or one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = Error;

    /// `ADDRESS/BITS`, or a plain address, which is one host. An address with bits set behind its
    /// prefix is refused: `10.0.0.5/8` may mean one host, or sixteen million.
    fn from_str(text: &str) -> Result<Network, Error> {
        let host = || text.parse::<IpAddr>().map(IpNet::from).ok();
        let Some(net) = text.parse::<IpNet>().ok().or_else(host) else {
            let text = shown(text.as_bytes());
            return fail!(Invalid, "'{text}' is no network, want ADDRESS or ADDRESS/BITS");
        };
        match net.trunc() == net {
            true => Ok(Network(folded(net))),
            false => {
                fail!(Invalid, "'{text}' has bits set behind its prefix, the network is {}", net.trunc())
            }
        }
    }
}

/// A network of mapped addresses as the IPv4 network it stands for.
fn folded(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_BITS));
    mapped.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok()).map_or(net, IpNet::V4)
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A list of networks; where there is none everybody may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Option<Vec<Network>>);

impl AllowList {
    /// These networks and no others.
    pub fn only(networks: Vec<Network>) -> AllowList {
        AllowList(Some(networks))
    }

    /// Everybody: nothing is configured.
    pub fn everybody() -> AllowList {
        AllowList(None)
    }

    /// Whether there is a list.
    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Whether this address may.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.as_ref().is_none_or(|networks| networks.iter().any(|Network(net)| net.contains(&ip)))
    }

    /// Whether only this host may, by its loopback addresses.
    pub fn is_loopback_only(&self) -> bool {
        let is_loopback =
            |Network(net): &Network| net.network().is_loopback() && net.broadcast().is_loopback();
        self.0.as_ref().is_some_and(|networks| networks.iter().all(is_loopback))
    }
}

/// The host that an address counts for where each may have so much: itself, or its /64 network of IPv6, since a host
/// there has 2^64 addresses to call from.
pub fn host(ip: IpAddr) -> IpAddr {
    const NETWORK: u128 = !(u64::MAX as u128);
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & NETWORK).into()),
        ip => ip,
    }
}

/// The log has a line of rejected peers at most this often: a peer that connects without end must neither fill
/// the log nor take the place of other lines in it.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Tells the log of strangers who were turned away.
#[derive(Debug, Default)]
pub struct RejectedPeers {
    last: Option<Instant>,
    untold: u64,
}

impl RejectedPeers {
    /// One more: the line to be logged of it, where it is time for one.
    pub fn line(&mut self, who: SocketAddr, now: Instant) -> Option<String> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < LINE_INTERVAL) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        let more = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            untold => format!(", and {untold} others since the last line of this kind"),
        };
        Some(format!("closed {who} without an answer: not in tnv_allow_hosts{more}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(networks: &[&str]) -> AllowList {
        AllowList::only(networks.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn allowed(list: &AllowList, ip: &str) -> bool {
        list.allows(ip.parse().unwrap())
    }

    #[test]
    fn a_list_lets_in_its_networks_and_nobody_else() {
        let hosts = list(&["10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "::1"]);
        for ip in ["10.1.0.0", "10.1.255.255", "192.0.2.7", "2001:db8::5", "2001:db8:ffff::", "::1"] {
            assert!(allowed(&hosts, ip), "{ip}");
        }
        for ip in ["10.0.255.255", "10.2.0.0", "192.0.2.8", "2001:db9::", "::2", "::", "0.0.0.0", "127.0.0.1"]
        {
            assert!(!allowed(&hosts, ip), "{ip}");
        }
        assert!(
            allowed(&list(&["0.0.0.0/0"]), "203.0.113.9") && !allowed(&list(&["0.0.0.0/0"]), "2001:db8::1")
        );
        assert!(!allowed(&list(&["::/0"]), "203.0.113.9"), "an IPv4 host is in no network of IPv6");
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        assert!(allowed(&list(&["10.0.0.0/8"]), "::ffff:10.9.9.9"));
        assert!(!allowed(&list(&["10.0.0.0/8"]), "::ffff:11.0.0.1"));
        for mapped in ["::ffff:10.0.0.0/104", "::ffff:a00:0/104"] {
            assert_eq!(list(&[mapped]), list(&["10.0.0.0/8"]));
        }
        assert!(allowed(&list(&["::ffff:192.0.2.7"]), "192.0.2.7"));
        // The old form without ffff is another address.
        assert!(!allowed(&list(&["10.0.0.0/8"]), "::10.0.0.1"));
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_for_one_host() {
        let host_of = |ip: &str| host(ip.parse().unwrap()).to_string();
        for (ip, host) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2::1", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
            ("::1", "::"),
        ] {
            assert_eq!(host_of(ip), host, "{ip}");
        }
    }

    #[test]
    fn without_a_list_everybody_may() {
        assert!(allowed(&AllowList::default(), "203.0.113.9") && !AllowList::everybody().is_set());
    }

    #[test]
    fn what_is_doubtful_is_refused() {
        let refused = |text: &str| text.parse::<Network>().unwrap_err().message().to_owned();
        assert_eq!(
            refused("10.0.0.5/8"),
            "'10.0.0.5/8' has bits set behind its prefix, the network is 10.0.0.0/8"
        );
        assert!(refused("2001:db8::1/32").contains("the network is 2001:db8::/32"));
        let bad = ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/8/8", "/8", "localhost"];
        for text in bad.into_iter().chain(["[::1]", "10.0.0.0/-1", "10.0.0.0/+8", "010.0.0.1", "10.0.0.1:5"])
        {
            assert!(refused(text).contains("is no network"), "{text}");
        }
    }

    #[test]
    fn loopback_only_is_told_from_more() {
        for (networks, only) in [
            (&["127.0.0.0/8", "::1"][..], true),
            (&["127.0.0.1"], true),
            (&["127.0.0.1", "10.0.0.0/8"], false),
            (&["0.0.0.0/0"], false),
            (&["126.0.0.0/7"], false),
        ] {
            assert_eq!(list(networks).is_loopback_only(), only, "{networks:?}");
        }
        assert!(!AllowList::everybody().is_loopback_only());
    }

    /// A peer that connects without end would fill the disk, or push other lines over the log's bound.
    #[test]
    fn a_flood_of_strangers_is_a_line_a_second() {
        let mut strangers = RejectedPeers::default();
        let who = SocketAddr::from(([203, 0, 113, 9], 5000));
        let start = Instant::now();
        let line = strangers.line(who, start).unwrap();
        assert_eq!(line, "closed 203.0.113.9:5000 without an answer: not in tnv_allow_hosts");
        assert_eq!((0..999).filter_map(|_| strangers.line(who, start)).count(), 0);
        let line = strangers.line(who, start + LINE_INTERVAL).unwrap();
        assert!(line.ends_with(", and 999 others since the last line of this kind"), "{line}");
    }
}
