//! The tests of pgferry as a person meets it: the binary, real PostgreSQL servers, a Kubernetes API with faults.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod documents;
mod layers;
mod support;

/// What each feature promises its user.
mod features {
    mod cancel;
    mod command_line;
    mod copy_extended;
    mod encryption;
    mod errors;
    mod goodbye;
    mod hostile_bytes;
    mod limits_and_drain;
    mod log_lines;
    mod logins;
    mod modes;
    mod names;
    mod protocol;
    mod size;
    mod whereabouts;
}

/// A team's bastion: who is it, may they, and for how long.
mod bastion {
    mod audit;
    mod http;
    // Elsewhere a machine has one loopback address.
    #[cfg(target_os = "linux")]
    mod network;
    mod permits;
    mod rules;
    pub(crate) mod stage;
    mod who;
}

/// What breaks, and what a client reads then.
mod faults {
    mod api;
    mod cluster_states;
    mod ends;
    mod failover;
    pub(crate) mod stage;
    mod ways;
}

/// Every way that PostgreSQL lives in Kubernetes.
mod systems {
    mod claims;
    pub(crate) mod every;
    mod few_rights;
    mod owners;
    mod plain;
    mod secrets;
    mod states;
    pub(crate) mod unknown;
}

/// What holds over hours: logins, watches, requests, load.
mod lasting {
    mod crowd;
    mod endures;
    mod kubernetes_logins;
    mod load;
    mod logins_in_background;
    mod requests;
    mod steady;
    mod watching;
}

/// What others wrote, and how far it is followed.
mod trust {
    mod elsewhere;
    mod everyday;
    mod marks;
    pub(crate) mod names;
    mod passwords;
    mod paths;
    mod process;
    mod reach;
    pub(crate) mod stage;
}
