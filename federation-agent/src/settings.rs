//! The flags that several roles share: which federation this is, and which addresses it may give away.

use std::hash::Hasher as _;

use anyhow::{Result, ensure};
use clap::Args;
use ipnet::IpNet;
use siphasher::sip::SipHasher24;

/// The federation that a process belongs to.
#[derive(Args, Clone, Debug)]
pub struct FederationSettings {
    /// Name of the federation: the last label of `service.namespace.federation`.
    #[arg(long, env = "FEDERATION_NAME", value_name = "NAME")]
    pub federation: String,

    /// DNS domain of the federation's hierarchical names.
    #[arg(long, env = "FEDERATION_DOMAIN", value_name = "DOMAIN")]
    pub domain: String,

    /// Range that virtual IPs are taken from; at most one for each IP family.
    #[arg(
        long = "vip-range",
        env = "FEDERATION_VIP_RANGES",
        value_name = "CIDR",
        value_delimiter = ',',
        required = true
    )]
    pub vip_ranges: Vec<IpNet>,
}

/// Whether it may stand in a DNS name, between dots, and in a Kubernetes label (RFC 1123 section 2.1).
pub fn is_dns_label(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| is_alphanumeric(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| is_alphanumeric(*byte))
        && bytes.last().is_some_and(|byte| is_alphanumeric(*byte))
}

impl FederationSettings {
    /// The seed of the federation's hash tables: the same on every node.
    pub fn seed(&self) -> u64 {
        let mut hasher = SipHasher24::new();
        hasher.write(self.federation.as_bytes());
        hasher.finish()
    }

    /// # Errors
    /// A name that cannot stand in DNS names and labels, or two ranges of one family.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            is_dns_label(&self.federation),
            "--federation {:?} cannot be part of a DNS name: use at most 63 of a-z, 0-9 and '-', with a letter or digit at \
             both ends",
            self.federation
        );
        let domain = self.domain.strip_suffix('.').unwrap_or(&self.domain);
        ensure!(
            domain.len() <= 253 && domain.split('.').all(is_dns_label),
            "--domain {:?} is no DNS name: give one like example.com",
            self.domain
        );
        for v4 in [true, false] {
            let ranges: Vec<_> =
                self.vip_ranges.iter().filter(|range| range.addr().is_ipv4() == v4).collect();
            ensure!(
                ranges.len() <= 1,
                "--vip-range was given {} ranges of IPv{}: give at most one for each family",
                ranges.len(),
                if v4 { 4 } else { 6 }
            );
        }
        Ok(())
    }
}
