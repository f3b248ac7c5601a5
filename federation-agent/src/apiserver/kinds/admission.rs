//! What every object passes before it is stored: decoded as its type, defaulted, validated.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::apiserver::status::FieldErrors;

/// A kind's own rules. Metadata has its own, the same for every kind.
pub trait Admission: Serialize + DeserializeOwned {
    /// Fills in what kube-apiserver fills in. `old` is what is stored, on an update.
    fn set_defaults(&mut self, _old: Option<&Self>) {}

    /// Reports what kube-apiserver would refuse.
    fn validate(&self, _old: Option<&Self>, _errors: &mut FieldErrors) {}
}

/// Admits a JSON object, given what is stored under its name.
pub type Admit = fn(&Value, Option<&Value>) -> Result<Admitted, Refusal>;

/// An object fit to be stored.
#[derive(Debug)]
pub struct Admitted {
    pub object: Value,
    /// Paths of fields that the kind does not have; they are not in `object`.
    pub unknown_fields: Vec<String>,
    pub faults: FieldErrors,
}

/// Why an object is not even of its kind.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Undecodable(String),
    /// The field with this path is required, and not there.
    Missing(String),
}

/// The [`Admit`] of a type.
pub fn admit<T: Admission>(object: &Value, old: Option<&Value>) -> Result<Admitted, Refusal> {
    let mut unknown_fields = Vec::new();
    // Every object has a kind, also those whose type has no field for it.
    let mut note = |path: String| {
        if path != "apiVersion" && path != "kind" {
            unknown_fields.push(path);
        }
    };
    let mut typed: T = decode(object, &mut note)?;
    let old = old.map(|old| decode::<T>(old, drop)).transpose()?;
    typed.set_defaults(old.as_ref());
    let mut faults = FieldErrors::default();
    typed.validate(old.as_ref(), &mut faults);
    let object = serde_json::to_value(&typed).map_err(|error| Refusal::Undecodable(error.to_string()))?;
    Ok(Admitted { object, unknown_fields, faults })
}

fn decode<T: DeserializeOwned>(object: &Value, mut unknown: impl FnMut(String)) -> Result<T, Refusal> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(object, &mut track);
    let decoded =
        serde_ignored::deserialize(deserializer, |path| unknown(bracket_indices(&path.to_string())));
    decoded.map_err(|error| {
        let (path, error) = (track.path().to_string(), error.to_string());
        match error.strip_prefix("missing field `").and_then(|name| name.strip_suffix('`')) {
            Some(name) if path == "." => Refusal::Missing(name.to_owned()),
            Some(name) => Refusal::Missing(format!("{path}.{name}")),
            None => Refusal::Undecodable(format!("{path}: {error}")),
        }
    })
}

/// `spec.ports.0.nam` as kube-apiserver writes it: `spec.ports[0].nam`.
fn bracket_indices(path: &str) -> String {
    let mut written = String::new();
    // `?` is how serde_ignored marks the inside of an optional value.
    for part in path.split('.').filter(|part| *part != "?") {
        if !written.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            written.extend(["[", part, "]"]);
        } else {
            if !written.is_empty() {
                written.push('.');
            }
            written.push_str(part);
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Cluster;

    #[test]
    fn what_is_required_and_missing_is_named_by_its_path() {
        let cases = [
            (json!({ "metadata": { "name": "one" } }), Refusal::Missing("spec".to_owned())),
            (
                json!({ "metadata": { "name": "one" }, "spec": { "server": "https://192.0.2.1" } }),
                Refusal::Missing("spec.credentialsRef".to_owned()),
            ),
            (
                json!({ "metadata": { "name": "one" }, "spec": { "server": "https://192.0.2.1", "credentialsRef": {} } }),
                Refusal::Missing("spec.credentialsRef.name".to_owned()),
            ),
        ];
        for (object, expected) in cases {
            assert_eq!(
                admit::<Cluster>(&object, None).expect_err("it lacks something"),
                expected,
                "{object}"
            );
        }
    }
}
