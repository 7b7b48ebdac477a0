//! How each system lays out a cluster. One file a system: data first, code only where systems differ; no I/O.
//!
//! To add one: write its file, and add it to `registry`.

mod access_secrets;
mod charts;
mod cnpg;
pub mod configured;
pub(in crate::k8s) mod connection;
pub(in crate::k8s) mod connection_hosts;
mod connection_keys;
mod connection_secrets;
mod connection_uri;
mod container;
mod crunchy;
mod cybertec;
pub(in crate::k8s) mod facts;
mod kubeblocks;
mod kubedb;
mod kubegres;
pub(in crate::k8s) mod leader;
pub(in crate::k8s) mod login;
pub(in crate::k8s) mod marked;
pub(in crate::k8s) mod patroni;
pub(in crate::k8s) mod pod_owners;
pub mod registry;
mod stackgres;
pub(in crate::k8s) mod system;
mod tembo;
mod workloads;
pub mod zalando;
