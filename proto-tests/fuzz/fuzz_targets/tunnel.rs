//! A port-forward's messages.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| pgferry::k8s::dial::frames::fuzz(bytes));
