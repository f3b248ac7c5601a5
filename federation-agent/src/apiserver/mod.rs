//! The embedded Federation API: a Kubernetes API server for the kinds that a federation needs, on one machine.
//!
//! One table of kinds ([`kinds`]), one path to storage ([`store`]), one path for requests ([`api`]). Clients must not be
//! able to tell it from kube-apiserver, so where a word or a number is its, it is used here too. What it leaves out: there is no
//! service network behind it, so nothing allocates `clusterIP` or `nodePort`; what a writer sets is kept.

mod access;
mod api;
mod delete;
mod discovery;
mod fields;
mod files;
mod garbage;
mod kinds;
mod namespaces;
mod object;
mod openapi;
mod options;
mod patch;
mod protobuf;
mod read;
mod request;
mod selector;
mod status;
mod store;
mod table;
mod tls;
mod validate;
mod versions;
mod watch;
mod write;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsConfig, from_tcp_rustls};
use clap::Args as ClapArgs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::info;

use access::{Identity, Tokens};
use api::Api;
use store::Store;
use write::{FieldValidation, Options};

use crate::shutdown;

/// How long requests that are under way when the server is told to end may take.
const GRACE: Duration = Duration::from_secs(2);

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Address to serve on; port 0 takes a free one, which the kubeconfigs then name
    #[arg(long, env = "FEDERATION_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,

    /// Directory of the store, the certificate authority and the tokens; made where there is none
    #[arg(long, env = "FEDERATION_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Where to write the administrator's kubeconfig, once the server answers
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,

    /// Where to write the node agents' kubeconfig: it reads everything but Secrets
    #[arg(long, value_name = "FILE")]
    pub node_kubeconfig: PathBuf,

    /// Name of the context and of the cluster in the kubeconfigs
    #[arg(long, value_name = "NAME", default_value = "federation")]
    pub context: String,
}

/// Runs until the process is told to end (SIGTERM, SIGINT).
pub async fn run(args: Args) -> Result<()> {
    let shutdown = shutdown::requested()?;

    allow_all_connections()?;
    files::create_private_dir(&args.data_dir)?;
    let (store, mut store_end) = Store::open(&args.data_dir)?;
    let tokens = Tokens::open(&args.data_dir)?;
    let listener = TcpListener::bind(args.listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .with_context(|| format!("cannot listen on {}; choose another with --listen", args.listen))?;
    let address = listener.local_addr().context("learn the address that is listened on")?;
    let tls = tls::Tls::open(&args.data_dir, address.ip())?;
    create_initial_namespaces(&store).await?;

    let administrator = kubeconfig(&args, address, &tls.ca_pem, &tokens, Identity::Administrator)?;
    let reader = kubeconfig(&args, address, &tls.ca_pem, &tokens, Identity::Reader)?;
    let handle = Handle::new();
    let server = from_tcp_rustls(listener, RustlsConfig::from_config(tls.server))?
        .handle(handle.clone())
        .serve(api::router(Api { store, tokens }).into_make_service());
    let mut server = tokio::spawn(server);

    // The listener accepts from here on: whoever finds a kubeconfig can use it.
    files::write(&args.node_kubeconfig, &reader)?;
    files::write(&args.kubeconfig, &administrator)?;
    info!("serving the API on https://{address}, kubeconfig {}", args.kubeconfig.display());

    tokio::select! {
        ended = &mut server => return ended.context("the server's task failed")?.context("serve the API"),
        _ = &mut store_end => return Err(anyhow!("the store's writing thread has ended: see the log before this")),
        () = shutdown => info!("told to end"),
    }
    handle.graceful_shutdown(Some(GRACE));
    server.await.context("the server's task failed")?.context("serve the API")
}

/// Every watcher is a connection: the server may have as many as the system lets any process have.
fn allow_all_connections() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
        .with_context(|| format!("raise the limit of open files to {most}"))
}

fn kubeconfig(
    args: &Args,
    listen: SocketAddr,
    ca_pem: &str,
    tokens: &Tokens,
    identity: Identity,
) -> Result<String> {
    let server = SocketAddr::new(reachable(listen.ip()), listen.port());
    access::kubeconfig(&args.context, server, ca_pem, identity, tokens.of(identity))
}

/// The address that a client on this machine uses; every address is no address to connect to.
fn reachable(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

async fn create_initial_namespaces(store: &Store) -> Result<()> {
    let options = Options {
        manager: "federation-apiserver".to_owned(),
        force: false,
        field_validation: FieldValidation::Strict,
        now: object::now(),
    };
    let created = store.write(move |transaction| {
        namespaces::INITIAL
            .into_iter()
            .try_for_each(|name| write::create_if_absent(transaction, name, &options))
    });
    created.await.map_err(|refusal| anyhow!("make the first namespaces: {refusal}"))
}
