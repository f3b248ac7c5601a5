//! Kubernetes objects in Protocol Buffers, read into the JSON that everything else here speaks.
//!
//! Only the kinds that kubectl itself composes (`kubectl create namespace|service|secret|configmap`) and what a delete
//! carries; the numbers are those of `generated.proto` in k8s.io/api.

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::{Field, Malformed, Reader};

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Before every object: `k8s` and a zero.
const MAGIC: &[u8] = b"k8s\0";

/// What a field holds.
#[derive(Clone, Copy)]
enum Sort {
    Text,
    Number,
    Flag,
    Time,
    IntOrString,
    Message(Fields),
    /// From text to this.
    MapOf(&'static Sort),
    ListOf(&'static Sort),
    Bytes,
}

use Sort::{Bytes, Flag, IntOrString, ListOf, MapOf, Message, Number, Text};

/// The fields of a message: number, name in JSON, content.
type Fields = &'static [(u64, &'static str, Sort)];

const OWNER_REFERENCE: Fields = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", Flag),
    (7, "blockOwnerDeletion", Flag),
];

const METADATA: Fields = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Number),
    (8, "creationTimestamp", Sort::Time),
    (9, "deletionTimestamp", Sort::Time),
    (10, "deletionGracePeriodSeconds", Number),
    (11, "labels", MapOf(&Text)),
    (12, "annotations", MapOf(&Text)),
    (13, "ownerReferences", ListOf(&Message(OWNER_REFERENCE))),
    (14, "finalizers", ListOf(&Text)),
];

const NAMESPACE: Fields =
    &[(1, "metadata", Message(METADATA)), (2, "spec", Message(&[(1, "finalizers", ListOf(&Text))]))];

const SERVICE_PORT: Fields = &[
    (1, "name", Text),
    (2, "protocol", Text),
    (3, "port", Number),
    (4, "targetPort", IntOrString),
    (5, "nodePort", Number),
    (6, "appProtocol", Text),
];

const SESSION_AFFINITY_CONFIG: Fields = &[(1, "clientIP", Message(&[(1, "timeoutSeconds", Number)]))];

const SERVICE_SPEC: Fields = &[
    (1, "ports", ListOf(&Message(SERVICE_PORT))),
    (2, "selector", MapOf(&Text)),
    (3, "clusterIP", Text),
    (4, "type", Text),
    (5, "externalIPs", ListOf(&Text)),
    (7, "sessionAffinity", Text),
    (8, "loadBalancerIP", Text),
    (9, "loadBalancerSourceRanges", ListOf(&Text)),
    (10, "externalName", Text),
    (11, "externalTrafficPolicy", Text),
    (12, "healthCheckNodePort", Number),
    (13, "publishNotReadyAddresses", Flag),
    (14, "sessionAffinityConfig", Message(SESSION_AFFINITY_CONFIG)),
    (17, "ipFamilyPolicy", Text),
    (18, "clusterIPs", ListOf(&Text)),
    (19, "ipFamilies", ListOf(&Text)),
    (20, "allocateLoadBalancerNodePorts", Flag),
    (21, "loadBalancerClass", Text),
    (22, "internalTrafficPolicy", Text),
    (23, "trafficDistribution", Text),
];

const SERVICE: Fields = &[(1, "metadata", Message(METADATA)), (2, "spec", Message(SERVICE_SPEC))];

const SECRET: Fields = &[
    (1, "metadata", Message(METADATA)),
    (2, "data", MapOf(&Bytes)),
    (3, "type", Text),
    (4, "stringData", MapOf(&Text)),
    (5, "immutable", Flag),
];

const CONFIG_MAP: Fields = &[
    (1, "metadata", Message(METADATA)),
    (2, "data", MapOf(&Text)),
    (3, "binaryData", MapOf(&Bytes)),
    (4, "immutable", Flag),
];

const DELETE_OPTIONS: Fields = &[
    (1, "gracePeriodSeconds", Number),
    (2, "preconditions", Message(&[(1, "uid", Text), (2, "resourceVersion", Text)])),
    (4, "propagationPolicy", Text),
    (5, "dryRun", ListOf(&Text)),
];

fn fields_of(kind: &str) -> Option<Fields> {
    Some(match kind {
        "Namespace" => NAMESPACE,
        "Service" => SERVICE,
        "Secret" => SECRET,
        "ConfigMap" => CONFIG_MAP,
        "DeleteOptions" => DELETE_OPTIONS,
        _ => return None,
    })
}

/// The object in `body`, or none where its kind is not one of those read here.
pub fn decode_object(body: &[u8]) -> Result<Option<Value>, Malformed> {
    const ENVELOPE: Fields =
        &[(1, "type", Message(&[(1, "apiVersion", Text), (2, "kind", Text)])), (2, "raw", Bytes)];
    let envelope = body.strip_prefix(MAGIC).ok_or(Malformed)?;
    let raw = Reader::new(envelope).find_map(|field| match field {
        Ok((2, Field::Bytes(raw))) => Some(raw),
        _ => None,
    });
    let envelope = message(envelope, ENVELOPE)?;
    let text =
        |field: &str| envelope.get("type").and_then(|sort| sort.get(field)).cloned().unwrap_or_default();
    let Some(fields) = text("kind").as_str().and_then(fields_of) else { return Ok(None) };
    let mut object = message(raw.unwrap_or_default(), fields)?;
    object.insert("apiVersion".to_owned(), text("apiVersion"));
    object.insert("kind".to_owned(), text("kind"));
    Ok(Some(Value::Object(object)))
}

/// Go writes fields that are not set as zero, and JSON leaves them out.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Bool(_) => false,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn message(bytes: &[u8], fields: Fields) -> Result<Map<String, Value>, Malformed> {
    let mut object = Map::new();
    for field in Reader::new(bytes) {
        let (number, content) = field?;
        let Some((_, name, sort)) = fields.iter().find(|(known, _, _)| *known == number) else { continue };
        match sort {
            ListOf(item) => {
                let item = value(content, **item)?;
                if let Value::Array(items) = object.entry(*name).or_insert_with(|| Value::Array(Vec::new())) {
                    items.push(item);
                }
            }
            MapOf(item) => {
                let (key, item) = entry(content, **item)?;
                if let Value::Object(entries) =
                    object.entry(*name).or_insert_with(|| Value::Object(Map::new()))
                {
                    entries.insert(key, item);
                }
            }
            single => {
                let value = value(content, *single)?;
                if !is_unset(&value) {
                    object.insert((*name).to_owned(), value);
                }
            }
        }
    }
    Ok(object)
}

/// An entry of a map: a message of key and value. Either is left out where it is empty.
fn entry(content: Field<'_>, item: Sort) -> Result<(String, Value), Malformed> {
    let Field::Bytes(bytes) = content else { return Err(Malformed) };
    let mut key = String::new();
    let mut held = value(Field::Bytes(b""), item)?;
    for field in Reader::new(bytes) {
        match field? {
            (1, content) => key = text(content)?,
            (2, content) => held = value(content, item)?,
            _ => {}
        }
    }
    Ok((key, held))
}

fn text(content: Field<'_>) -> Result<String, Malformed> {
    let Field::Bytes(bytes) = content else { return Err(Malformed) };
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed)
}

fn value(content: Field<'_>, sort: Sort) -> Result<Value, Malformed> {
    Ok(match (sort, content) {
        (Text, content) => text(content)?.into(),
        // Negative numbers are written as their 64-bit complement.
        (Number, Field::Number(number)) => number.cast_signed().into(),
        (Flag, Field::Number(number)) => (number != 0).into(),
        (Bytes, Field::Bytes(bytes)) => {
            serde_json::to_value(ByteString(bytes.to_vec())).map_err(|_| Malformed)?
        }
        (Message(fields), Field::Bytes(bytes)) => Value::Object(message(bytes, fields)?),
        (Sort::Time, Field::Bytes(bytes)) => {
            let time = message(bytes, &[(1, "seconds", Number)])?;
            match time.get("seconds").and_then(Value::as_i64).map(Timestamp::from_second) {
                Some(Ok(time)) => serde_json::to_value(Time(time)).map_err(|_| Malformed)?,
                Some(Err(_)) => return Err(Malformed),
                None => Value::Null,
            }
        }
        (IntOrString, Field::Bytes(bytes)) => {
            let mut either =
                message(bytes, &[(1, "isString", Number), (2, "number", Number), (3, "text", Text)])?;
            let field = if either.contains_key("isString") { "text" } else { "number" };
            either.remove(field).unwrap_or_default()
        }
        _ => return Err(Malformed),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::wire::Writer;
    use super::*;

    fn envelope(kind: &str, raw: &Writer) -> Vec<u8> {
        let sort = Writer::default().text(1, "v1").text(2, kind);
        let unknown = Writer::default().message(1, &sort).message(2, raw).text(3, "").text(4, "");
        [MAGIC, &unknown.into_bytes()].concat()
    }

    #[test]
    fn a_service_reads_as_its_json() {
        let label = Writer::default().text(1, "app").text(2, "web");
        let metadata =
            Writer::default().text(1, "web").text(3, "").message(8, &Writer::default()).message(11, &label);
        // port 80 (field 3), target port "http" (a string: type 1)
        let target =
            [&[0x08, 0x01, 0x10, 0x00][..], &Writer::default().text(3, "http").into_bytes()].concat();
        let port =
            [&[0x18, 80][..], &Writer::default().text(1, "web").bytes(4, &target).into_bytes()].concat();
        let spec = Writer::default().bytes(1, &port).text(4, "ClusterIP");
        let service =
            Writer::default().message(1, &metadata).message(2, &spec).message(3, &Writer::default());
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "web", "labels": { "app": "web" } },
            "spec": { "ports": [{ "port": 80, "name": "web", "targetPort": "http" }], "type": "ClusterIP" },
        });
        assert_eq!(decode_object(&envelope("Service", &service)), Ok(Some(expected)));
    }

    #[test]
    fn a_secret_keeps_bytes_and_empty_values() {
        let data = Writer::default().text(1, "token").bytes(2, &[0xff, 0x00]);
        let empty = Writer::default().text(1, "nothing");
        let secret = Writer::default().message(2, &data).message(2, &empty);
        let object = decode_object(&envelope("Secret", &secret)).expect("well-formed").expect("a known kind");
        assert_eq!(object["data"], json!({ "token": "/wA=", "nothing": "" }));
    }

    /// A field that holds a number.
    fn number(field: u8, value: &[u8]) -> Vec<u8> {
        [&[field << 3][..], value].concat()
    }

    #[test]
    fn each_sort_of_field_becomes_what_it_is_in_json() {
        let raw = |parts: &[Vec<u8>]| Writer::default().bytes(1, &parts.concat());
        let pair = |key: &str, value: &[u8]| Writer::default().text(1, key).bytes(2, value);
        let seconds = number(1, &[0x80, 0xf2, 0xd6, 0xca, 0x06]);
        let owner = Writer::default().text(1, "ConfigMap").text(3, "a").text(4, "u").text(5, "v1");
        let owner = [owner.into_bytes(), number(6, &[1]), number(7, &[0])].concat();
        let metadata = Writer::default()
            .text(2, "web-")
            .bytes(8, &seconds)
            .bytes(13, &owner)
            .text(14, "example.com/hold")
            .text(14, "example.com/late");
        let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let cases = [
            (
                "Namespace",
                Writer::default().message(1, &metadata),
                json!({ "metadata": {
                    "generateName": "web-",
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                    "ownerReferences": [{
                        "kind": "ConfigMap", "name": "a", "uid": "u", "apiVersion": "v1",
                        "controller": true, "blockOwnerDeletion": false,
                    }],
                    "finalizers": ["example.com/hold", "example.com/late"],
                } }),
            ),
            (
                "ConfigMap",
                Writer::default().message(2, &pair("text", b"a b")).message(3, &pair("bytes", &[0xff])),
                json!({ "data": { "text": "a b" }, "binaryData": { "bytes": "/w==" } }),
            ),
            (
                "Secret",
                Writer::default().text(3, "Opaque").message(4, &pair("token", b"x")),
                json!({ "type": "Opaque", "stringData": { "token": "x" } }),
            ),
            (
                "DeleteOptions",
                Writer::default()
                    .message(2, &Writer::default().text(1, "u").text(2, "7"))
                    .text(4, "Foreground")
                    .text(5, "All"),
                json!({
                    "preconditions": { "uid": "u", "resourceVersion": "7" },
                    "propagationPolicy": "Foreground", "dryRun": ["All"],
                }),
            ),
            (
                "Service",
                Writer::default().message(2, &raw(&[number(3, &negative), number(5, &[0])])),
                json!({ "spec": { "ports": [{ "port": -1 }] } }),
            ),
        ];
        for (kind, message, mut expected) in cases {
            expected["apiVersion"] = "v1".into();
            expected["kind"] = kind.into();
            assert_eq!(decode_object(&envelope(kind, &message)), Ok(Some(expected)), "{kind}");
        }
    }

    #[test]
    fn other_kinds_are_none_and_other_bytes_are_malformed() {
        assert_eq!(decode_object(&envelope("Pod", &Writer::default())), Ok(None));
        assert_eq!(decode_object(b"{}"), Err(Malformed));
    }
}
