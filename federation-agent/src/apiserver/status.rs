//! Refusals as `metav1.Status`, in the words of kube-apiserver: clients decide by `reason`, people read `message`.

use std::fmt;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use super::kinds::Kind;

/// Why a request was not carried out.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Status>);

/// One field that is wrong, as kube-apiserver's `field.Error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: String,
    reason: &'static str,
    message: String,
}

/// The faults of one object, gathered so that a person sees all of them at once.
#[derive(Clone, Debug, Default)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    fn push(&mut self, field: &str, reason: &'static str, message: String) {
        self.0.push(FieldError { field: field.to_owned(), reason, message });
    }

    pub fn required(&mut self, field: &str, detail: &str) {
        let separator = if detail.is_empty() { "" } else { ": " };
        self.push(field, "FieldValueRequired", format!("Required value{separator}{detail}"));
    }

    /// `value` as JSON shows it: a string in quotes, a number bare.
    pub fn invalid(&mut self, field: &str, value: impl Into<serde_json::Value>, detail: &str) {
        self.push(field, "FieldValueInvalid", format!("Invalid value: {}: {detail}", value.into()));
    }

    pub fn duplicate(&mut self, field: &str, value: impl Into<serde_json::Value>) {
        self.push(field, "FieldValueDuplicate", format!("Duplicate value: {}", value.into()));
    }

    pub fn unsupported(&mut self, field: &str, value: &str, supported: &[&str]) {
        let supported: Vec<_> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        self.push(
            field,
            "FieldValueNotSupported",
            format!("Unsupported value: \"{value}\": supported values: {}", supported.join(", ")),
        );
    }

    pub fn forbidden(&mut self, field: &str, detail: &str) {
        self.push(field, "FieldValueForbidden", format!("Forbidden: {detail}"));
    }

    pub fn too_many(&mut self, field: &str, count: usize, most: usize) {
        self.push(
            field,
            "FieldValueTooMany",
            format!("Too many: {count}: must have at most {most} item{}", if most == 1 { "" } else { "s" }),
        );
    }

    pub fn too_long(&mut self, field: &str, detail: &str) {
        self.push(field, "FieldValueTooLong", format!("Too long: {detail}"));
    }

    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn into_causes(self) -> Vec<StatusCause> {
        self.0.into_iter().map(StatusCause::from).collect()
    }
}

/// As kube-apiserver writes several faults into one message.
impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        match faults.as_slice() {
            [one] => f.write_str(one),
            all => write!(f, "[{}]", all.join(", ")),
        }
    }
}

impl ApiError {
    fn new(code: StatusCode, reason: &str, message: String) -> Self {
        Self(Box::new(Status {
            status: Some("Failure".to_owned()),
            code: Some(i32::from(code.as_u16())),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: Some(message),
            ..Status::default()
        }))
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.0.details = Some(StatusDetails {
            name: (!name.is_empty()).then(|| name.to_owned()),
            group: (!kind.group.is_empty()).then(|| kind.group.to_owned()),
            kind: Some(kind.plural.to_owned()),
            ..StatusDetails::default()
        });
        self
    }

    fn with_causes(mut self, causes: Vec<StatusCause>) -> Self {
        self.0.details.get_or_insert_default().causes = Some(causes);
        self
    }

    fn retry_after(mut self, seconds: i32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message.into())
    }

    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized".to_owned())
    }

    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let subject = if name.is_empty() {
            format!("{} is forbidden", kind.qualified())
        } else {
            format!("{} \"{name}\" is forbidden", kind.qualified())
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", format!("{subject}: {why}")).about(kind, name)
    }

    /// The path names nothing that is served here.
    pub fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource".to_owned(),
        )
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    /// The object is not as the writer believed: another version, another object of the same name.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// Fields that another manager has applied; `causes` names each with its owner.
    pub fn apply_conflict(message: String, causes: Vec<StatusCause>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message).with_causes(causes)
    }

    pub fn invalid(kind: &Kind, name: &str, errors: FieldErrors) -> Self {
        let qualified = if kind.group.is_empty() {
            kind.name.to_owned()
        } else {
            format!("{}.{}", kind.name, kind.group)
        };
        let message = format!("{qualified} \"{name}\" is invalid: {errors}");
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(kind, name);
        error.0.details.get_or_insert_default().kind = Some(kind.name.to_owned());
        error.with_causes(errors.into_causes())
    }

    /// A patch that cannot be applied to this object.
    pub fn unprocessable_patch(why: &str) -> Self {
        let message = format!("the server rejected our request due to an error in our request: {why}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// The request's own options are wrong; `kind` is that of `meta.k8s.io` that they are decoded into.
    pub fn invalid_options(kind: &str, errors: FieldErrors) -> Self {
        let message = format!("{kind}.meta.k8s.io \"\" is invalid: {errors}");
        let details = StatusDetails {
            group: Some("meta.k8s.io".to_owned()),
            kind: Some(kind.to_owned()),
            ..StatusDetails::default()
        };
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        error.0.details = Some(details);
        error.with_causes(errors.into_causes())
    }

    /// A watch or a continued list from a revision that is no longer known.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message.into())
    }

    /// A reader that has seen a revision which this store has not reached.
    pub fn revision_too_large(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let cause = StatusCause {
            reason: Some("ResourceVersionTooLarge".to_owned()),
            message: Some("Too large resource version".to_owned()),
            field: None,
        };
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", format!("Timeout: {message}"))
            .with_causes(vec![cause])
            .retry_after(1)
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message.to_owned())
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub fn not_acceptable(offered: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", offered.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// Something of ours failed, not the request.
    pub fn internal(message: impl fmt::Display) -> Self {
        let message = format!("Internal error occurred: {message}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// The body: a `metav1.Status`.
    pub fn status(&self) -> &Status {
        &self.0
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.message.as_deref().unwrap_or_default())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = self.0.code.and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
        (code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(&self.0)).into_response()
    }
}

// === impl FieldError ===

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl From<FieldError> for StatusCause {
    fn from(error: FieldError) -> Self {
        Self { reason: Some(error.reason.to_owned()), message: Some(error.message), field: Some(error.field) }
    }
}
