//! The log: lines on standard error, by `tracing`.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A filter that is none.
#[derive(Debug, thiserror::Error)]
#[error("\"{filter}\" is no log filter: {why}")]
pub struct FilterError {
    filter: String,
    why: String,
}

/// Starts the log.
///
/// # Errors
/// Where the filter cannot be parsed.
pub fn start(filter: &str, format: Format) -> Result<(), FilterError> {
    // The HTTP stack speaks of each request at info and, at warn, of what a laptop's network does all day.
    let quiet = format!(
        "kube=error,kube_client=error,hyper=error,hyper_util=error,rustls=error,tower=error,tungstenite=error,tokio_tungstenite=error,{filter}"
    );
    let parsed =
        EnvFilter::try_new(quiet).map_err(|error| FilterError { filter: filter.to_owned(), why: error.to_string() })?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let registry = tracing_subscriber::registry().with(parsed);
    // Somebody who embeds the library may have a subscriber already, which then stays.
    let _ = match format {
        Format::Text => {
            registry.with(fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false)).try_init()
        }
        Format::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_target(false).with_writer(io::stderr)).try_init()
        }
    };
    Ok(())
}
