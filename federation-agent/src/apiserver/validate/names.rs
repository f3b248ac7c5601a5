//! Names, labels and annotations.

use serde_json::Value;

use crate::apiserver::garbage;
use crate::apiserver::object::Object;
use crate::apiserver::status::FieldErrors;

/// Says what is wrong with a name, or nothing.
pub type Rule = fn(&str) -> Option<String>;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                     validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                          alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
                          'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                         '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
                         for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                         with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                         validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                           '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
                           'my_value',  or '12345', regex used for validation is \
                           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Bytes of all annotations of one object together.
const MOST_ANNOTATION_BYTES: usize = 256 * 1024;

fn too_long(name: &str, most: usize) -> Option<String> {
    (name.len() > most).then(|| format!("must be no more than {most} characters"))
}

fn is_label(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

pub fn dns_label(name: &str) -> Option<String> {
    too_long(name, 63).or_else(|| (!is_label(name)).then(|| LABEL.to_owned()))
}

/// Services: their names become DNS labels that must not start with a digit.
pub fn dns_1035_label(name: &str) -> Option<String> {
    let valid = is_label(name) && name.starts_with(|first: char| first.is_ascii_lowercase());
    too_long(name, 63).or_else(|| (!valid).then(|| LABEL_1035.to_owned()))
}

pub fn dns_subdomain(name: &str) -> Option<String> {
    too_long(name, 253).or_else(|| (!name.split('.').all(is_label)).then(|| SUBDOMAIN.to_owned()))
}

/// A label key's last part, or a label's value: letters, digits, `-`, `_`, `.`, alphanumeric at both ends.
fn is_word(word: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = word.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// Keys of labels and annotations, finalizers: `[prefix/]name`.
pub fn qualified_name(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".to_owned());
        }
        if let Some(wrong) = dns_subdomain(prefix) {
            return Some(format!("prefix part {wrong}"));
        }
    }
    if name.is_empty() {
        Some("name part must be non-empty".to_owned())
    } else if let Some(wrong) = too_long(name, 63) {
        Some(format!("name part {wrong}"))
    } else {
        (!is_word(name)).then(|| QUALIFIED.to_owned())
    }
}

pub fn label_value(value: &str) -> Option<String> {
    too_long(value, 63).or_else(|| (!value.is_empty() && !is_word(value)).then(|| LABEL_VALUE.to_owned()))
}

/// The metadata that every kind has.
pub fn metadata(object: &Value, rule: Rule, errors: &mut FieldErrors) {
    let name = object.name();
    let prefix = object.meta_str("generateName");
    // A prefix may end in dashes: the generated name does not.
    if let Some(wrong) = rule(&format!("{}a", prefix.trim_end_matches('-'))).filter(|_| !prefix.is_empty()) {
        errors.invalid("metadata.generateName", prefix, &wrong);
    }
    if name.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else if let Some(wrong) = rule(name) {
        errors.invalid("metadata.name", name, &wrong);
    }
    let Some(meta) = object.meta() else { return };
    if let Some(labels) = meta.get("labels").and_then(Value::as_object) {
        for (key, value) in labels {
            if let Some(wrong) = qualified_name(key) {
                errors.invalid("metadata.labels", key.as_str(), &wrong);
            }
            if let Some((value, wrong)) = value.as_str().and_then(|value| Some((value, label_value(value)?)))
            {
                errors.invalid("metadata.labels", value, &wrong);
            }
        }
    }
    if let Some(annotations) = meta.get("annotations").and_then(Value::as_object) {
        let mut bytes = 0;
        for (key, value) in annotations {
            bytes += key.len() + value.as_str().map_or(0, str::len);
            if let Some(wrong) = qualified_name(&key.to_lowercase()) {
                errors.invalid("metadata.annotations", key.as_str(), &wrong);
            }
        }
        if bytes > MOST_ANNOTATION_BYTES {
            let detail = format!("may not be more than {MOST_ANNOTATION_BYTES} bytes");
            errors.too_long("metadata.annotations", &detail);
        }
    }
    finalizers(object, errors);
    owner_references(object, errors);
}

fn finalizers(object: &Value, errors: &mut FieldErrors) {
    let finalizers = object.finalizers();
    for finalizer in &finalizers {
        if let Some(wrong) = qualified_name(finalizer) {
            errors.invalid("metadata.finalizers", *finalizer, &wrong);
        }
    }
    if finalizers.contains(&garbage::ORPHAN) && finalizers.contains(&garbage::FOREGROUND) {
        let detail = format!("finalizer {} and {} cannot be both set", garbage::ORPHAN, garbage::FOREGROUND);
        errors.invalid("metadata.finalizers", finalizers, &detail);
    }
}

fn owner_references(object: &Value, errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for (index, reference) in object.owner_references().iter().enumerate() {
        let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
        for (field, what) in [("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")] {
            if text(field).is_empty() {
                let field = format!("metadata.ownerReferences[{index}].{field}");
                errors.invalid(&field, "", &format!("{what} must not be empty"));
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.invalid(&format!("metadata.ownerReferences[{index}]"), reference.clone(), detail);
        }
        if reference.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", text("kind"), text("name"));
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.invalid("metadata.ownerReferences", object.owner_references(), &detail);
            }
            controller.get_or_insert(this);
        }
    }
}

/// What a change of metadata may not do.
pub fn metadata_update(object: &Value, old: &Value, errors: &mut FieldErrors) {
    if !old.is_deleting() {
        return;
    }
    let known = old.finalizers();
    let new: Vec<_> =
        object.finalizers().into_iter().filter(|finalizer| !known.contains(finalizer)).collect();
    if !new.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            new.iter().map(|finalizer| format!("\"{finalizer}\"")).collect::<Vec<_>>().join(", ")
        );
        errors.forbidden("metadata.finalizers", &detail);
    }
}

/// A container port's name (IANA service name).
pub fn port_name(name: &str) -> Option<String> {
    let allowed = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.len() > 15 {
        Some("must be no more than 15 characters".to_owned())
    } else if !allowed || name.is_empty() {
        Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned())
    } else if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        Some("must contain at least one letter (a-z)".to_owned())
    } else if name.contains("--") {
        Some("must not contain consecutive hyphens".to_owned())
    } else {
        (name.starts_with('-') || name.ends_with('-'))
            .then(|| "must not begin or end with a hyphen".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_by_the_rules_of_dns() {
        let long = "a".repeat(64);
        let cases: [(Rule, &[&str], &[&str]); 5] = [
            (dns_label, &["a", "9", "a-b", "0-9"], &["", "A", "-a", "a-", "a.b", "a_b", &long]),
            (dns_1035_label, &["a", "a9", "a-b"], &["", "9", "9a", "a.b", "a-", &long]),
            (dns_subdomain, &["a", "a.b", "9.a-b.c"], &["", "a..b", ".a", "a.", "A.b", "a_b"]),
            (
                qualified_name,
                &["a", "A_b.c", "example.com/a"],
                &["", "/a", "example.com/", "a/b/c", "Example.com/a", "-a"],
            ),
            (port_name, &["http", "a-1"], &["", "80", "-a", "a-", "a--b", "sixteen-letters-", "HTTP"]),
        ];
        for (rule, right, wrong) in cases {
            for name in right {
                assert_eq!(rule(name), None, "{name}");
            }
            for name in wrong {
                assert!(rule(name).is_some(), "{name}");
            }
        }
        assert_eq!(label_value(""), None);
        assert!(label_value("a b").is_some());
    }
}
