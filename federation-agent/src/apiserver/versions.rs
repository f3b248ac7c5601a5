//! A kind in several versions: one is stored, and what is stored is served as whichever was asked for.
//!
//! The versions of one kind differ in nothing but `apiVersion`, which a real API server calls conversion strategy `None`.

use std::sync::Arc;

use super::kinds::Kind;
use super::store::Stored;

/// What is stored, as `version` shows it.
pub fn in_version(kind: &Kind, version: &str, stored: &Arc<Stored>) -> Arc<Stored> {
    if version == kind.version {
        return Arc::clone(stored);
    }
    let mut object = stored.object.clone();
    object["apiVersion"] = kind.api_version_of(version).into();
    let text = object.to_string().into();
    Arc::new(Stored { revision: stored.revision, object, text })
}
