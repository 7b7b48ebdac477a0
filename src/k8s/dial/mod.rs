//! Byte streams to servers.

pub mod dialer;
pub mod frames;
pub mod tunnel;
