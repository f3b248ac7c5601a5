//! The `EndpointSlice`s of one API server, found by the service that they belong to. Fed by a watch.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{ResourceExt as _, runtime::watcher::Event};

use crate::{api::marks::CLUSTER_LABEL, model::ServiceKey};

/// Label that names the Service of a slice.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name.
type SliceKey = (String, String);

#[derive(Debug)]
pub struct Slices {
    /// Names the service of a slice.
    label: &'static str,
    held: BTreeMap<SliceKey, Arc<EndpointSlice>>,
    of_service: BTreeMap<ServiceKey, BTreeSet<String>>,
    /// Slices seen in the listing that runs; what is held and not among these when it ends is gone.
    listed: BTreeSet<SliceKey>,
    synced: bool,
}

/// The service that a slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.labels().get(SERVICE_LABEL)?;
    Some(ServiceKey::new(slice.namespace()?, name))
}

/// The cluster that a mirrored slice comes from.
pub fn cluster_of(slice: &EndpointSlice) -> Option<&str> {
    slice.labels().get(CLUSTER_LABEL).map(String::as_str)
}

impl Default for Slices {
    fn default() -> Self {
        Self::by(SERVICE_LABEL)
    }
}

impl Slices {
    /// Those whose service is named by this label.
    pub fn by(label: &'static str) -> Self {
        Self {
            label,
            held: BTreeMap::new(),
            of_service: BTreeMap::new(),
            listed: BTreeSet::new(),
            synced: false,
        }
    }

    pub fn service_of(&self, slice: &EndpointSlice) -> Option<ServiceKey> {
        Some(ServiceKey::new(slice.namespace()?, slice.labels().get(self.label)?))
    }

    /// Whether everything has been listed once.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Takes in what happened and gives every slice that came, changed (as it was, as it is) or went.
    pub fn apply(&mut self, event: Event<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        match event {
            Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            Event::InitApply(slice) => {
                self.listed.insert(key(&slice));
                self.put(slice)
            }
            Event::InitDone => {
                self.synced = true;
                let listed = mem::take(&mut self.listed);
                let gone: Vec<_> = self.held.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.iter().filter_map(|key| self.remove(key)).collect()
            }
            Event::Apply(slice) => self.put(slice),
            Event::Delete(slice) => self.remove(&key(&slice)).into_iter().collect(),
        }
    }

    /// In the order of their names.
    pub fn of(&self, service: &ServiceKey) -> Vec<Arc<EndpointSlice>> {
        let names = self.of_service.get(service).into_iter().flatten();
        names
            .filter_map(|name| self.held.get(&(service.namespace.to_string(), name.clone())))
            .cloned()
            .collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.held.values()
    }

    fn put(&mut self, slice: EndpointSlice) -> Vec<Arc<EndpointSlice>> {
        let key = key(&slice);
        let before = self.remove(&key);
        let slice = Arc::new(slice);
        if let Some(service) = self.service_of(&slice) {
            self.of_service.entry(service).or_default().insert(key.1.clone());
        }
        self.held.insert(key, Arc::clone(&slice));
        before.into_iter().chain([slice]).collect()
    }

    fn remove(&mut self, key: &SliceKey) -> Option<Arc<EndpointSlice>> {
        let slice = self.held.remove(key)?;
        if let Some(service) = self.service_of(&slice)
            && let Some(names) = self.of_service.get_mut(&service)
        {
            names.remove(&key.1);
            if names.is_empty() {
                self.of_service.remove(&service);
            }
        }
        Some(slice)
    }
}

fn key(slice: &EndpointSlice) -> SliceKey {
    (slice.namespace().unwrap_or_default(), slice.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, service: &str) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "n", "labels": { SERVICE_LABEL: service } },
            "addressType": "IPv4", "endpoints": [],
        }))
        .expect("a slice")
    }

    fn names(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
        slices.iter().map(|slice| slice.name_any()).collect()
    }

    fn of(slices: &Slices, service: &str) -> Vec<String> {
        names(&slices.of(&ServiceKey::new("n", service)))
    }

    #[test]
    fn a_slice_that_moves_to_another_service_leaves_the_first() {
        let mut slices = Slices::default();
        slices.apply(Event::Apply(slice("a", "one")));
        slices.apply(Event::Apply(slice("b", "one")));
        let touched = slices.apply(Event::Apply(slice("a", "two")));
        let services: Vec<_> = touched.iter().filter_map(|slice| service_of(slice)).collect();
        assert_eq!(services, [ServiceKey::new("n", "one"), ServiceKey::new("n", "two")]);
        assert_eq!((of(&slices, "one"), of(&slices, "two")), (vec!["b".to_owned()], vec!["a".to_owned()]));
    }

    #[test]
    fn what_a_new_listing_does_not_have_is_gone_when_it_ends() {
        let mut slices = Slices::default();
        for event in [Event::Init, Event::InitApply(slice("a", "one")), Event::InitApply(slice("b", "one"))] {
            slices.apply(event);
        }
        assert!(!slices.synced());
        slices.apply(Event::InitDone);
        assert!(slices.synced());
        slices.apply(Event::Init);
        slices.apply(Event::InitApply(slice("b", "one")));
        assert_eq!(of(&slices, "one"), ["a", "b"], "nothing is gone before the listing has ended");
        assert_eq!(names(&slices.apply(Event::InitDone)), ["a"]);
        assert_eq!(of(&slices, "one"), ["b"]);
        slices.apply(Event::Delete(slice("b", "one")));
        assert!(of(&slices, "one").is_empty() && slices.of_service.is_empty());
    }
}
