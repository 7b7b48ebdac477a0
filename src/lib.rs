//! pgferry lets any PostgreSQL client reach any PostgreSQL cluster in Kubernetes by its name.
//!
//! A layer may use the layers below it, never one above; siblings in braces do not import each other. The test
//! `proto-tests/suite/layers.rs` enforces it.
//!
//! ```text
//! main, cli -> app -+-> server -> session -> { auth, tls, audit } -> { upstream, pg } -+-> { error, metrics, telemetry }
//!                   +-> k8s --------------------------------------->   upstream       -+
//!                   +-> admin -------------------------------------->   metrics
//!                   +-> settings      (imported by app, cli and main alone)
//! ```

pub mod admin;
pub mod app;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod error;
pub mod k8s;
pub mod metrics;
pub mod pg;
pub mod server;
pub mod session;
pub mod settings;
pub mod telemetry;
pub mod tls;
pub mod upstream;
