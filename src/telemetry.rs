//! The log: lines on standard error, by `tracing`.

use std::{
    fmt::Debug,
    io::{self, IsTerminal},
};

use tracing::{Level, field::Field};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    filter::Targets,
    fmt::{self, FormatFields, format},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::error::printable;

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
    if lets_nothing_through(filter) {
        let why = "it lets nothing through; write off, error, warn, info, debug or trace, or pgferry=debug,warn";
        return Err(FilterError { filter: filter.to_owned(), why: why.to_owned() });
    }
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let registry = tracing_subscriber::registry().with(parsed);
    // Somebody who embeds the library may have a subscriber already, which then stays.
    let _ = match format {
        Format::Text => {
            let layer = fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false);
            registry.with(layer.fmt_fields(text_fields())).try_init()
        }
        Format::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_target(false).with_writer(io::stderr)).try_init()
        }
    };
    Ok(())
}

/// A word that is no level (`verbose`) is the name of a module, of which nobody has any: then the log is silent, also about
/// what is wrong. Who wants that says `off`.
fn lets_nothing_through(filter: &str) -> bool {
    /// Ours, and the libraries whose lines are worth something.
    const MODULES: [&str; 11] =
        ["pgferry", "kube", "hyper", "rustls", "tokio", "tower", "tungstenite", "h2", "runtime", "mio", "config"];
    let speaks = |target: &str| MODULES.iter().any(|module| target.starts_with(module));
    let off = |part: &str| part.trim().eq_ignore_ascii_case("off") || part.trim().ends_with("=off");
    // What has spans or fields in it was written by somebody who knows.
    let plain = !filter.contains('[');
    plain
        && filter.parse::<Targets>().is_ok_and(|targets| {
            !targets.would_enable("pgferry", &Level::ERROR)
                && !targets.iter().any(|(target, _)| speaks(target))
                && !filter.split(',').any(off)
        })
}

/// `message name=value ...`, without the characters that a terminal obeys or that begin a line of their own: names,
/// statuses and errors are other people's text. (JSON has escapes of its own.)
fn text_fields() -> impl for<'a> FormatFields<'a> + 'static {
    format::debug_fn(|writer, field: &Field, value: &dyn Debug| {
        let text = printable(&format!("{value:?}"));
        if field.name() == "message" { write!(writer, "{text}") } else { write!(writer, "{}={text}", field.name()) }
    })
    .delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_filter_that_silences_everything_is_none() {
        for filter in ["verbose", "quiet", "nothing=debug", "information"] {
            assert!(lets_nothing_through(filter), "{filter}");
        }
        for filter in [
            "info",
            "WARN",
            "off",
            "pgferry=debug",
            "pgferry::session=debug",
            "pgferry=debug,warn",
            "kube=trace",
            "[span]=debug",
            "x=info,off",
        ] {
            assert!(!lets_nothing_through(filter), "{filter}");
        }
    }

    #[test]
    fn a_line_is_one_line_without_escapes() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = fmt::layer().with_writer(move || writer.clone()).with_ansi(false).without_time();
        let subscriber = tracing_subscriber::registry().with(layer.with_target(false).fmt_fields(text_fields()));
        let wild = "a\u{1b}[31mb\nc\u{9b}d";
        tracing::subscriber::with_default(subscriber, || {
            let error: &(dyn std::error::Error + 'static) = &io::Error::other(wild);
            tracing::info!(shown = %wild, quoted = wild, error, number = 7, "it said {wild}");
        });
        let text = String::from_utf8(lines.0.lock().expect("whole").clone()).expect("text");
        let tame = "a\u{fffd}[31mb\u{fffd}c\u{fffd}d";
        let expected = format!(
            " INFO it said {tame} shown={tame} quoted=\"a\\u{{1b}}[31mb\\nc\\u{{9b}}d\" error={tame} number=7\n"
        );
        assert_eq!(text, expected);
    }
}
