//! The peer: translation of services' addresses by nftables, in the shape that kube-proxy's nftables mode gives it.
//!
//! A map from (address, protocol, port) leads to a chain for each service, which picks one of the chains for its
//! endpoints, which translates. Source: kubernetes/kubernetes, pkg/proxy/nftables/README.md. What kube-proxy does
//! beyond that (masquerading, firewalls, affinity) is left out: it would only cost more.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::lab::Namespace;

/// Services' addresses, the default of kubeadm.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Endpoints of the services that nobody talks to.
const ENDPOINTS: u32 = 3;
const IDLE: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);

/// Services that are loaded at once: what a transaction takes grows with the square of what is in it.
const STEP: usize = 500;

/// Loads `count` services into `namespace`. The one in the middle is of `targets`, with one endpoint each; its address.
///
/// # Errors
/// `nft` is missing or refuses.
pub fn load(namespace: &Namespace, folder: &Path, count: u32, targets: &[SocketAddrV4]) -> Result<Ipv4Addr> {
    let measured = count / 2;
    let address = |service: u32| Ipv4Addr::from_bits(SERVICES.to_bits() + service);
    let mut services = Vec::new();
    for service in 0..count {
        if service == measured {
            services.extend(targets.iter().map(|target| Service {
                at: SocketAddrV4::new(address(service), target.port()),
                endpoints: vec![*target],
            }));
            continue;
        }
        let endpoint = |number| Ipv4Addr::from_bits(IDLE.to_bits() + service * ENDPOINTS + number);
        services.push(Service {
            at: SocketAddrV4::new(address(service), 80),
            endpoints: (0..ENDPOINTS).map(|number| SocketAddrV4::new(endpoint(number), 8080)).collect(),
        });
    }
    let file = folder.join("nftables");
    let apply = |rules: &str| {
        fs::write(&file, rules).with_context(|| format!("write {}", file.display()))?;
        namespace.execute("nft", &["--file", &file.display().to_string()])
    };
    apply(MAP)?;
    for some in services.chunks(STEP) {
        apply(&rules(some)?)?;
    }
    // Last: from here on the kernel would walk through all that is there for each transaction.
    apply(HOOK)?;
    Ok(address(measured))
}

const MAP: &str = "table ip kube-proxy {
    map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
}
";

const HOOK: &str = "table ip kube-proxy {
    chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
    chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
}
";

struct Service {
    at: SocketAddrV4,
    endpoints: Vec<SocketAddrV4>,
}

fn rules(services: &[Service]) -> Result<String> {
    let (mut chains, mut elements) = (String::new(), Vec::new());
    for Service { at, endpoints } in services {
        let name = format!("{}-{}", at.ip(), at.port());
        let mut choices = Vec::new();
        for (number, endpoint) in endpoints.iter().enumerate() {
            writeln!(chains, "chain endpoint-{name}-{number} {{ meta l4proto tcp dnat to {endpoint}; }}")?;
            choices.push(format!("{number} : goto endpoint-{name}-{number}"));
        }
        let (among, choices) = (endpoints.len(), choices.join(", "));
        writeln!(chains, "chain service-{name} {{ numgen random mod {among} vmap {{ {choices} }}; }}")?;
        elements.push(format!("{} . tcp . {} : goto service-{name}", at.ip(), at.port()));
    }
    let elements = elements.join(",\n");
    Ok(format!(
        "table ip kube-proxy {{\n{chains}}}\nadd element ip kube-proxy service-ips {{ {elements} }}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_leads_to_its_endpoints() {
        let service = Service {
            at: "10.96.0.1:80".parse().unwrap(),
            endpoints: ["10.8.2.2:8080", "10.8.2.3:8080"].map(|endpoint| endpoint.parse().unwrap()).into(),
        };
        let expected = "table ip kube-proxy {
chain endpoint-10.96.0.1-80-0 { meta l4proto tcp dnat to 10.8.2.2:8080; }
chain endpoint-10.96.0.1-80-1 { meta l4proto tcp dnat to 10.8.2.3:8080; }
chain service-10.96.0.1-80 { numgen random mod 2 vmap { 0 : goto endpoint-10.96.0.1-80-0, 1 : goto endpoint-10.96.0.1-80-1 }; }
}
add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 : goto service-10.96.0.1-80 }
";
        assert_eq!(rules(&[service]).unwrap(), expected);
    }
}
