//! A client's SCRAM messages: none panics, and none proves a password that nobody knows.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| pgferry::auth::client::scram::fuzz(bytes));
