//! Byte streams to servers.

pub mod dialer;
mod ends;
pub mod frames;
mod on_the_way;
pub mod tunnel;
