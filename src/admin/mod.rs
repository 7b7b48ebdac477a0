//! What whoever operates pgferry asks it.

pub mod http;
