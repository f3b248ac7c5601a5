//! The definitions of our kinds, for a kube-apiserver that shall serve them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::Value;

use super::{Cluster, FederatedService, about, mcs};

/// One kind's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// As the field's tools name such files: group and plural.
    pub file_name: String,
    pub yaml: String,
}

/// Of the kinds that a kube-apiserver does not have, in the order of our own server's table.
pub fn custom_resource_definitions() -> Vec<CustomResourceDefinition> {
    let ours = [Cluster::crd(), FederatedService::crd()];
    ours.into_iter().chain(mcs::definitions()).chain(about::definitions()).collect()
}

/// One for each kind.
///
/// # Errors
/// None that a built binary could meet: the definitions are constants.
pub fn definitions() -> Result<Vec<Definition>, serde_yaml_ng::Error> {
    custom_resource_definitions().iter().map(definition).collect()
}

fn definition(crd: &CustomResourceDefinition) -> Result<Definition, serde_yaml_ng::Error> {
    let mut value = serde_yaml_ng::to_value(crd).and_then(serde_yaml_ng::from_value::<Value>)?;
    strip_formats(&mut value);
    let file_name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
    Ok(Definition { file_name, yaml: serde_yaml_ng::to_string(&value)? })
}

/// Takes out the formats of Rust's integers, which an API server does not know and warns of. Their bounds stand beside.
fn strip_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                fields.remove("format");
            }
            fields.values_mut().for_each(strip_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_formats),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;

    /// What a kube-apiserver knows (apiextensions, `supportedVersionedFormats`); of others it warns.
    const FORMATS: [&str; 5] = ["int32", "int64", "date-time", "cidr", "double"];

    #[test]
    fn the_definitions_in_deploy_are_those_of_the_types() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
        let there = fs::read_dir(&folder).expect("deploy/crds").map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("text"))
        });
        let made = definitions().unwrap().into_iter().map(|made| (made.file_name, made.yaml));
        let (mut there, made): (BTreeMap<_, _>, BTreeMap<_, _>) = (there.collect(), made.collect());
        let whole = there.remove("kustomization.yaml").expect("it names them");
        let whole: Value = serde_yaml_ng::from_str(&whole).expect("YAML");
        let names: Value = made.keys().cloned().collect();
        assert_eq!(whole["resources"], names, "kustomization.yaml");
        assert!(
            there == made,
            "run `cargo xtask crds`: {:?} are there, {:?} are made",
            there.keys(),
            made.keys()
        );
    }

    /// The rules for structural schemas that a kube-apiserver has: every value has a type, and nothing that could mean
    /// several things.
    fn check_structure(path: &str, schema: &Value, faults: &mut Vec<String>) {
        let Some(fields) = schema.as_object() else {
            faults.push(format!("{path} is no schema"));
            return;
        };
        let is_open = fields.contains_key("x-kubernetes-int-or-string");
        if !fields.get("type").is_some_and(Value::is_string) && !is_open {
            faults.push(format!("{path} has no type"));
        }
        for keyword in
            ["$ref", "definitions", "$defs", "oneOf", "anyOf", "allOf", "not", "const", "if", "title"]
        {
            // The title at the root is for people.
            if fields.contains_key(keyword) && !(keyword == "title" && path == ".") {
                faults.push(format!("{path} has {keyword}"));
            }
        }
        if fields.contains_key("properties") && fields.contains_key("additionalProperties") {
            faults.push(format!("{path} has properties and additionalProperties"));
        }
        if let Some(format) =
            fields.get("format").and_then(Value::as_str).filter(|format| !FORMATS.contains(format))
        {
            faults.push(format!("{path} has the unknown format {format}"));
        }
        for (name, schema) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
            check_structure(&format!("{path}{name}."), schema, faults);
        }
        for (name, schema) in [("items", fields.get("items")), ("values", fields.get("additionalProperties"))]
        {
            if let Some(schema) = schema.filter(|schema| schema.is_object()) {
                check_structure(&format!("{path}{name}."), schema, faults);
            }
        }
    }

    #[test]
    fn every_schema_is_structural_and_every_kind_has_a_status_of_its_own_and_columns() {
        for definition in definitions().unwrap() {
            let crd: Value = serde_yaml_ng::from_str(&definition.yaml).unwrap();
            let mut faults = Vec::new();
            for version in crd["spec"]["versions"].as_array().expect("versions") {
                check_structure(".", &version["schema"]["openAPIV3Schema"], &mut faults);
                assert!(version["subresources"]["status"].is_object(), "{}", definition.file_name);
                assert!(
                    version["additionalPrinterColumns"].as_array().is_some_and(|columns| !columns.is_empty())
                );
            }
            assert_eq!(faults, Vec::<String>::new(), "{}", definition.file_name);
        }
    }

    #[test]
    fn what_no_cluster_and_no_service_may_have_is_refused_by_the_definition_itself() {
        let all: Vec<Value> =
            definitions().unwrap().iter().map(|made| serde_yaml_ng::from_str(&made.yaml).unwrap()).collect();
        let spec = |kind: usize, path: &str| {
            let root = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
            all[kind].pointer(&format!("{root}/{path}")).unwrap_or_else(|| panic!("{path}")).clone()
        };
        assert_eq!(spec(0, "zones/minItems"), 1);
        assert_eq!(spec(0, "networks/minItems"), 1);
        assert_eq!(spec(0, "networks/items/format"), "cidr");
        assert_eq!(spec(0, "region/minLength"), 1);
        assert_eq!(spec(0, "credentialsRef/properties/name/minLength"), 1);
        assert_eq!(spec(0, "reachability/default"), "Pod");
        assert_eq!(
            spec(0, "server/x-kubernetes-validations/0/message"),
            "must be an https URL, like https://203.0.113.7:6443"
        );
        assert_eq!(spec(1, "weights/items/properties/weight/maximum").as_f64(), Some(1000.0));
        assert_eq!(spec(1, "weights/items/properties/cluster/minLength"), 1);
        assert_eq!(spec(1, "overprovisioningPercent/minimum").as_f64(), Some(100.0));
        assert_eq!(spec(1, "healthCheck/properties/port/minimum").as_f64(), Some(1.0));
    }
}
