//! The four languages of PATCH.

mod strategic;

pub use strategic::merging_lists;

use axum::body::Bytes;
use http::HeaderMap;
use json_patch::{PatchError, PatchOperation};
use serde_json::Value;

use super::kinds::Kind;
use super::request::{self, APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH};
use super::status::ApiError;

/// A patch that has been understood.
pub enum Patch {
    /// RFC 6902
    Json(json_patch::Patch),
    /// RFC 7386
    Merge(Value),
    /// As `Merge`, with lists that merge by key; only the kinds of Kubernetes itself have it.
    Strategic(Value),
    /// A manager's configuration, see [`super::fields::apply`].
    Apply(Value),
}

impl Patch {
    pub fn decode(kind: &Kind, headers: &HeaderMap, body: &Bytes) -> Result<Self, ApiError> {
        let is_custom = kind.is_custom();
        match request::media_type(headers) {
            JSON_PATCH => request::decode(headers, body).map(Self::Json),
            MERGE_PATCH => request::decode_object(headers, body).map(Self::Merge),
            STRATEGIC_PATCH if !is_custom => request::decode_object(headers, body).map(Self::Strategic),
            APPLY_PATCH => request::decode_object(headers, body).map(Self::Apply),
            _ if is_custom => Err(ApiError::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH, APPLY_PATCH])),
            _ => Err(ApiError::unsupported_media_type(&[
                JSON_PATCH,
                MERGE_PATCH,
                STRATEGIC_PATCH,
                APPLY_PATCH,
            ])),
        }
    }

    /// What the patch makes of `object`.
    pub fn apply_to(&self, kind: &Kind, object: &Value) -> Result<Value, ApiError> {
        let mut patched = object.clone();
        match self {
            Self::Json(patch) => apply_operations(&mut patched, patch)
                .map_err(|error| ApiError::unprocessable_patch(&error.to_string()))?,
            Self::Merge(patch) => json_patch::merge(&mut patched, patch),
            Self::Strategic(patch) => strategic::merge(kind, &mut patched, patch)?,
            Self::Apply(config) => patched = config.clone(),
        }
        if patched.is_object() {
            Ok(patched)
        } else {
            Err(ApiError::unprocessable_patch("the patched document is no object"))
        }
    }
}

/// RFC 6902, where a test for null also holds of what is missing: Kubernetes has it so, and finalizers are added by it.
fn apply_operations(object: &mut Value, patch: &json_patch::Patch) -> Result<(), PatchError> {
    for (index, operation) in patch.iter().enumerate() {
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && object.pointer(test.path.as_str()).is_none()
        {
            continue;
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|mut error| {
            error.operation = index;
            error
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
