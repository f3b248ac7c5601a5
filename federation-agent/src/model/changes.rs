//! What differs between two maps by service that share what is equal in them: found without a look at the rest.

use imbl::{OrdMap, ordmap::DiffItem};

use super::ServiceKey;

/// One service's value before and after. They differ, and one of them is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Change<'a, V> {
    pub service: &'a ServiceKey,
    pub before: Option<&'a V>,
    pub after: Option<&'a V>,
}

/// By service.
pub fn changes<'a, V: PartialEq>(
    before: &'a OrdMap<ServiceKey, V>,
    after: &'a OrdMap<ServiceKey, V>,
) -> impl Iterator<Item = Change<'a, V>> {
    before.diff(after).map(|item| match item {
        DiffItem::Add(service, after) => Change { service, before: None, after: Some(after) },
        DiffItem::Update { old: (_, before), new: (service, after) } => {
            Change { service, before: Some(before), after: Some(after) }
        }
        DiffItem::Remove(service, before) => Change { service, before: Some(before), after: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let map = |pairs: &[(&str, u8)]| -> OrdMap<ServiceKey, u8> {
            pairs.iter().map(|(name, value)| (ServiceKey::new("ns", name), *value)).collect()
        };
        let (before, after) = (map(&[("a", 1), ("b", 2), ("c", 3)]), map(&[("b", 2), ("c", 4), ("d", 5)]));
        let found: Vec<_> = changes(&before, &after)
            .map(|change| (&*change.service.name, change.before.copied(), change.after.copied()))
            .collect();
        assert_eq!(found, [("a", Some(1), None), ("c", Some(3), Some(4)), ("d", None, Some(5))]);
    }
}
