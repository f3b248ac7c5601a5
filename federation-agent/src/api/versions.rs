//! Definitions of kinds that are served in several versions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};

/// Serves `crd` in an older version too, where nothing but the `apiVersion` differs: conversion strategy `None`.
pub(super) fn also_served_as(mut crd: CustomResourceDefinition, older: &str) -> CustomResourceDefinition {
    if let Some(stored) = crd.spec.versions.first().cloned() {
        let name = older.to_owned();
        crd.spec.versions.push(CustomResourceDefinitionVersion { name, storage: false, ..stored });
    }
    crd
}

/// Lets objects leave out `spec`: everything in it has a default.
pub(super) fn without_required_spec(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        if let Some(schema) = schema {
            schema.required = schema
                .required
                .take()
                .map(|mut names| {
                    names.retain(|name| name != "spec");
                    names
                })
                .filter(|names| !names.is_empty());
        }
    }
    crd
}
