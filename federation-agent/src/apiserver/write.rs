//! Every way to change objects, as steps inside one transaction of the store.
//!
//! Whatever the verb, a change ends in [`admit_and_put`]: system metadata restored, the half that the request may not
//! touch put back, decoded, defaulted, validated, owned by its manager, and stored if it differs.

use std::sync::Arc;

use rand::seq::IndexedRandom as _;
use serde_json::Value;

use super::fields::{Leaves, Managers, Operation, Owner, Shape, apply};
use super::garbage;
use super::kinds::{self, Kind, Refusal, Status};
use super::namespaces;
use super::object::Object as _;
use super::patch::Patch;
use super::request::Target;
use super::status::{ApiError, FieldErrors};
use super::store::{Key, Stored, Transaction};
use super::validate::names;

/// What to do about fields that a kind does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// What a write request says beside its object.
#[derive(Clone, Debug)]
pub struct Options {
    pub manager: String,
    pub force: bool,
    pub field_validation: FieldValidation,
    pub now: Value,
}

/// A write that was carried out.
pub struct Written {
    pub stored: Arc<Stored>,
    pub is_new: bool,
    /// For the `Warning` headers of the answer.
    pub warnings: Vec<String>,
}

/// Where the ownership of fields comes from.
enum Ownership {
    /// Whoever writes owns what differs afterwards.
    OfChanges(Operation),
    Applied(Managers),
}

pub fn create(
    transaction: &mut Transaction<'_>,
    target: &Target,
    mut object: Value,
    options: &Options,
) -> Result<Written, ApiError> {
    prepare_body(target, &mut object)?;
    if !object.resource_version().is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if object.name().is_empty() && !object.meta_str("generateName").is_empty() {
        let name = generated_name(object.meta_str("generateName"));
        object.set_meta("name", name);
    }
    store_new(transaction, target, object, Ownership::OfChanges(Operation::Update), options)
}

pub fn replace(
    transaction: &mut Transaction<'_>,
    target: &Target,
    mut object: Value,
    options: &Options,
) -> Result<Written, ApiError> {
    prepare_body(target, &mut object)?;
    require_same_name(target, &object)?;
    let key = Key::new(target.kind, &target.namespace, &target.name);
    let Some(old) = transaction.get(&key) else {
        if target.kind.update.may_create() && !target.is_status {
            return store_new(transaction, target, object, Ownership::OfChanges(Operation::Update), options);
        }
        return Err(ApiError::not_found(target.kind, &target.name));
    };
    if object.resource_version().is_empty() && !target.kind.update.may_omit_version() {
        let mut errors = FieldErrors::default();
        errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
        return Err(ApiError::invalid(target.kind, &target.name, errors));
    }
    store_changed(transaction, target, &old, object, Ownership::OfChanges(Operation::Update), options)
}

pub fn patch(
    transaction: &mut Transaction<'_>,
    target: &Target,
    patch: &Patch,
    options: &Options,
) -> Result<Written, ApiError> {
    let key = Key::new(target.kind, &target.namespace, &target.name);
    let old = transaction.get(&key);
    if let Patch::Apply(config) = patch {
        return apply_config(transaction, target, old.as_deref(), config.clone(), options);
    }
    let old = old.ok_or_else(|| ApiError::not_found(target.kind, &target.name))?;
    // A patch is written against what its writer reads.
    let mut object = old.object.clone();
    object["apiVersion"] = target.api_version().into();
    let mut object = patch.apply_to(target.kind, &object)?;
    prepare_body(target, &mut object)?;
    require_same_name(target, &object)?;
    store_changed(transaction, target, &old, object, Ownership::OfChanges(Operation::Update), options)
}

fn apply_config(
    transaction: &mut Transaction<'_>,
    target: &Target,
    old: Option<&Stored>,
    mut config: Value,
    options: &Options,
) -> Result<Written, ApiError> {
    let kind = target.kind;
    if old.is_none() && target.is_status {
        return Err(ApiError::not_found(kind, &target.name));
    }
    if config.get("apiVersion").is_none() || config.get("kind").is_none() {
        return Err(ApiError::bad_request("apiVersion and kind must be set in an apply patch"));
    }
    prepare_body(target, &mut config)?;
    if config.name().is_empty() {
        config.set_meta("name", target.name.as_str());
    }
    require_same_name(target, &config)?;
    if config.meta().is_some_and(|meta| meta.get("managedFields").is_some_and(|fields| !fields.is_null())) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let shape = Shape::of(kind.name);
    let warnings = prune_unknown(kind, &mut config, old, options)?;
    drop_other_half(target, &mut config);

    let owner = owner(target, Operation::Apply, options);
    let applied = apply(old.map(|old| &old.object), &config, &owner, options.force, &options.now, shape)?;
    let ownership = Ownership::Applied(applied.managers);
    let mut written = match old {
        Some(old) => store_changed(transaction, target, old, applied.object, ownership, options)?,
        None => store_new(transaction, target, applied.object, ownership, options)?,
    };
    written.warnings.extend(warnings);
    Ok(written)
}

/// Takes out of an applied configuration what the kind does not have, so that nobody comes to own it.
fn prune_unknown(
    kind: &Kind,
    config: &mut Value,
    old: Option<&Stored>,
    options: &Options,
) -> Result<Vec<String>, ApiError> {
    let old = old.map(|old| &old.object);
    let mut whole = config.clone();
    if let Some(old) = old {
        fill_in(&mut whole, old);
    }
    let admitted =
        (kind.admit)(&whole, old).map_err(|refusal| not_of_its_kind(kind, whole.name(), refusal))?;
    let warnings = judge_unknown(kind, &admitted.unknown_fields, options)?;
    if !admitted.unknown_fields.is_empty() {
        retain_known(config, &admitted.object);
    }
    Ok(warnings)
}

/// Gives `value` the fields of `other` that it does not state: what is applied may leave out what the kind requires.
fn fill_in(value: &mut Value, other: &Value) {
    let (Value::Object(fields), Value::Object(others)) = (value, other) else { return };
    for (name, other) in others {
        match fields.get_mut(name) {
            Some(field) => fill_in(field, other),
            None => drop(fields.insert(name.clone(), other.clone())),
        }
    }
}

fn retain_known(value: &mut Value, known: &Value) {
    match (value, known) {
        (Value::Object(fields), Value::Object(known)) => {
            fields.retain(|name, _| known.contains_key(name));
            for (name, value) in fields.iter_mut() {
                retain_known(value, &known[name]);
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            for (item, known) in items.iter_mut().zip(known) {
                retain_known(item, known);
            }
        }
        _ => {}
    }
}

/// The configuration of one half of an object owns nothing of the other.
fn drop_other_half(target: &Target, config: &mut Value) {
    let Some(fields) = config.as_object_mut() else { return };
    if target.is_status {
        fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        let meta = config.meta_mut();
        meta.retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "resourceVersion" | "uid"));
    } else if target.kind.has_status() {
        fields.shift_remove("status");
    }
}

/// Fills in or compares what the body says about its kind and its namespace, and gives it the version that is stored.
fn prepare_body(target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let kind = target.kind;
    let text = |object: &Value, field: &str| object.get(field).and_then(Value::as_str).map(str::to_owned);
    let expected = target.api_version();
    let api_version = text(object, "apiVersion").filter(|text| !text.is_empty());
    if let Some(found) = api_version.filter(|found| *found != expected) {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({found}) does not match the expected API version ({expected})"
        )));
    }
    if let Some(found) = text(object, "kind").filter(|found| !found.is_empty() && found != kind.name) {
        return Err(ApiError::bad_request(format!(
            "{found} in version \"{}\" cannot be handled as a {}: the kinds do not match",
            target.version, kind.name
        )));
    }
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.name.into();
    if kind.namespaced && object.namespace().is_empty() {
        object.set_meta("namespace", target.namespace.as_str());
    }
    if object.namespace() != target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn require_same_name(target: &Target, object: &Value) -> Result<(), ApiError> {
    if object.name() == target.name {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "the name of the object ({}) does not match the name on the URL ({})",
        object.name(),
        target.name
    )))
}

fn store_new(
    transaction: &mut Transaction<'_>,
    target: &Target,
    mut object: Value,
    ownership: Ownership,
    options: &Options,
) -> Result<Written, ApiError> {
    let kind = target.kind;
    namespaces::admit_new_content(transaction, target, &object)?;
    let meta = object.meta_mut();
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "managedFields"]
    {
        meta.shift_remove(field);
    }
    meta.insert("uid".to_owned(), new_uid().into());
    meta.insert("creationTimestamp".to_owned(), options.now.clone());
    meta.shift_remove("generation");
    if kind.generation {
        meta.insert("generation".to_owned(), 1.into());
    }
    if kind.status == Status::Subresource
        && let Some(fields) = object.as_object_mut()
    {
        fields.shift_remove("status");
    }
    let (object, warnings) = admit(target, &object, None, options)?;
    let key = Key::new(kind, object.namespace(), object.name());
    if transaction.get(&key).is_some() {
        return Err(ApiError::already_exists(kind, object.name()));
    }
    let object = own(target, None, object, ownership, options);
    let stored = transaction.put(key.clone(), object);
    garbage::collect_if_abandoned(transaction, &key);
    Ok(Written { stored, is_new: true, warnings })
}

fn store_changed(
    transaction: &mut Transaction<'_>,
    target: &Target,
    old: &Stored,
    mut object: Value,
    ownership: Ownership,
    options: &Options,
) -> Result<Written, ApiError> {
    let kind = target.kind;
    let asked = object.resource_version();
    if !asked.is_empty() && asked != old.object.resource_version() {
        return Err(ApiError::modified(kind, &target.name));
    }
    if !object.uid().is_empty() && object.uid() != old.object.uid() {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            object.uid(),
            old.object.uid()
        );
        return Err(ApiError::conflict(kind, &target.name, &why));
    }
    let created = object.meta_str("creationTimestamp");
    if !created.is_empty() && created != old.object.meta_str("creationTimestamp") {
        let mut errors = FieldErrors::default();
        errors.invalid("metadata.creationTimestamp", created, "field is immutable");
        return Err(ApiError::invalid(kind, &target.name, errors));
    }
    restore(target, &old.object, &mut object);
    let (mut object, warnings) = admit(target, &object, Some(&old.object), options)?;
    if kind.generation && content(&object) != content(&old.object) {
        let generation = old.object.meta().and_then(|meta| meta.get("generation")?.as_i64()).unwrap_or(0);
        object.set_meta("generation", generation + 1);
    }
    let object = own(target, Some(&old.object), object, ownership, options);
    let key = Key::new(kind, &target.namespace, &target.name);
    let stored = if object.is_deleting() && object.finalizers().is_empty() {
        let gone = garbage::remove(transaction, vec![(key, object)]).pop();
        gone.ok_or_else(|| ApiError::not_found(kind, &target.name))?
    } else if object == old.object {
        transaction.get(&key).ok_or_else(|| ApiError::not_found(kind, &target.name))?
    } else {
        let stored = transaction.put(key.clone(), object);
        garbage::collect_if_abandoned(transaction, &key);
        stored
    };
    Ok(Written { stored, is_new: false, warnings })
}

/// Undoes what a writer may not change: system metadata, and the half of the object that the request is not about.
fn restore(target: &Target, old: &Value, object: &mut Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "selfLink",
        "generateName",
        "managedFields",
    ] {
        object.copy_meta(field, old);
    }
    if target.is_status {
        let status = object.get("status").cloned();
        *object = old.clone();
        put_status(object, status);
    } else if target.kind.has_status() {
        put_status(object, old.get("status").cloned());
    }
}

fn put_status(object: &mut Value, status: Option<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match status {
        Some(status) => drop(fields.insert("status".to_owned(), status)),
        None => drop(fields.shift_remove("status")),
    }
}

/// What `metadata.generation` counts: everything that is neither metadata nor status.
fn content(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields.filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status")).collect()
}

fn admit(
    target: &Target,
    object: &Value,
    old: Option<&Value>,
    options: &Options,
) -> Result<(Value, Vec<String>), ApiError> {
    let kind = target.kind;
    let mut admitted =
        (kind.admit)(object, old).map_err(|refusal| not_of_its_kind(kind, object.name(), refusal))?;
    let warnings = judge_unknown(kind, &admitted.unknown_fields, options)?;
    let mut errors = FieldErrors::default();
    names::metadata(object, kind.name_rule, &mut errors);
    if let Some(old) = old {
        names::metadata_update(object, old, &mut errors);
    }
    errors.append(admitted.faults);
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind, object.name(), errors));
    }
    if target.is_status
        && let Some(old) = old
    {
        // Defaulting must not reach over into the half that the request is not about.
        let status = admitted.object.get("status").cloned();
        admitted.object = old.clone();
        put_status(&mut admitted.object, status);
    }
    Ok((admitted.object, warnings))
}

fn not_of_its_kind(kind: &Kind, name: &str, refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Undecodable(why) => undecodable(kind, &why),
        Refusal::Missing(field) => {
            let mut errors = FieldErrors::default();
            errors.required(&field, "");
            ApiError::invalid(kind, name, errors)
        }
    }
}

fn undecodable(kind: &Kind, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version \"{}\" cannot be handled as a {}: {why}",
        kind.name, kind.version, kind.name
    ))
}

fn judge_unknown(kind: &Kind, unknown: &[String], options: &Options) -> Result<Vec<String>, ApiError> {
    let faults: Vec<_> = unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect();
    match options.field_validation {
        FieldValidation::Strict if !faults.is_empty() => {
            Err(undecodable(kind, &format!("strict decoding error: {}", faults.join(", "))))
        }
        FieldValidation::Warn => Ok(faults),
        FieldValidation::Ignore | FieldValidation::Strict => Ok(Vec::new()),
    }
}

fn owner(target: &Target, operation: Operation, options: &Options) -> Owner {
    Owner {
        manager: options.manager.clone(),
        operation,
        api_version: target.api_version(),
        subresource: if target.is_status { "status".to_owned() } else { String::new() },
    }
}

/// Writes down who owns what now.
fn own(
    target: &Target,
    old: Option<&Value>,
    mut object: Value,
    ownership: Ownership,
    options: &Options,
) -> Value {
    let shape = Shape::of(target.kind.name);
    let managers = match ownership {
        Ownership::OfChanges(operation) => {
            let owner = owner(target, operation, options);
            let before = old.map(Managers::of).unwrap_or_default();
            before.after_update(old, &object, &owner, &options.now, shape)
        }
        Ownership::Applied(mut managers) => {
            if let Some(old) = old {
                managers.forget_missing(&Leaves::of(old, shape), &Leaves::of(&object, shape));
            }
            managers
        }
    };
    object.set_meta("managedFields", managers.to_value());
    object
}

/// As kube-apiserver: the prefix and five characters that cannot spell a word.
fn generated_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const LONGEST_PREFIX: usize = 58;
    let mut rng = rand::rng();
    let prefix: String = prefix.chars().take(LONGEST_PREFIX).collect();
    let suffix = (0..5).filter_map(|_| ALPHABET.choose(&mut rng)).map(|byte| char::from(*byte));
    prefix.chars().chain(suffix).collect()
}

/// A random (version 4) UUID.
fn new_uid() -> String {
    let random = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{random:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The namespace kinds that a new store starts with.
pub fn create_if_absent(
    transaction: &mut Transaction<'_>,
    name: &str,
    options: &Options,
) -> Result<(), ApiError> {
    let kind = &kinds::NAMESPACE;
    if transaction.get(&Key::new(kind, "", name)).is_some() {
        return Ok(());
    }
    let target = Target {
        kind,
        version: kind.version,
        namespace: String::new(),
        name: String::new(),
        is_status: false,
    };
    create(transaction, &target, serde_json::json!({ "metadata": { "name": name } }), options)?;
    Ok(())
}
