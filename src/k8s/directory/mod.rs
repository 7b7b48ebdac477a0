//! Which server a name means.

mod dedup;
mod list;
mod lookup;
pub mod resolve;
mod tls;
