//! The embedded Federation API as its clients meet it: the real program as a process, real `kubectl` and `kube`.

#[path = "apiserver/access.rs"]
mod access;
#[path = "apiserver/durability.rs"]
mod durability;
#[path = "apiserver/killed.rs"]
mod killed;
#[path = "apiserver/kubectl.rs"]
mod kubectl;
#[path = "apiserver/kubectl_verbs.rs"]
mod kubectl_verbs;
#[path = "apiserver/objects.rs"]
mod objects;
#[path = "apiserver/patches.rs"]
mod patches;
#[path = "apiserver/propagation.rs"]
mod propagation;
#[path = "apiserver/server.rs"]
mod server;
#[path = "apiserver/versions.rs"]
mod versions;
#[path = "apiserver/watches.rs"]
mod watches;
