//! What RBAC allows: the rules of the roles that a service account is bound to, each with the verbs of it that were used.
//!
//! As kube-apiserver reads them (plugin/pkg/auth/authorizer/rbac): rules only add, a `RoleBinding` holds in its
//! namespace, and `resourceNames` do not match a request that names no object.

use std::{collections::BTreeSet, fmt};

use serde::Deserialize;
use serde_json::Value;

/// One request, as rules see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    pub verb: String,
    pub group: String,
    /// With its subresource: `services/status`.
    pub resource: String,
    /// Empty at the cluster's scope.
    pub namespace: String,
    /// Empty where no object is named.
    pub name: String,
}

/// A role's permission, as small as it can be: one verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    pub role: String,
    pub verb: String,
    pub group: String,
    pub resource: String,
}

/// A service account, by namespace and name.
pub type Account = (String, String);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// Which permissions of the roles of `account` allow an attempt; none, when it is refused.
pub fn allowing(objects: &[Value], account: &Account, attempt: &Attempt) -> Vec<Permission> {
    let mut allowing = Vec::new();
    for binding in objects.iter().filter(|object| binds(object, account)) {
        // Within a namespace a ClusterRole can be bound too.
        let scope = (binding["kind"] == "RoleBinding").then(|| text(&binding["metadata"]["namespace"]));
        if scope.as_ref().is_some_and(|namespace| *namespace != attempt.namespace) {
            continue;
        }
        for rule in rules_of(objects, binding) {
            let has = |list: &[String], wanted: &str| list.iter().any(|item| item == wanted);
            let names = rule.resource_names.is_empty() || has(&rule.resource_names, &attempt.name);
            if names
                && has(&rule.api_groups, &attempt.group)
                && has(&rule.resources, &attempt.resource)
                && has(&rule.verbs, &attempt.verb)
            {
                allowing.push(Permission {
                    role: role_of(binding),
                    verb: attempt.verb.clone(),
                    group: attempt.group.clone(),
                    resource: attempt.resource.clone(),
                });
            }
        }
    }
    allowing
}

/// Every permission that the roles of `account` give it.
pub fn given(objects: &[Value], account: &Account) -> BTreeSet<Permission> {
    let mut given = BTreeSet::new();
    for binding in objects.iter().filter(|object| binds(object, account)) {
        for rule in rules_of(objects, binding) {
            for (group, resource, verb) in combinations(&rule) {
                given.insert(Permission { role: role_of(binding), verb, group, resource });
            }
        }
    }
    given
}

fn combinations(rule: &Rule) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            all.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
        }
    }
    all
}

fn binds(object: &Value, (namespace, name): &Account) -> bool {
    let is_binding = object["kind"] == "ClusterRoleBinding" || object["kind"] == "RoleBinding";
    let is_it = |subject: &Value| {
        subject["kind"] == "ServiceAccount"
            && subject["name"] == name.as_str()
            && subject["namespace"] == namespace.as_str()
    };
    is_binding && object["subjects"].as_array().is_some_and(|subjects| subjects.iter().any(is_it))
}

fn rules_of(objects: &[Value], binding: &Value) -> Vec<Rule> {
    let role = &binding["roleRef"];
    let is_it = |object: &&Value| {
        object["kind"] == role["kind"]
            && object["metadata"]["name"] == role["name"]
            && (role["kind"] == "ClusterRole"
                || object["metadata"]["namespace"] == binding["metadata"]["namespace"])
    };
    let rules = objects.iter().find(is_it).and_then(|role| role["rules"].as_array()).cloned();
    // A rule that cannot be read allows nothing, and what it should allow is refused aloud.
    rules.unwrap_or_default().iter().filter_map(|rule| Rule::deserialize(rule).ok()).collect()
}

fn role_of(binding: &Value) -> String {
    format!("{} {}", text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, namespace, name } = self;
        write!(f, "{verb} {resource}.{group} {namespace}/{name}")
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}.{}", self.role, self.verb, self.resource, self.group)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_allow_what_they_name_where_they_are_bound() {
        let subjects = json!([{ "kind": "ServiceAccount", "name": "a", "namespace": "n" }]);
        let objects = [
            json!({ "kind": "ClusterRole", "metadata": { "name": "wide" }, "rules": [
                { "apiGroups": [""], "resources": ["services"], "verbs": ["get", "list"] },
            ] }),
            json!({ "kind": "ClusterRoleBinding", "subjects": subjects,
                "roleRef": { "kind": "ClusterRole", "name": "wide" } }),
            json!({ "kind": "Role", "metadata": { "name": "narrow", "namespace": "n" }, "rules": [
                { "apiGroups": ["g"], "resources": ["leases"], "verbs": ["get"], "resourceNames": ["l"] },
            ] }),
            json!({ "kind": "RoleBinding", "metadata": { "namespace": "n" }, "subjects": subjects,
                "roleRef": { "kind": "Role", "name": "narrow" } }),
        ];
        for (verb, group, resource, namespace, name, expected) in [
            ("get", "", "services", "m", "s", true),
            ("list", "", "services", "", "", true),
            ("watch", "", "services", "", "", false),
            ("get", "", "services/status", "m", "s", false),
            ("get", "other", "services", "m", "s", false),
            ("get", "g", "leases", "n", "l", true),
            ("get", "g", "leases", "n", "other", false),
            ("get", "g", "leases", "n", "", false),
            ("get", "g", "leases", "m", "l", false),
        ] {
            let [verb, group, resource, namespace, name] =
                [verb, group, resource, namespace, name].map(str::to_owned);
            let attempt = Attempt { verb, group, resource, namespace, name };
            let account = ("n".to_owned(), "a".to_owned());
            assert_eq!(!allowing(&objects, &account, &attempt).is_empty(), expected, "{attempt}");
            let stranger = ("n".to_owned(), "b".to_owned());
            assert!(allowing(&objects, &stranger, &attempt).is_empty());
        }
    }
}
