//! What kube-apiserver fills in and refuses, in its words: one file a kind or concern.

mod cluster;
mod endpoint_slice;
mod mcs;
pub mod names;
mod service;
mod simple;
