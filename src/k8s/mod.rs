//! Kubernetes: the implementation of the seam in `upstream`.
//!
//! Seven rooms, from the bottom: `api` is one API server, and knows no PostgreSQL; `operators` know how each system lays out
//! a cluster, and do no I/O; `cluster` is one cluster as it is now; `directory`, `credentials`, `dial` and `review` answer
//! the seam's questions, and know nothing of each other.

pub mod api;
pub mod cluster;
pub mod credentials;
pub mod dial;
pub mod directory;
pub mod operators;
pub mod review;
