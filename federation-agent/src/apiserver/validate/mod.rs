//! What kube-apiserver fills in and refuses, in its words: one file a kind or concern.

mod cluster;
mod endpoint_slice;
mod exposure;
mod mcs;
pub mod names;
mod service;
mod simple;

#[cfg(test)]
mod tests;
