//! The same addresses in both families of IP, so that a case is written once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The ranges of every VIP here.
pub const VIP_RANGES: [&str; 2] = ["198.18.0.0/16", "fd98::/112"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// `client` asks, `vip` and `other_vip` have a port each, `a`, `b` and `c` are backends, `outside` is no pod, and
    /// `router` stands between them.
    pub fn people(self) -> People {
        People {
            client: self.pod(1, 2, 40_000),
            vip: self.vip(7, 80),
            other_vip: self.vip(8, 80),
            a: self.pod(2, 2, 8080),
            b: self.pod(3, 2, 8080),
            c: self.pod(4, 2, 8080),
            outside: SocketAddr::new(self.choose([203, 0, 113, 9], [0x2001, 0xdb8, 9]), 51_000),
            router: SocketAddr::new(self.choose([192, 0, 2, 1], [0x2001, 0xdb8, 1]), 0),
        }
    }

    pub fn pod(self, subnet: u8, host: u8, port: u16) -> SocketAddr {
        let v6 = [0xfd08, 0, 0, u16::from(subnet), u16::from(host)];
        SocketAddr::new(self.choose([10, 8, subnet, host], v6), port)
    }

    pub fn vip(self, number: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.choose([198, 18, 0, number], [0xfd98, 0, 0, 0, u16::from(number)]), port)
    }

    pub fn address(self, v4: &str, v6: &str) -> IpAddr {
        let text = if self == Self::V4 { v4 } else { v6 };
        text.parse().expect("an address")
    }

    /// All words of the IPv6 address but the last one given stand at its beginning.
    fn choose<const N: usize>(self, v4: [u8; 4], v6: [u16; N]) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(v4).into(),
            Self::V6 => {
                let mut words = [0; 8];
                words[..N - 1].copy_from_slice(&v6[..N - 1]);
                words[7] = v6[N - 1];
                Ipv6Addr::from(words).into()
            }
        }
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub struct People {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub other_vip: SocketAddr,
    pub a: SocketAddr,
    pub b: SocketAddr,
    pub c: SocketAddr,
    pub outside: SocketAddr,
    pub router: SocketAddr,
}

/// The same address with another port.
pub fn at_port(address: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}
