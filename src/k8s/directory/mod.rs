//! Which server a name means.

mod dedup;
mod list;
mod lookup;
mod refusals;
pub mod resolve;
mod tls;
