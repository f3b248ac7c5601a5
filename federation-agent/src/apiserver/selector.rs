//! Label and field selectors, as lists and watches carry them.

use serde_json::Value;

use super::kinds::Kind;
use super::object::{Object as _, at};
use super::status::ApiError;
use super::validate::names;

/// Which objects a reader wants.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

/// One term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    /// Also true where the label is absent.
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// `labels` and `fields` as in the query of a request for `kind`.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = split_terms(labels)
            .map(|term| {
                Requirement::parse(term).map_err(|why| {
                    ApiError::bad_request(format!("unable to parse requirement: {why} (in \"{labels}\")"))
                })
            })
            .collect::<Result<_, _>>()?;
        let fields = fields
            .split(',')
            .filter(|term| !term.is_empty())
            .map(|term| FieldTerm::parse(kind, term))
            .collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.labels.iter().all(|requirement| requirement.matches(object))
            && self.fields.iter().all(|term| term.matches(object))
    }
}

/// At the commas that are not inside parentheses.
fn split_terms(selector: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    selector
        .split(move |c: char| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(str::trim)
        .filter(|term| !term.is_empty())
}

// === impl Requirement ===

impl Requirement {
    fn parse(term: &str) -> Result<Self, String> {
        let key = |key: &str| {
            let key = key.trim();
            names::qualified_name(key)
                .map_or(Ok(key.to_owned()), |wrong| Err(format!("key \"{key}\": {wrong}")))
        };
        let value = |value: &str| {
            let value = value.trim();
            names::label_value(value)
                .map_or(Ok(value.to_owned()), |wrong| Err(format!("value \"{value}\": {wrong}")))
        };
        let number = |value: &str| {
            let value = value.trim();
            value.parse().map_err(|_| {
                format!("for 'Gt', 'Lt' operators, the value must be an integer, not \"{value}\"")
            })
        };
        if let Some(list) = term.strip_suffix(')') {
            let (head, list) =
                list.split_once('(').ok_or_else(|| format!("found ')' without '(' in \"{term}\""))?;
            let values = list.split(',').map(value).collect::<Result<_, _>>()?;
            let (name, operator) = head
                .trim()
                .rsplit_once(char::is_whitespace)
                .ok_or_else(|| format!("no operator in \"{term}\""))?;
            return match operator {
                "in" => Ok(Self::In(key(name)?, values)),
                "notin" => Ok(Self::NotIn(key(name)?, values)),
                other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
            };
        }
        if let Some((name, is)) = term.split_once("!=") {
            Ok(Self::NotIn(key(name)?, vec![value(is)?]))
        } else if let Some((name, is)) = term.split_once("==").or_else(|| term.split_once('=')) {
            Ok(Self::In(key(name)?, vec![value(is)?]))
        } else if let Some((name, than)) = term.split_once('>') {
            Ok(Self::Greater(key(name)?, number(than)?))
        } else if let Some((name, than)) = term.split_once('<') {
            Ok(Self::Less(key(name)?, number(than)?))
        } else if let Some(name) = term.strip_prefix('!') {
            Ok(Self::Absent(key(name)?))
        } else {
            Ok(Self::Exists(key(term)?))
        }
    }

    fn matches(&self, object: &Value) -> bool {
        let is = |value: &str, values: &[String]| values.iter().any(|one| one == value);
        let number = |key: &str| object.label(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(key, values) => object.label(key).is_some_and(|value| is(value, values)),
            Self::NotIn(key, values) => object.label(key).is_none_or(|value| !is(value, values)),
            Self::Exists(key) => object.label(key).is_some(),
            Self::Absent(key) => object.label(key).is_none(),
            Self::Greater(key, than) => number(key).is_some_and(|value| value > *than),
            Self::Less(key, than) => number(key).is_some_and(|value| value < *than),
        }
    }
}

// === impl FieldTerm ===

impl FieldTerm {
    fn parse(kind: &Kind, term: &str) -> Result<Self, ApiError> {
        let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
            (path, value, false)
        } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            (path, value, true)
        } else {
            let message = format!("invalid selector: '{term}'; can't understand '{term}'");
            return Err(ApiError::bad_request(message));
        };
        let known = path == "metadata.name"
            || (path == "metadata.namespace" && kind.namespaced)
            || kind.selectable.contains(&path);
        if !known {
            let message = format!("field label not supported: {path}");
            return Err(ApiError::bad_request(message));
        }
        Ok(Self { path: path.to_owned(), value: value.to_owned(), equal })
    }

    fn matches(&self, object: &Value) -> bool {
        let value = match at(object, &self.path) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        (value == self.value) == self.equal
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::kinds::SERVICE;

    #[test]
    fn label_selectors_match_as_on_any_cluster() {
        let object = json!({ "metadata": { "labels": { "tier": "front", "example.com/rank": "7" } } });
        let cases = [
            ("", true),
            ("tier=front", true),
            ("tier==front", true),
            ("tier = back", false),
            ("tier!=back", true),
            ("other!=back", true),
            ("tier in (front, back)", true),
            ("tier in (back)", false),
            ("tier notin (back)", true),
            ("other notin (back)", true),
            ("tier", true),
            ("!tier", false),
            ("!other", true),
            ("example.com/rank>6", true),
            ("example.com/rank<7", false),
            ("tier=front,!other,example.com/rank in (7,8)", true),
            ("tier=front,other", false),
            ("empty in ()", false),
        ];
        for (selector, expected) in cases {
            let parsed =
                Selector::parse(&SERVICE, selector, "").unwrap_or_else(|error| panic!("{selector}: {error}"));
            assert_eq!(parsed.matches(&object), expected, "{selector}");
        }
    }

    #[test]
    fn selectors_that_mean_nothing_are_refused() {
        for selector in ["a in front", "a on (b)", "a)", "=b", "a=b c", "/a", "a>b", "-a"] {
            assert!(Selector::parse(&SERVICE, selector, "").is_err(), "{selector}");
        }
        for selector in ["metadata.name", "spec.ports=80"] {
            assert!(Selector::parse(&SERVICE, "", selector).is_err(), "{selector}");
        }
    }
}
