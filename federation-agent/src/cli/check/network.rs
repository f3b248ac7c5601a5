//! What the node's network has to let happen: it forwards for its pods, and has an uplink.

use std::{fs, io, path::Path};

use super::{Args, report::Row};
use crate::{
    dataplane::{self, LinkPin, Mode},
    network::{self, Interface, Route, RouteKind},
};

const SETTINGS: &str = "/proc/sys/net";

pub(super) async fn rows(args: &Args) -> Vec<Row> {
    let v6 = args.vip_ranges.iter().any(|range| range.addr().is_ipv6());
    let v4 = args.vip_ranges.is_empty() || args.vip_ranges.iter().any(|range| range.addr().is_ipv4());
    let uplink = network::uplink(args.node.uplink.as_deref()).await;
    let mut rows = vec![
        if v4 { forwarding("IPv4 forwarding", "ipv4/ip_forward") } else { no_range("IPv4 forwarding") },
        if v6 {
            forwarding("IPv6 forwarding", "ipv6/conf/all/forwarding")
        } else {
            no_range("IPv6 forwarding")
        },
    ];
    match uplink {
        Ok(uplink) => {
            let links = dataplane::links(&args.node.bpf_dir).unwrap_or_default();
            rows.push(judge_uplink(&uplink, &links, network::runs_xdp(uplink.index).ok()));
            rows.push(reverse_path(&uplink).await);
        }
        Err(error) => {
            rows.push(Row::fail("uplink", format!("{error:#}"), ""));
            rows.push(Row::skip("reverse path", "there is no uplink"));
        }
    }
    rows
}

fn no_range(what: &str) -> Row {
    Row::skip(what, "no --vip-range of this family is given")
}

fn forwarding(what: &str, setting: &str) -> Row {
    judge_forwarding(what, setting, &read(setting))
}

fn judge_forwarding(what: &str, setting: &str, value: &io::Result<String>) -> Row {
    let name = format!("net.{}", setting.replace('/', "."));
    match value.as_deref() {
        Ok("0") => Row::fail(
            what,
            format!("{name} is 0, so the node sends no packet on for its pods"),
            format!("set it to 1 (`sysctl -w {name}=1`, and in /etc/sysctl.d)"),
        ),
        Ok(value) => Row::pass(what, format!("{name} is {value}")),
        Err(error) => {
            Row::fail(what, format!("{name} cannot be read ({error})"), "give the kernel this family of IP")
        }
    }
}

/// What is attached there now tells what can be: an agent's own programs are swapped, others' are in the way.
fn judge_uplink(uplink: &Interface, links: &[LinkPin], runs_xdp: Option<bool>) -> Row {
    const WHAT: &str = "uplink";
    let name = &uplink.name;
    if !uplink.up {
        let remedy = format!("set it up (`ip link set {name} up`), or give --uplink another interface");
        return Row::fail(WHAT, format!("{name} is down"), remedy);
    }
    let is_xdp = |link: &&LinkPin| matches!(link.mode, Mode::NativeXdp | Mode::GenericXdp);
    let ours = links.iter().filter(is_xdp).find(|link| link.interface() == Some(uplink.index));
    match (ours, uplink.xdp.first()) {
        (Some(link), Some(_)) => {
            Row::pass(WHAT, format!("{name} is up, an agent's program is there by {}", link.mode))
        }
        (_, Some(id)) => Row::fail(
            WHAT,
            format!(
                "{name} has an XDP program of somebody else (number {id}), beside which the agent's cannot be"
            ),
            format!("take it off (`ip link set dev {name} xdp off`), or give --uplink another interface"),
        ),
        (_, None) => {
            let xdp = match runs_xdp {
                Some(true) => "its driver runs XDP",
                Some(false) => "its driver runs no XDP, so that will be generic, which is slower",
                None => "XDP will be native where its driver can, else generic",
            };
            Row::pass(WHAT, format!("{name} is up; {xdp}"))
        }
    }
}

/// Strict filtering takes a packet only from the interface that its answer would leave by. Programs put a virtual IP in
/// the place of a source at egress alone, behind that filter, so it meets addresses as they were sent; but with a
/// second default route, the answers of other nodes may come in by another interface than the uplink.
async fn reverse_path(uplink: &Interface) -> Row {
    let of =
        |name: &str| read(&format!("ipv4/conf/{name}/rp_filter")).ok().and_then(|text| text.parse().ok());
    let routes = network::routes().await.unwrap_or_default();
    judge_reverse_path(uplink, of("all").unwrap_or(0), of(&uplink.name).unwrap_or(0), &routes)
}

fn judge_reverse_path(uplink: &Interface, all: u32, own: u32, routes: &[Route]) -> Row {
    const WHAT: &str = "reverse path";
    const STRICT: u32 = 1;
    let name = &uplink.name;
    let found = format!("rp_filter of all is {all}, of {name} {own}");
    // The larger of the two counts (Documentation/networking/ip-sysctl.rst).
    if all.max(own) != STRICT {
        return Row::pass(WHAT, found);
    }
    let is_default = |route: &&Route| {
        route.is_main
            && route.kind == RouteKind::Forwards
            && route.to.prefix_len() == 0
            && route.to.addr().is_ipv4()
    };
    if routes.iter().filter(is_default).any(|route| route.interface != Some(uplink.index)) {
        return Row::warn(
            WHAT,
            format!(
                "{found}, which is strict, and there is a default route by another interface than the uplink"
            ),
            format!(
                "what comes in by {name} and would be answered by the other is dropped; if nodes are reached by both, \
                     make it loose (`sysctl -w net.ipv4.conf.{name}.rp_filter=2`)"
            ),
        );
    }
    Row::pass(WHAT, format!("{found}: strict, which virtual IPs do not mind"))
}

fn read(setting: &str) -> io::Result<String> {
    fs::read_to_string(Path::new(SETTINGS).join(setting)).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::report::Verdict;
    use crate::dataplane::Place;

    fn uplink(up: bool, xdp: &[u32]) -> Interface {
        Interface { index: 2, name: "eth0".to_owned(), up, xdp: xdp.to_vec() }
    }

    #[test]
    fn a_node_that_does_not_forward_fails() {
        let judge =
            |value: io::Result<String>| judge_forwarding("IPv4 forwarding", "ipv4/ip_forward", &value);
        assert_eq!(judge(Ok("1".to_owned())).result, Verdict::Pass);
        let row = judge(Ok("0".to_owned()));
        assert_eq!(row.result, Verdict::Fail);
        assert!(row.remedy.contains("sysctl -w net.ipv4.ip_forward=1"), "{row:?}");
        assert_eq!(judge(Err(io::ErrorKind::NotFound.into())).result, Verdict::Fail);
    }

    #[test]
    fn an_uplink_is_up_and_free_or_an_agents_own() {
        let ours = LinkPin { program: "edge".to_owned(), mode: Mode::NativeXdp, place: Place::Interface(2) };
        let elsewhere = LinkPin { place: Place::Interface(3), ..ours.clone() };
        for (interface, links, verdict) in [
            (uplink(true, &[]), &[][..], Verdict::Pass),
            (uplink(false, &[]), &[], Verdict::Fail),
            (uplink(true, &[7]), &[], Verdict::Fail),
            (uplink(true, &[7]), std::slice::from_ref(&elsewhere), Verdict::Fail),
            (uplink(true, &[7]), std::slice::from_ref(&ours), Verdict::Pass),
        ] {
            let row = judge_uplink(&interface, links, Some(true));
            assert_eq!(row.result, verdict, "{row:?}");
        }
    }

    #[test]
    fn strict_filtering_matters_where_answers_may_come_another_way() {
        let default = |interface| Route {
            to: "0.0.0.0/0".parse().unwrap(),
            interface: Some(interface),
            metric: 0,
            kind: RouteKind::Forwards,
            is_main: true,
        };
        for (all, own, routes, verdict) in [
            (0, 0, vec![default(2), default(3)], Verdict::Pass),
            (1, 0, vec![default(2)], Verdict::Pass),
            (1, 0, vec![default(2), default(3)], Verdict::Warn),
            (0, 1, vec![default(3)], Verdict::Warn),
            (1, 2, vec![default(3)], Verdict::Pass),
        ] {
            let row = judge_reverse_path(&uplink(true, &[]), all, own, &routes);
            assert_eq!(row.result, verdict, "{row:?}");
        }
    }
}
