//! A node's agent as an installation meets it: what it looks at beforehand, waits for, tells a kubelet, and leaves.

#[path = "installation/check.rs"]
mod check;
#[path = "installation/detach.rs"]
mod detach;
#[path = "installation/start.rs"]
mod start;
#[path = "installation/world.rs"]
mod world;
