//! hostile_bytes
