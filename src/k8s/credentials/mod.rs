//! Logins out of Secrets.

mod read_login;
pub mod secrets;
mod single_flight;
