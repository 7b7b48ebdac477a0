//! One cluster as it is now: read, watched, and its primary chosen.

pub(in crate::k8s) mod cache;
mod followed;
pub(in crate::k8s) mod guard;
pub(in crate::k8s) mod leader_objects;
mod listed;
mod lookout;
pub(in crate::k8s) mod looks;
pub(in crate::k8s) mod members;
pub(in crate::k8s) mod operated;
pub mod overrides;
pub(in crate::k8s) mod plain;
mod pod_heard;
pub(in crate::k8s) mod pod_watch;
pub(in crate::k8s) mod read;
pub mod recent;
pub mod reflector;
mod resumed;
pub(in crate::k8s) mod snapshot;
pub(in crate::k8s) mod watches;
