//! The binary: parse, start, run.
fn main() {}
