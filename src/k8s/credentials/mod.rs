//! Logins out of Secrets.

mod owners;
mod parts;
mod read_login;
mod refusals;
pub mod secrets;
