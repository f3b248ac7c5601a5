//! The columns of the kinds of Kubernetes itself, as its own printers have them.

use std::sync::LazyLock;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Cell, Column, Columns};
use crate::apiserver::object::{Object as _, at};

const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";

fn column(name: &str, sort: &'static str, priority: i32, cell: Cell) -> Column {
    Column { name: name.to_owned(), sort, description: String::new(), priority, cell }
}

fn text(name: &str, cell: impl Fn(&Value) -> String + Send + Sync + 'static) -> Column {
    column(name, "string", 0, Box::new(move |object| cell(object).into()))
}

fn wide(name: &str, cell: impl Fn(&Value) -> String + Send + Sync + 'static) -> Column {
    Column { priority: 1, ..text(name, cell) }
}

fn count(name: &str, path: &'static str) -> Column {
    column(name, "integer", 0, Box::new(move |object| entries(object, path).into()))
}

fn name() -> Column {
    text("Name", |object| object.name().to_owned())
}

fn age() -> Column {
    text("Age", |object| since(object.meta_str("creationTimestamp")))
}

/// The string at a path, or what stands for nothing.
fn string(object: &Value, path: &str, absent: &str) -> String {
    let value = at(object, path).and_then(Value::as_str).filter(|value| !value.is_empty());
    value.unwrap_or(absent).to_owned()
}

fn entries(object: &Value, path: &str) -> usize {
    match at(object, path) {
        Some(Value::Object(fields)) => fields.len(),
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    }
}

fn items<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn joined(values: &[String], absent: &str) -> String {
    if values.is_empty() { absent.to_owned() } else { values.join(",") }
}

/// The time since `timestamp` as kubectl writes durations.
pub fn since(timestamp: &str) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => human_duration(Timestamp::now().duration_since(then).as_secs()),
        Err(_) => UNKNOWN.to_owned(),
    }
}

/// `duration.HumanDuration` of apimachinery: two units at most, and coarser the longer it is.
fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |whole: i64, unit: char, rest: i64, small: char| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    match seconds {
        // A clock that runs a little ahead of ours.
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, 'm', seconds % MINUTE, 's'),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, 'h', seconds % HOUR / MINUTE, 'm'),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds / DAY, 'd', seconds % DAY / HOUR, 'h'),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(seconds / YEAR, 'y', seconds % YEAR / DAY, 'd'),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// A table of columns that is built once.
macro_rules! columns {
    ($($(#[$doc:meta])* $kind:ident => [$($column:expr),* $(,)?])*) => {
        $($(#[$doc])* pub fn $kind() -> Columns {
            static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| vec![$($column),*]);
            &COLUMNS
        })*
    };
}

columns! {
    name_and_age => [name(), age()]

    namespaces => [name(), text("Status", |object| string(object, "status.phase", "")), age()]

    services => [
        name(),
        text("Type", |object| string(object, "spec.type", "")),
        text("Cluster-IP", |object| string(object, "spec.clusterIP", NONE)),
        text("External-IP", external_ip),
        text("Port(s)", ports),
        age(),
        wide("Selector", |object| labels(object, "spec.selector")),
    ]

    secrets => [name(), text("Type", |object| string(object, "type", "")), count("Data", "data"), age()]

    config_maps => [
        name(),
        column("Data", "integer", 0, Box::new(|object| (entries(object, "data") + entries(object, "binaryData")).into())),
        age(),
    ]

    events => [
        text("Last Seen", last_seen),
        text("Type", |object| string(object, "type", "")),
        text("Reason", |object| string(object, "reason", "")),
        text("Object", |object| {
            let kind = string(object, "involvedObject.kind", "").to_lowercase();
            format!("{kind}/{}", string(object, "involvedObject.name", ""))
        }),
        wide("Subobject", |object| string(object, "involvedObject.fieldPath", "")),
        wide("Source", |object| string(object, "source.component", &string(object, "reportingComponent", ""))),
        text("Message", |object| string(object, "message", "").trim().to_owned()),
        wide("First Seen", |object| since(&string(object, "firstTimestamp", object.meta_str("creationTimestamp")))),
        column("Count", "integer", 1, Box::new(|object| at(object, "count").cloned().unwrap_or_else(|| 1.into()))),
        Column { priority: 1, ..name() },
    ]

    nodes => [
        name(),
        text("Status", node_status),
        text("Roles", node_roles),
        age(),
        text("Version", |object| string(object, "status.nodeInfo.kubeletVersion", "")),
        wide("Internal-IP", |object| node_address(object, "InternalIP")),
        wide("External-IP", |object| node_address(object, "ExternalIP")),
        wide("OS-Image", |object| string(object, "status.nodeInfo.osImage", UNKNOWN)),
        wide("Kernel-Version", |object| string(object, "status.nodeInfo.kernelVersion", UNKNOWN)),
        wide("Container-Runtime", |object| string(object, "status.nodeInfo.containerRuntimeVersion", UNKNOWN)),
    ]

    endpoint_slices => [
        name(),
        text("AddressType", |object| string(object, "addressType", "")),
        text("Ports", |object| {
            let port = |port: &Value| port.get("port").map_or_else(|| "*".to_owned(), ToString::to_string);
            shortened(&items(object, "ports").iter().map(port).collect::<Vec<_>>(), "<unset>")
        }),
        text("Endpoints", |object| {
            let addresses = items(object, "endpoints").iter().flat_map(|endpoint| items(endpoint, "addresses"));
            shortened(&addresses.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>(), "<unset>")
        }),
        age(),
    ]

    leases => [name(), text("Holder", |object| string(object, "spec.holderIdentity", "")), age()]
}

/// The first three, and how many more there are.
fn shortened(values: &[String], absent: &str) -> String {
    const SHOWN: usize = 3;
    let more = values.len().saturating_sub(SHOWN);
    let shown = joined(&values[..values.len() - more], absent);
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

fn labels(object: &Value, path: &str) -> String {
    let labels = at(object, path).and_then(Value::as_object).into_iter().flatten();
    let mut labels: Vec<_> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    labels.sort();
    joined(&labels, NONE)
}

fn external_ip(service: &Value) -> String {
    let strings = |path: &str, field: &str| -> Vec<String> {
        items(service, path)
            .iter()
            .filter_map(|item| if field.is_empty() { item.as_str() } else { item.get(field)?.as_str() })
            .map(str::to_owned)
            .collect()
    };
    let mut ips = strings("spec.externalIPs", "");
    match string(service, "spec.type", "").as_str() {
        "ExternalName" => string(service, "spec.externalName", NONE),
        "LoadBalancer" => {
            let mut ingress = strings("status.loadBalancer.ingress", "ip");
            ingress.extend(strings("status.loadBalancer.ingress", "hostname"));
            ingress.append(&mut ips);
            joined(&ingress, "<pending>")
        }
        _ => joined(&ips, NONE),
    }
}

fn ports(service: &Value) -> String {
    let port = |port: &Value| {
        let number = |field: &str| port.get(field).and_then(Value::as_i64).unwrap_or(0);
        let protocol = string(port, "protocol", "TCP");
        match number("nodePort") {
            0 => format!("{}/{protocol}", number("port")),
            node_port => format!("{}:{node_port}/{protocol}", number("port")),
        }
    };
    joined(&items(service, "spec.ports").iter().map(port).collect::<Vec<_>>(), NONE)
}

fn last_seen(event: &Value) -> String {
    let candidates = ["series.lastObservedTime", "lastTimestamp", "eventTime", "metadata.creationTimestamp"];
    let seen = candidates.iter().find_map(|path| at(event, path).and_then(Value::as_str));
    since(seen.unwrap_or_default())
}

fn node_status(node: &Value) -> String {
    let ready = items(node, "status.conditions").iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready.and_then(|ready| ready["status"].as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if at(node, "spec.unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = at(node, "metadata.labels").and_then(Value::as_object).into_iter().flatten();
    let mut roles: Vec<_> = labels
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .map(str::to_owned)
        .collect();
    roles.sort();
    joined(&roles, NONE)
}

fn node_address(node: &Value, sort: &str) -> String {
    let address = items(node, "status.addresses").iter().find(|address| address["type"] == sort);
    address.map_or_else(|| NONE.to_owned(), |address| string(address, "address", NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_kubectl_writes_them() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (14_460, "4h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }
}
