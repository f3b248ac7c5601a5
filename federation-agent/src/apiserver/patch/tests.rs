//! The patches of the standards' own appendices, and what holds of all.

use json_patch::diff;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::apiserver::kinds::SERVICE;

/// Applies `patch` in `language` to a document, as the server does to an object.
fn patched(language: &str, document: &Value, patch: &Value) -> Result<Value, ApiError> {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, language.parse().expect("a header"));
    let body = patch.to_string().into();
    Patch::decode(&SERVICE, &headers, &body)?.apply_to(&SERVICE, document)
}

#[test]
fn operations_do_what_the_appendix_of_rfc_6902_says() {
    let cases = [
        (
            "A.1",
            json!({ "foo": "bar" }),
            json!([{ "op": "add", "path": "/baz", "value": "qux" }]),
            Some(json!({ "baz": "qux", "foo": "bar" })),
        ),
        (
            "A.2",
            json!({ "foo": ["bar", "baz"] }),
            json!([{ "op": "add", "path": "/foo/1", "value": "qux" }]),
            Some(json!({ "foo": ["bar", "qux", "baz"] })),
        ),
        (
            "A.3",
            json!({ "baz": "qux", "foo": "bar" }),
            json!([{ "op": "remove", "path": "/baz" }]),
            Some(json!({ "foo": "bar" })),
        ),
        (
            "A.4",
            json!({ "foo": ["bar", "qux", "baz"] }),
            json!([{ "op": "remove", "path": "/foo/1" }]),
            Some(json!({ "foo": ["bar", "baz"] })),
        ),
        (
            "A.5",
            json!({ "baz": "qux", "foo": "bar" }),
            json!([{ "op": "replace", "path": "/baz", "value": "boo" }]),
            Some(json!({ "baz": "boo", "foo": "bar" })),
        ),
        (
            "A.6",
            json!({ "foo": { "bar": "baz", "waldo": "fred" }, "qux": { "corge": "grault" } }),
            json!([{ "op": "move", "from": "/foo/waldo", "path": "/qux/thud" }]),
            Some(json!({ "foo": { "bar": "baz" }, "qux": { "corge": "grault", "thud": "fred" } })),
        ),
        (
            "A.7",
            json!({ "foo": ["all", "grass", "cows", "eat"] }),
            json!([{ "op": "move", "from": "/foo/1", "path": "/foo/3" }]),
            Some(json!({ "foo": ["all", "cows", "eat", "grass"] })),
        ),
        (
            "A.8",
            json!({ "baz": "qux", "foo": ["a", 2, "c"] }),
            json!([{ "op": "test", "path": "/baz", "value": "qux" }, { "op": "test", "path": "/foo/1", "value": 2 }]),
            Some(json!({ "baz": "qux", "foo": ["a", 2, "c"] })),
        ),
        ("A.9", json!({ "baz": "qux" }), json!([{ "op": "test", "path": "/baz", "value": "bar" }]), None),
        (
            "A.10",
            json!({ "foo": "bar" }),
            json!([{ "op": "add", "path": "/child", "value": { "grandchild": {} } }]),
            Some(json!({ "foo": "bar", "child": { "grandchild": {} } })),
        ),
        (
            "A.11",
            json!({ "foo": "bar" }),
            json!([{ "op": "add", "path": "/baz", "value": "qux", "xyz": 123 }]),
            Some(json!({ "foo": "bar", "baz": "qux" })),
        ),
        ("A.12", json!({ "foo": "bar" }), json!([{ "op": "add", "path": "/baz/bat", "value": "qux" }]), None),
        (
            "A.14",
            json!({ "/": 9, "~1": 10 }),
            json!([{ "op": "test", "path": "/~01", "value": 10 }]),
            Some(json!({ "/": 9, "~1": 10 })),
        ),
        ("A.15", json!({ "/": 9, "~1": 10 }), json!([{ "op": "test", "path": "/~01", "value": "10" }]), None),
        (
            "A.16",
            json!({ "foo": ["bar"] }),
            json!([{ "op": "add", "path": "/foo/-", "value": ["abc", "def"] }]),
            Some(json!({ "foo": ["bar", ["abc", "def"]] })),
        ),
    ];
    for (section, document, patch, expected) in cases {
        assert_eq!(patched(JSON_PATCH, &document, &patch).ok(), expected, "{section}");
    }
    // A.13: which of two members of one name counts is anyone's guess, so the patch is refused.
    let twice = r#"[{ "op": "add", "path": "/baz", "value": "qux", "op": "remove" }]"#;
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, JSON_PATCH.parse().expect("a header"));
    let decoded = Patch::decode(&SERVICE, &headers, &twice.into());
    assert!(decoded.and_then(|patch| patch.apply_to(&SERVICE, &json!({ "foo": "bar" }))).is_err(), "A.13");
}

#[test]
fn merges_do_what_the_appendix_of_rfc_7386_says() {
    let cases = [
        (json!({ "a": "b" }), json!({ "a": "c" }), json!({ "a": "c" })),
        (json!({ "a": "b" }), json!({ "b": "c" }), json!({ "a": "b", "b": "c" })),
        (json!({ "a": "b" }), json!({ "a": null }), json!({})),
        (json!({ "a": "b", "b": "c" }), json!({ "a": null }), json!({ "b": "c" })),
        (json!({ "a": ["b"] }), json!({ "a": "c" }), json!({ "a": "c" })),
        (json!({ "a": "c" }), json!({ "a": ["b"] }), json!({ "a": ["b"] })),
        (json!({ "a": { "b": "c" } }), json!({ "a": { "b": "d", "c": null } }), json!({ "a": { "b": "d" } })),
        (json!({ "a": [{ "b": "c" }] }), json!({ "a": [1] }), json!({ "a": [1] })),
        (json!({ "e": null }), json!({ "a": 1 }), json!({ "e": null, "a": 1 })),
        (json!([1, 2]), json!({ "a": "b", "c": null }), json!({ "a": "b" })),
        (json!({}), json!({ "a": { "bb": { "ccc": null } } }), json!({ "a": { "bb": {} } })),
    ];
    for (document, patch, expected) in cases {
        assert_eq!(
            patched(MERGE_PATCH, &document, &patch).expect("a patch"),
            expected,
            "{patch} of {document}"
        );
    }
    // The appendix also merges what is no object; nothing of that kind is a resource.
    for (document, patch) in [
        (json!(["a", "b"]), json!(["c", "d"])),
        (json!({ "a": "b" }), json!(["c"])),
        (json!({ "a": "foo" }), json!(null)),
        (json!({ "a": "foo" }), json!("bar")),
    ] {
        assert!(patched(MERGE_PATCH, &document, &patch).is_err(), "{patch} of {document}");
    }
}

/// Any object, a few levels deep; `nulls` says whether null may stand in it.
fn object(nulls: bool) -> impl Strategy<Value = Value> {
    let null = if nulls { Just(Value::Null).boxed() } else { Just(Value::from(0)).boxed() };
    let leaf = prop_oneof![null, any::<bool>().prop_map(Value::from), "[a-z/~]{0,3}".prop_map(Value::from)];
    let value = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-c/~]{1,2}", inner, 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    });
    prop::collection::btree_map("[a-d]", value, 0..4)
        .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()))
}

/// What has to be merged into `from` to make it `to`, by the rules of RFC 7386: written backwards from them.
fn merge_between(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let removed = from.keys().filter(|name| !to.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let stated = to.iter().filter(|(name, value)| from.get(*name) != Some(value));
    let stated = stated.map(|(name, value)| {
        let before = from.get(name).filter(|before| before.is_object() && value.is_object());
        (name.clone(), before.map_or_else(|| value.clone(), |before| merge_between(before, value)))
    });
    Value::Object(removed.chain(stated).collect())
}

proptest! {
    #[test]
    fn the_operations_between_two_objects_make_one_of_the_other(from in object(true), to in object(true)) {
        let operations = serde_json::to_value(diff(&from, &to)).expect("operations");
        prop_assert_eq!(patched(JSON_PATCH, &from, &operations).expect("they fit"), to);
    }

    #[test]
    fn the_merge_between_two_objects_makes_one_of_the_other(from in object(false), to in object(false)) {
        prop_assert_eq!(patched(MERGE_PATCH, &from, &merge_between(&from, &to)).expect("a patch"), to);
    }

    #[test]
    fn merging_twice_is_merging_once(document in object(true), patch in object(true)) {
        let once = patched(MERGE_PATCH, &document, &patch).expect("a patch");
        prop_assert_eq!(patched(MERGE_PATCH, &once, &patch).expect("a patch"), once);
    }

    #[test]
    fn without_lists_and_directives_a_strategic_merge_is_a_merge(document in object(false), patch in object(true)) {
        // A strategic merge keeps lists that it does not know as a whole, as a merge does.
        let merged = patched(MERGE_PATCH, &document, &patch).expect("a patch");
        let strategic = patched(STRATEGIC_PATCH, &document, &patch).expect("a patch");
        prop_assert_eq!(strategic, merged);
    }

    #[test]
    fn a_patch_that_fails_leaves_the_object_alone(document in object(true), patch in object(true)) {
        let before = document.clone();
        let operations = json!([
            { "op": "add", "path": "/a", "value": patch },
            { "op": "test", "path": "/a", "value": "something else" },
        ]);
        prop_assert!(patched(JSON_PATCH, &document, &operations).is_err());
        prop_assert_eq!(document, before);
    }
}
