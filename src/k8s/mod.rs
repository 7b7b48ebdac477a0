//! Kubernetes: the implementation of the seam in `upstream`.
//!
//! Six rooms, from the bottom: `api` is one API server, and knows no PostgreSQL; `operators` know how each system lays out
//! a cluster, and do no I/O; `cluster` is one cluster as it is now; `directory`, `credentials` and `dial` answer the seam's
//! questions, and know nothing of each other.

pub mod api;
pub mod cluster;
pub mod credentials;
pub mod dial;
pub mod directory;
pub mod operators;
