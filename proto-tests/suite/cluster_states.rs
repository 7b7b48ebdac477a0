//! cluster_states
