//! Names as types, so that a zone is never taken for a region.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<T: AsRef<str>> From<T> for $type {
            fn from(name: T) -> Self {
                Self(name.as_ref().into())
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A member cluster, by the name of its `Cluster` object.
    ClusterName
);
name!(
    /// A region, as `topology.kubernetes.io/region` names it.
    Region
);
name!(
    /// A zone, as `topology.kubernetes.io/zone` names it.
    Zone
);

name!(
    /// A load balancer, by the DNS name that its provider gave it.
    HostName
);

/// A federated service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(String, String)", into = "(String, String)")]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ServiceKey {
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self { namespace: namespace.as_ref().into(), name: name.as_ref().into() }
    }
}

impl From<(String, String)> for ServiceKey {
    fn from((namespace, name): (String, String)) -> Self {
        Self::new(namespace, name)
    }
}

impl From<ServiceKey> for (String, String) {
    fn from(key: ServiceKey) -> Self {
        (key.namespace.as_ref().to_owned(), key.name.as_ref().to_owned())
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
