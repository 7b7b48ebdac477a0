//! Kubernetes: the implementation of the seam in `upstream`.
//!
//! From the bottom: `connector`, `pool` and `exec` make a client stack of our own, `contexts` keeps one a context,
//! `client` does single calls (`access` says what about) with errors that say what is missing, `idle` keeps
//! connections ready, `tunnel` and `forward` are the port-forward, `operators` know how each system lays out a
//! cluster, `watches` keep what is in use up to date, and `directory`, `credentials`, `list` and `dial` answer the
//! seam's questions.

pub mod access;
mod body;
mod choose;
pub mod client;
mod clock;
pub mod connection;
mod connector;
pub mod contexts;
pub mod credentials;
mod dedup;
pub mod dial;
pub mod directory;
mod discovery;
mod error;
mod exec;
mod explain;
mod fingerprint;
pub mod forward;
mod guards;
mod idle;
mod kubeconfig;
mod leaders;
mod list;
mod logins;
mod lookup;
mod members;
mod names;
mod nearest;
mod no_proxy;
mod objects;
mod operated;
pub mod operators;
pub mod overrides;
mod plain;
mod plugin;
mod pool;
mod read;
mod readings;
pub mod recent;
pub mod reflector;
mod resource;
mod tls;
pub mod tunnel;
mod typed;
mod watch_state;
pub mod watches;

pub use error::K8sError;
