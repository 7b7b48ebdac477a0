//! Logins out of Secrets.

mod owners;
mod read_login;
pub mod secrets;
