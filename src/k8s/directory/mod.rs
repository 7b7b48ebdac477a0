//! Which server a name means.

mod dedup;
pub mod external;
mod known;
mod list;
mod list_reach;
mod list_rows;
mod lookup;
mod owners;
mod refusals;
pub mod resolve;
mod scan;
mod tls;
mod undisputed;
