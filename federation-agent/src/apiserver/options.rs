//! What a request says beside its object, checked as kube-apiserver checks it.

use http::{HeaderMap, header};

use super::object::now;
use super::request::Parameters;
use super::status::{ApiError, FieldErrors};
use super::write::{FieldValidation, Options};

/// Bytes of a field manager's name.
const LONGEST_MANAGER: usize = 128;
const NOT_OLDER_THAN: &str = "NotOlderThan";
const EXACT: &str = "Exact";

/// The options of a write; `kind` is that of `meta.k8s.io` which they make up. Only an apply may be forced, and must say
/// who applies.
pub fn of_write(
    kind: &str,
    parameters: &Parameters,
    headers: &HeaderMap,
    is_apply: bool,
) -> Result<Options, ApiError> {
    let mut errors = FieldErrors::default();
    if is_apply && parameters.field_manager.is_empty() {
        errors.required("fieldManager", "is required for apply patch");
    }
    if !is_apply && parameters.force.is_some() {
        errors.forbidden("force", "may not be specified for non-apply patch");
    }
    if parameters.field_manager.len() > LONGEST_MANAGER {
        errors.too_long("fieldManager", &format!("may not be more than {LONGEST_MANAGER} bytes"));
    } else if parameters.field_manager.chars().any(char::is_control) {
        let name = parameters.field_manager.as_str();
        errors.invalid("fieldManager", name, "should only contain printable characters");
    }
    let field_validation = match parameters.field_validation.as_str() {
        "Ignore" => FieldValidation::Ignore,
        "" | "Warn" => FieldValidation::Warn,
        "Strict" => FieldValidation::Strict,
        other => {
            errors.unsupported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]);
            FieldValidation::Strict
        }
    };
    if !errors.is_empty() {
        return Err(ApiError::invalid_options(kind, errors));
    }
    let (manager, force) = (manager(parameters, headers), parameters.force.unwrap_or(false));
    Ok(Options { manager, force, field_validation, now: now() })
}

/// The name that the writer gives itself, or the first word of its user agent.
fn manager(parameters: &Parameters, headers: &HeaderMap) -> String {
    let agent = || headers.get(header::USER_AGENT)?.to_str().ok()?.split('/').next();
    let name = match parameters.field_manager.as_str() {
        "" => agent().unwrap_or_default(),
        named => named,
    };
    let name: String = name.chars().filter(|c| !c.is_control()).take(LONGEST_MANAGER).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Whether nothing of a write is to stay; a deletion may say so in its body too.
pub fn is_dry_run(kind: &str, parameters: &Parameters, in_body: &[String]) -> Result<bool, ApiError> {
    let asked = in_body.iter().chain(std::iter::once(&parameters.dry_run));
    let asked: Vec<_> = asked.filter(|value| !value.is_empty()).collect();
    let Some(other) = asked.iter().find(|value| **value != "All") else { return Ok(!asked.is_empty()) };
    let mut errors = FieldErrors::default();
    errors.unsupported("dryRun", other, &["All"]);
    Err(ApiError::invalid_options(kind, errors))
}

/// Refuses a list whose parameters contradict each other.
pub fn check_list(parameters: &Parameters) -> Result<(), ApiError> {
    let mut errors = FieldErrors::default();
    let matched = parameters.resource_version_match.as_str();
    let mut forbid = |detail: &str| errors.forbidden("resourceVersionMatch", detail);
    if !matched.is_empty() {
        if parameters.resource_version.is_empty() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !parameters.r#continue.is_empty() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if matched == EXACT && parameters.resource_version == "0" {
            forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
        if ![EXACT, NOT_OLDER_THAN].contains(&matched) {
            errors.unsupported("resourceVersionMatch", matched, &[EXACT, NOT_OLDER_THAN, ""]);
        }
    }
    if parameters.send_initial_events.is_some() {
        errors.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    refuse_any(errors)?;
    if !parameters.r#continue.is_empty() && !["", "0"].contains(&parameters.resource_version.as_str()) {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    Ok(())
}

/// Refuses a watch whose parameters contradict each other.
pub fn check_watch(parameters: &Parameters) -> Result<(), ApiError> {
    let mut errors = FieldErrors::default();
    let matched = parameters.resource_version_match.as_str();
    if parameters.send_initial_events.is_some() && matched != NOT_OLDER_THAN {
        let detail = format!("sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER_THAN}");
        errors.forbidden("resourceVersionMatch", &detail);
    }
    if !matched.is_empty() {
        if parameters.send_initial_events.is_none() {
            let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.forbidden("resourceVersionMatch", detail);
        }
        if matched != NOT_OLDER_THAN {
            errors.unsupported("resourceVersionMatch", matched, &[NOT_OLDER_THAN]);
        }
        if !parameters.r#continue.is_empty() {
            let detail = "resourceVersionMatch is forbidden when continue is provided";
            errors.forbidden("resourceVersionMatch", detail);
        }
    }
    refuse_any(errors)
}

/// Whether a list wants the state of its revision and no later one.
pub fn is_exact(parameters: &Parameters) -> bool {
    parameters.resource_version_match == EXACT
}

fn refuse_any(errors: FieldErrors) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_options("ListOptions", errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(query: &str) -> Parameters {
        let uri = format!("/api/v1/services?{query}").parse().expect("a URI");
        Parameters::of(&uri).expect("parameters")
    }

    #[test]
    fn parameters_that_contradict_each_other_are_refused_as_by_the_real_server() {
        let list: &dyn Fn(&Parameters) -> Result<(), ApiError> = &check_list;
        let watch: &dyn Fn(&Parameters) -> Result<(), ApiError> = &check_watch;
        let cases = [
            (
                list,
                "resourceVersionMatch=Exact",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                list,
                "resourceVersion=0&resourceVersionMatch=Exact",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            (
                list,
                "resourceVersion=1&resourceVersionMatch=Newest",
                "resourceVersionMatch: Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ),
            (
                list,
                "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
                "resourceVersionMatch is forbidden when continue is provided",
            ),
            (list, "sendInitialEvents=true", "sendInitialEvents is forbidden for list"),
            (
                list,
                "resourceVersion=1&continue=x",
                "specifying resource version is not allowed when using continue",
            ),
            (
                watch,
                "sendInitialEvents=false",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (
                watch,
                "resourceVersion=1&resourceVersionMatch=NotOlderThan",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
            (
                watch,
                "sendInitialEvents=true&resourceVersionMatch=Exact",
                "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"",
            ),
        ];
        for (check, query, expected) in cases {
            let refusal = check(&parameters(query)).expect_err(query).to_string();
            assert!(refusal.contains(expected), "{query}: {refusal}");
        }
        for query in ["", "resourceVersion=1&resourceVersionMatch=Exact", "continue=x&resourceVersion=0"] {
            check_list(&parameters(query)).unwrap_or_else(|refusal| panic!("{query}: {refusal}"));
        }
        for query in ["", "resourceVersion=7", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan"] {
            check_watch(&parameters(query)).unwrap_or_else(|refusal| panic!("{query}: {refusal}"));
        }
    }

    #[test]
    fn options_that_mean_nothing_are_refused_with_the_field() {
        let headers = HeaderMap::new();
        let long = format!("fieldManager={}", "m".repeat(129));
        let cases = [
            (true, "", "fieldManager: Required value: is required for apply patch"),
            (false, "force=true", "force: Forbidden: may not be specified for non-apply patch"),
            (false, &long, "fieldManager: Too long: may not be more than 128 bytes"),
            (
                false,
                "fieldManager=a%07b",
                "fieldManager: Invalid value: \"a\\u0007b\": should only contain printable",
            ),
            (
                false,
                "fieldValidation=strict",
                "fieldValidation: Unsupported value: \"strict\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
            ),
        ];
        for (is_apply, query, expected) in cases {
            let refusal = of_write("PatchOptions", &parameters(query), &headers, is_apply).expect_err(query);
            let expected = format!("PatchOptions.meta.k8s.io \"\" is invalid: {expected}");
            assert!(refusal.to_string().starts_with(&expected), "{refusal}");
        }
        let refusal = is_dry_run("CreateOptions", &parameters("dryRun=Some"), &[]).expect_err("no such run");
        assert_eq!(
            refusal.to_string(),
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\""
        );
    }

    #[test]
    fn who_names_no_manager_is_known_by_the_first_word_of_its_agent() {
        let mut headers = HeaderMap::new();
        let agent = "kubectl/v1.33.0 (linux/amd64)".parse().expect("a header");
        headers.insert(header::USER_AGENT, agent);
        let manager = |query: &str| manager(&parameters(query), &headers);
        assert_eq!(manager(""), "kubectl");
        assert_eq!(manager("fieldManager=kubectl-edit"), "kubectl-edit");
    }
}
