//! Which interface leads to other nodes.

use anyhow::{Context as _, Result, bail};

use super::{Interface, Route, RouteKind, interfaces, routes};

/// The interface of this name, or else, where none is given or an empty one, that of the default route.
///
/// # Errors
/// There is no such interface, or no default route.
pub async fn uplink(name: Option<&str>) -> Result<Interface> {
    let interfaces = interfaces().await?;
    let routes = routes().await?;
    let names = interfaces.iter().map(|it| it.name.clone()).collect::<Vec<_>>().join(", ");
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        let by_default =
            default_interface(&routes).and_then(|index| interfaces.into_iter().find(|it| it.index == index));
        return by_default.with_context(|| {
            format!("the node has no default route that would tell its uplink: give --uplink one of {names}")
        });
    };
    match interfaces.into_iter().find(|it| it.name == name) {
        Some(found) => Ok(found),
        None => bail!("there is no interface {name} here: give --uplink one of {names}"),
    }
}

/// Where the best default route of the main table leads, of IPv4, else of IPv6.
fn default_interface(routes: &[Route]) -> Option<u32> {
    let is_default =
        |route: &&Route| route.is_main && route.to.prefix_len() == 0 && route.kind == RouteKind::Forwards;
    let best = |v4: bool| {
        let defaults = routes.iter().filter(is_default).filter(|route| route.to.addr().is_ipv4() == v4);
        defaults.min_by_key(|route| route.metric).and_then(|route| route.interface)
    };
    best(true).or_else(|| best(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_of_ipv4_tells_the_uplink_before_that_of_ipv6() {
        let route = |to: &str, interface, metric| Route {
            to: to.parse().unwrap(),
            interface: Some(interface),
            metric,
            kind: RouteKind::Forwards,
            is_main: true,
        };
        let near = route("10.0.0.0/8", 1, 0);
        let (v4, worse, v6) = (route("0.0.0.0/0", 2, 100), route("0.0.0.0/0", 3, 200), route("::/0", 4, 0));
        let swallows = Route { kind: RouteKind::Swallows, interface: None, ..route("0.0.0.0/0", 0, 0) };
        let of_another_table = Route { is_main: false, ..route("0.0.0.0/0", 5, 0) };
        for (routes, expected) in [
            (vec![&near], None),
            (vec![&swallows], None),
            (vec![&of_another_table], None),
            (vec![&near, &v6], Some(4)),
            (vec![&v6, &worse, &v4, &near, &swallows, &of_another_table], Some(2)),
        ] {
            let routes: Vec<_> = routes.into_iter().cloned().collect();
            assert_eq!(default_interface(&routes), expected, "{routes:?}");
        }
    }
}
