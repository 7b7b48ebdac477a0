//! One API server: its contexts, a client stack of our own, calls with errors that say what is missing, and names that are
//! parsed before they become a part of a path.

pub mod access;
mod body;
mod call;
pub mod client;
pub mod connection;
pub mod contexts;
mod discovery;
pub(in crate::k8s) mod endpoints;
pub mod error;
mod exec;
mod fingerprint;
mod hedge;
pub(in crate::k8s) mod http;
pub(in crate::k8s) mod jitter;
mod kubeconfig;
pub(in crate::k8s) mod names;
mod no_proxy;
pub(in crate::k8s) mod objects;
mod plugin;
mod prewarm;
pub(in crate::k8s) mod reader;
pub(in crate::k8s) mod resource;
pub(in crate::k8s) mod secret_data;
pub(in crate::k8s) mod single_flight;
mod status;
pub(in crate::k8s) mod suggest;
pub(in crate::k8s) mod suspend;
pub(in crate::k8s) mod throttle;
