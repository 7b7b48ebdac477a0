//! The tests of pgferry as a person meets it: the binary, real PostgreSQL servers, a Kubernetes API with faults.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod documents;
mod faults_stage;
mod layers;
mod size;
mod support;
mod system_states;
mod systems;
mod trust_stage;
mod unknown_systems;

mod cancel;
mod cluster_states;
mod command_line;
mod copy_extended;
mod encryption;
mod endures;
mod endures_load;
mod errors;
mod failover;
mod faults;
mod faults_api;
mod faults_ends;
mod goodbye;
mod hostile_bytes;
mod kubernetes_logins;
mod limits_and_drain;
mod log_lines;
mod logins;
mod logins_in_background;
mod names;
mod owners;
mod protocol;
mod requests;
mod trust;
mod trust_elsewhere;
mod trust_everyday;
mod trust_marks;
mod trust_names;
mod trust_passwords;
mod trust_process;
mod trust_reach;
mod watching;
