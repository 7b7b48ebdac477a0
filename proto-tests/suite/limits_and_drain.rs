//! limits_and_drain
