//! The flags of DNS that the roles `node` and `dns` share.

use std::net::SocketAddr;

use clap::Args;
use ipnet::IpNet;

/// How names are told, beside where to listen for clients of the federation.
#[derive(Args, Clone, Debug, Default)]
pub struct DnsSettings {
    /// Address to answer clients from outside at, over UDP and TCP: by the ingress addresses of healthy shards in place
    /// of virtual IPs; may be given more than once
    #[arg(
        long = "dns-external",
        env = "FEDERATION_DNS_EXTERNAL",
        value_name = "ADDR:PORT",
        value_delimiter = ','
    )]
    pub external: Vec<SocketAddr>,

    /// How long clients from outside may remember an answer, in seconds; what is shorter fails over faster and is asked
    /// for more often
    #[arg(
        long = "dns-external-ttl",
        env = "FEDERATION_DNS_EXTERNAL_TTL",
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    pub external_ttl_seconds: u32,

    /// Who may copy whole zones (AXFR); nobody when not given
    #[arg(
        long = "dns-transfer",
        env = "FEDERATION_DNS_TRANSFER",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub transfer: Vec<IpNet>,

    /// Name of a server of the zones, for their NS and SOA records; a name in each zone when not given
    #[arg(
        long = "dns-server-name",
        env = "FEDERATION_DNS_SERVER_NAMES",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub server_names: Vec<String>,
}
