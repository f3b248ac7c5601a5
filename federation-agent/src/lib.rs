//! Federation's agent: one binary, four roles (`apiserver`, `controller`, `node`, `dns`) and the commands that a
//! person uses on a node.
//!
//! Arrows point one way: `cli` to the roles, the roles to `plan`, `plan` to `model`. `model` and `plan` know neither
//! Kubernetes, the kernel nor the runtime; `dataplane` alone talks to the kernel's eBPF; `apiserver` and `controller`
//! never see it. `membership` is what a person runs beside the controller. What `node` and `dns` know of the federation comes from `watch`.

pub mod api;
pub mod apiserver;
pub mod cli;
pub mod client;
pub mod controller;
pub mod dataplane;
pub mod dns;
pub mod events;
pub mod health;
pub mod membership;
mod memory;
pub mod model;
pub mod network;
pub mod node;
pub mod plan;
pub mod settings;
pub mod shutdown;
pub mod watch;
