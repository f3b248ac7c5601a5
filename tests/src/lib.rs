//! What demo, tests and benchmarks share: the lab, and a whole federation running in it.
//!
//! [`lab`] is a small world of network namespaces with power cuts and delays; it knows nothing of Kubernetes.
//! [`federation`] fills it with the real processes. [`client`] asks as a user's program would. [`demo`] tells the main
//! story, [`bench`] measures what things cost and [`failover`] what users see when they fail.

pub mod bench;
pub mod client;
pub mod demo;
pub mod failover;
pub mod federation;
pub mod figures;
pub mod kubernetes;
pub mod lab;
pub mod packet_socket;
mod table;
