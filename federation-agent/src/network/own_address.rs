//! The link-local addresses that an agent answers DNS at and nobody else has: it adds them to `lo`.
//!
//! Pods everywhere can ask at one address, which their node answers. It stays when the agent ends, as programs do, so that
//! the next one listens at it at once. The label tells whose it is, to people (`ip address`) and to agents: no file that
//! could be lost has to remember it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::address::{AddressAttribute, AddressScope};

use super::{Address, addresses, connect};

/// As IPv4 labels must, it begins with the interface's name; 15 characters at most.
const LABEL: &str = "lo:federation";

/// Every network namespace's `lo` has this index.
const LOOPBACK: u32 = 1;

/// Adds to `lo` those of the wanted addresses that are link-local and that no interface has; takes away what an agent has
/// added before and this one does not want. Tells what it has added.
///
/// # Errors
/// The kernel refuses, or does not tell its addresses.
pub async fn give_addresses(wanted: impl IntoIterator<Item = IpAddr>) -> Result<BTreeSet<Ipv4Addr>> {
    let present = addresses().await?;
    let wanted: BTreeSet<_> = wanted.into_iter().collect();
    let has = |ip: &Ipv4Addr| present.iter().any(|it| it.address == IpAddr::from(*ip));
    remove(own_addresses(&present).filter(|ip| !wanted.contains(&IpAddr::from(*ip)))).await?;
    let missing: BTreeSet<_> = wanted.into_iter().filter_map(is_ours_to_add).filter(|ip| !has(ip)).collect();
    for ip in &missing {
        add(*ip).await.with_context(|| format!("add {ip}, to answer DNS at, to the interface lo"))?;
    }
    Ok(missing)
}

/// Takes away what agents have added.
///
/// # Errors
/// As above.
pub async fn take_addresses() -> Result<Vec<Ipv4Addr>> {
    let ours: Vec<_> = own_addresses(&addresses().await?).collect();
    remove(ours.iter().copied()).await?;
    Ok(ours)
}

/// Those among the node's addresses that an agent has added.
pub fn own_addresses(present: &[Address]) -> impl Iterator<Item = Ipv4Addr> {
    let ours = present.iter().filter(|it| it.interface == LOOPBACK && it.label.as_deref() == Some(LABEL));
    ours.filter_map(|it| if let IpAddr::V4(ip) = it.address { Some(ip) } else { None })
}

/// Whether the agent adds the address where nobody has it: it is of IPv4 and link-local, so that no network leads to it.
pub fn is_ours_to_add(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(ip) if ip.is_link_local() => Some(ip),
        _ => None,
    }
}

async fn add(ip: Ipv4Addr) -> Result<()> {
    let mut request = connect()?.address().add(LOOPBACK, ip.into(), 32);
    let message = request.message_mut();
    message.header.scope = AddressScope::Host;
    message.attributes.push(AddressAttribute::Label(LABEL.to_owned()));
    Ok(request.execute().await?)
}

async fn remove(ours: impl Iterator<Item = Ipv4Addr>) -> Result<()> {
    let handle = connect()?;
    for ip in ours {
        let mut request = handle.address().del(rtnetlink::packet_route::address::AddressMessage::default());
        let message = request.message_mut();
        message.header.family = rtnetlink::packet_route::AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.index = LOOPBACK;
        // The kernel removes nothing whose label is another.
        message.attributes =
            vec![AddressAttribute::Local(ip.into()), AddressAttribute::Label(LABEL.to_owned())];
        request.execute().await.with_context(|| format!("remove {ip} from the interface lo"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_agent_has_added_is_taken_away() {
        let address = |interface, ip: &str, label: Option<&str>| Address {
            interface,
            address: ip.parse().unwrap(),
            label: label.map(str::to_owned),
        };
        let present = [
            address(1, "127.0.0.1", Some("lo")),
            address(1, "::1", None),
            address(1, "169.254.20.10", Some("lo")),
            address(1, "169.254.20.11", Some(LABEL)),
            address(2, "169.254.20.12", Some(LABEL)),
        ];
        assert_eq!(own_addresses(&present).collect::<Vec<_>>(), [Ipv4Addr::new(169, 254, 20, 11)]);
    }

    #[test]
    fn an_address_that_a_network_could_lead_to_is_not_added() {
        for (ip, added) in
            [("169.254.20.11", true), ("10.0.0.1", false), ("fe80::1", false), ("0.0.0.0", false)]
        {
            assert_eq!(is_ours_to_add(ip.parse().unwrap()).is_some(), added, "{ip}");
        }
    }
}
