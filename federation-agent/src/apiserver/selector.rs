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
    use std::collections::BTreeMap;

    use proptest::prelude::*;
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

    /// One term as a person thinks of it.
    #[derive(Clone, Debug)]
    enum Term {
        In(String, Vec<String>),
        NotIn(String, Vec<String>),
        Is(String, String),
        IsNot(String, String),
        Has(String),
        HasNot(String),
        Above(String, i64),
        Below(String, i64),
    }

    impl Term {
        fn text(&self) -> String {
            match self {
                Self::In(key, values) => format!("{key} in ({})", values.join(",")),
                Self::NotIn(key, values) => format!(" {key}  notin ( {} ) ", values.join(" , ")),
                Self::Is(key, value) => format!("{key}={value}"),
                Self::IsNot(key, value) => format!("{key} != {value}"),
                Self::Has(key) => key.clone(),
                Self::HasNot(key) => format!("!{key}"),
                Self::Above(key, number) => format!("{key}>{number}"),
                Self::Below(key, number) => format!("{key} < {number}"),
            }
        }

        /// Written from the documentation of labels, not from the code above.
        fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
            let number = |key: &String| labels.get(key).and_then(|value| value.parse::<i64>().ok());
            match self {
                Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
                Self::NotIn(key, values) => !labels.get(key).is_some_and(|value| values.contains(value)),
                Self::Is(key, value) => labels.get(key) == Some(value),
                Self::IsNot(key, value) => labels.get(key) != Some(value),
                Self::Has(key) => labels.contains_key(key),
                Self::HasNot(key) => !labels.contains_key(key),
                Self::Above(key, than) => number(key).is_some_and(|number| number > *than),
                Self::Below(key, than) => number(key).is_some_and(|number| number < *than),
            }
        }
    }

    fn term() -> impl Strategy<Value = Term> {
        let key = || prop::sample::select(vec!["a", "tier", "example.com/rank"]).prop_map(str::to_owned);
        let value = || prop::sample::select(vec!["", "1", "2", "front", "a_b.c-d"]).prop_map(str::to_owned);
        let values = || prop::collection::vec(value(), 1..3);
        prop_oneof![
            (key(), values()).prop_map(|(key, values)| Term::In(key, values)),
            (key(), values()).prop_map(|(key, values)| Term::NotIn(key, values)),
            (key(), value()).prop_map(|(key, value)| Term::Is(key, value)),
            (key(), value()).prop_map(|(key, value)| Term::IsNot(key, value)),
            key().prop_map(Term::Has),
            key().prop_map(Term::HasNot),
            (key(), 0..3_i64).prop_map(|(key, number)| Term::Above(key, number)),
            (key(), 0..3_i64).prop_map(|(key, number)| Term::Below(key, number)),
        ]
    }

    proptest! {
        #[test]
        fn a_selector_matches_where_each_of_its_terms_holds(
            terms in prop::collection::vec(term(), 0..5),
            labels in prop::collection::btree_map(
                prop::sample::select(vec!["a", "tier", "example.com/rank"]).prop_map(str::to_owned),
                prop::sample::select(vec!["", "1", "2", "front", "a_b.c-d"]).prop_map(str::to_owned),
                0..3,
            ),
        ) {
            let text = terms.iter().map(Term::text).collect::<Vec<_>>().join(",");
            let selector = Selector::parse(&SERVICE, &text, "");
            let selector = selector.map_err(|refusal| TestCaseError::fail(format!("{text}: {refusal}")))?;
            let object = json!({ "metadata": { "labels": labels } });
            prop_assert_eq!(selector.matches(&object), terms.iter().all(|term| term.holds(&labels)), "{}", text);
        }

        #[test]
        fn field_terms_compare_what_stands_there(
            name in "[a-c]", namespace in "[x-z]", wanted in "[a-c]", place in "[x-z]", equal in any::<bool>(),
        ) {
            let sign = if equal { "=" } else { "!=" };
            let text = format!("metadata.name{sign}{wanted},metadata.namespace=={place}");
            let selector = Selector::parse(&SERVICE, "", &text).expect("a selector");
            let object = json!({ "metadata": { "name": name, "namespace": namespace } });
            prop_assert_eq!(selector.matches(&object), (name == wanted) == equal && namespace == place);
        }

        #[test]
        fn no_text_is_too_odd_to_be_answered(text in "[a-z0-9(),!=<> ./-]{0,24}") {
            // Understood or refused; it comes from anyone.
            drop(Selector::parse(&SERVICE, &text, &text));
        }
    }
}
