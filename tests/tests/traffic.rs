//! What real stacks make of virtual IPs, in both families: refusals, resets, narrow paths, fragments, echo, a pod that is
//! its own backend, sockets of the node's own network, and crowds of pods.

#[path = "traffic/edge.rs"]
mod edge;
#[path = "traffic/ends.rs"]
mod ends;
#[path = "traffic/host.rs"]
mod host;
#[path = "traffic/pods.rs"]
mod pods;
#[path = "traffic/refused.rs"]
mod refused;
#[path = "traffic/sizes.rs"]
mod sizes;
#[path = "traffic/world.rs"]
mod world;
