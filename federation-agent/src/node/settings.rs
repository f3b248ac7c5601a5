//! The flags about one node that its agent and the check before it have in common.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Args;
use tracing::warn;

use crate::dataplane::{self, TcAttach};

/// Where an agent keeps what outlives it, and its socket.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/federation";

#[derive(Args, Debug)]
pub struct NodeSettings {
    /// This node's zone; when not given, the one that its Node object is labelled with, else the first of its cluster
    #[arg(long, env = "FEDERATION_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,

    /// The interface that leads to other nodes; that of the default route when not given
    #[arg(long, env = "FEDERATION_UPLINK", value_name = "INTERFACE")]
    pub uplink: Option<String>,

    /// Where maps and links are pinned
    #[arg(long, env = "FEDERATION_BPF_DIR", value_name = "DIR", default_value = dataplane::DEFAULT_BPF_DIR)]
    pub bpf_dir: PathBuf,

    /// How tc programs are attached
    #[arg(long, env = "FEDERATION_TC_ATTACH", value_name = "WAY", value_enum, default_value_t)]
    pub tc_attach: TcAttach,

    /// The root of cgroup v2, for clients in this node's own network; when not given, where systems have it
    #[arg(long, env = "FEDERATION_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Where the agent keeps its lock and the last known federation, and says that it is ready
    #[arg(long, env = "FEDERATION_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,

    /// Address to answer DNS at, for clients of the federation; may be given more than once. One of 169.254.0.0/16 that
    /// no interface has is added to `lo`
    #[arg(long, env = "FEDERATION_DNS_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub dns_listen: Vec<SocketAddr>,
}

impl NodeSettings {
    /// The cgroup that all processes of this node are below. Who has none does without: only clients in the node's own
    /// network need it.
    ///
    /// # Errors
    /// What was given is none.
    pub(super) fn cgroup(&self) -> Result<Option<PathBuf>> {
        match (dataplane::cgroup2(self.cgroup.as_deref()), self.cgroup.as_deref()) {
            (Ok(found), _) => Ok(Some(found)),
            (Err(lack), Some(_)) => Err(lack.into()),
            (Err(lack), None) => {
                warn!("clients in this node's own network are not served: {lack}");
                Ok(None)
            }
        }
    }
}
