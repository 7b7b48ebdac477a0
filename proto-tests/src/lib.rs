//! Test support for pgferry: a fake Kubernetes API with its own port-forward framing, real PostgreSQL servers, a
//! wire-level client, and the binary under test. It knows nothing of pgferry's own code.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::needless_pass_by_value,
    missing_docs,
    reason = "test support: a panic is the report"
)]

pub mod cnpg;
pub mod demo;
pub mod fleet;
pub mod hostile;
pub mod kubernetes;
pub mod ports;
pub mod postgres;
pub mod secrets;
pub mod subject;
pub mod systems;
pub mod wire;
