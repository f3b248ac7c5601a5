//! Whether the addresses are free that the agent shall answer DNS at.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

use super::{Args, report::Row};
use crate::{
    network::{self, Address},
    node,
};

pub(super) async fn rows(args: &Args) -> Vec<Row> {
    if args.node.dns_listen.is_empty() {
        return vec![Row::skip("DNS", "no --dns-listen is given")];
    }
    let what = |address: &SocketAddr| format!("DNS at {address}");
    // A folder that cannot be looked at has a row of its own.
    if let Ok(Some(holder)) = node::running(&args.node.state_dir) {
        let why = format!("this node's agent runs (process {holder}) and may listen there itself");
        return args.node.dns_listen.iter().map(|address| Row::skip(what(address), why.clone())).collect();
    }
    let present = match network::addresses().await {
        Ok(present) => present,
        Err(error) => return vec![Row::fail("DNS", format!("{error:#}"), "")],
    };
    args.node.dns_listen.iter().map(|address| row(what(address), *address, &present)).collect()
}

fn row(what: String, address: SocketAddr, present: &[Address]) -> Row {
    let ip = address.ip();
    let has =
        |ip: IpAddr| ip.is_loopback() || ip.is_unspecified() || present.iter().any(|it| it.address == ip);
    if has(ip) {
        return judge(what, address, listen(address), "it is free");
    }
    if network::is_ours_to_add(ip).is_none() {
        return Row::fail(
            what,
            format!("no interface of this node has {ip}"),
            "give --dns-listen an address of this node, or one of 169.254.0.0/16, which the agent adds to lo",
        );
    }
    // Nobody can listen at an address that is not there, but who listens at all addresses has its port as well.
    let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
    judge(what, address, listen(everywhere), "no interface has it yet, and the agent adds it to lo")
}

fn judge(what: String, address: SocketAddr, listened: io::Result<()>, found: &str) -> Row {
    match listened {
        Ok(()) => Row::pass(what, found),
        Err(error) => Row::fail(
            what,
            format!("it cannot be listened at ({error})"),
            match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("port {} takes the capability NET_BIND_SERVICE", address.port())
                }
                _ => "end what holds this address and port, or give --dns-listen another one".to_owned(),
            },
        ),
    }
}

/// Both transports, for a moment.
fn listen(address: SocketAddr) -> io::Result<()> {
    let _udp = UdpSocket::bind(address)?;
    let _tcp = TcpListener::bind(address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::report::Verdict;

    #[test]
    fn an_address_is_free_or_taken_or_nobodys_or_the_agents_to_add() {
        let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = holder.local_addr().unwrap();
        let row = |address: SocketAddr| row("DNS".to_owned(), address, &[]);
        assert_eq!(row(taken).result, Verdict::Fail);
        let nobodys = row("192.0.2.1:53".parse().unwrap());
        assert_eq!(nobodys.result, Verdict::Fail);
        assert!(nobodys.found.contains("no interface"), "{nobodys:?}");
        let own = row(SocketAddr::from(([169, 254, 20, 11], 0)));
        assert_eq!(own.result, Verdict::Pass, "{own:?}");
        assert!(own.found.contains("adds it to lo"), "{own:?}");
        assert_eq!(row(SocketAddr::from(([127, 0, 0, 1], 0))).result, Verdict::Pass);
        drop(holder);
    }
}
