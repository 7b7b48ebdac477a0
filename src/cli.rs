//! The command line.

use std::{
    ffi::OsString,
    fmt::Write as _,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use comfy_table::{Table, presets};
use config::Value;

use crate::{
    error::{Report, printable},
    settings::{Flag, LogFormat, Origin, Sources, Tls},
    upstream::{ClusterInfo, Listing, NamedLogin},
};

/// `sysexits.h`: the configuration is wrong.
pub const EX_CONFIG: u8 = 78;
/// `sysexits.h`: what is needed (a port, Kubernetes) is not to be had.
pub const EX_UNAVAILABLE: u8 = 69;

/// pgferry.
#[derive(Debug, Parser)]
#[command(
    name = "pgferry",
    version,
    about = "Any PostgreSQL client reaches any PostgreSQL cluster in Kubernetes by its name",
    long_about = "Any PostgreSQL client reaches any PostgreSQL cluster in Kubernetes by its name.\n\n  pgferry \
                  serve\n  psql -h localhost -p 10000 shop\n\nNames are CLUSTER[.NAMESPACE][@CONTEXT][:rw|:ro|:any], \
                  given as the database (psql ... shop.prod), or behind the role in the user name \
                  (user=app@shop.prod, with any database of the cluster; for GUIs). What your kubeconfig lets you do \
                  decides what you reach.",
    after_long_help = "Settings come from the built-in defaults, then a file (--config, PGFERRY_CONFIG, or \
                       ~/.config/pgferry/config.toml), then the environment (PGFERRY__LISTEN__PORT=10001), then \
                       flags. See what is in force, and from where: pgferry config",
    arg_required_else_help = true,
    subcommand_required = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve PostgreSQL clients on localhost
    #[command(after_long_help = "Connect with any client, no password needed:\n  psql -h localhost -p 10000 \
                                 shop              the cluster shop\n  psql -h localhost -p 10000 shop.prod:ro      a \
                                 replica of shop in namespace prod\n  psql -h localhost -p 10000 -U app@shop.prod app  \
                                 role app, database app\n\nThe first Ctrl-C or SIGTERM lets running queries finish \
                                 (--drain), the second ends all.")]
    Serve(Box<Serve>),
    /// List the clusters that you can reach
    List(List),
    /// Show the settings in force, and where each comes from
    Config(Show),
    /// Print a completion script for a shell
    #[command(
        after_help = "For example: pgferry completions bash > ~/.local/share/bash-completion/completions/pgferry"
    )]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Flags that every command has.
#[derive(Debug, Args)]
pub struct Common {
    /// A configuration file [default: `PGFERRY_CONFIG`, else ~/.config/pgferry/config.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The kubeconfig [default: KUBECONFIG, else ~/.kube/config, else the cluster we run in]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context that a name without one means [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace in which a bare name is looked up first [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    pub namespace: Option<String>,
    /// What to log: error, warn, info, debug, or a tracing filter such as pgferry=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// `pgferry serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Flags that every command has.
    #[command(flatten)]
    pub common: Common,
    /// The port on 127.0.0.1 and `::1`; 0 takes a free one [default: 10000]
    #[arg(long, short)]
    pub port: Option<u16>,
    /// Also listen on a Unix socket in this directory (psql -h DIR)
    #[arg(long, value_name = "DIR")]
    pub socket_dir: Option<PathBuf>,
    /// TLS for clients [default: self-signed]
    #[arg(long, value_name = "HOW")]
    pub tls: Option<Tls>,
    /// With --tls files: the PEM certificate chain
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// With --tls files: the PEM key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// How long running queries may take when told to stop, such as 30s [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<String>,
}

/// How `list` and `config` print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// Names alone, one a line.
    Name,
}

/// `pgferry list`.
#[derive(Debug, Args)]
pub struct List {
    /// Flags that every command has.
    #[command(flatten)]
    pub common: Common,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// `pgferry config`.
#[derive(Debug, Args)]
pub struct Show {
    /// Flags that every command has.
    #[command(flatten)]
    pub common: Common,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

impl Command {
    /// The sources of settings that this command line and the environment give.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let mut flags = Vec::new();
        let file = match self {
            Self::Serve(serve) => {
                serve.flags(&mut flags);
                serve.common.flags(&mut flags)
            }
            Self::List(List { common, .. }) | Self::Config(Show { common, .. }) => common.flags(&mut flags),
            Self::Completions { .. } => None,
        };
        let text = |text: OsString| text.into_string().ok();
        let environment = std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
        Sources { file, environment, flags }
    }
}

fn path(path: &std::path::Path) -> Value {
    Value::from(path.to_string_lossy().into_owned())
}

impl Common {
    fn flags(&self, flags: &mut Vec<Flag>) -> Option<PathBuf> {
        let mut add = |key, flag, value: Option<Value>| flags.extend(value.map(|value| (key, flag, value)));
        add("kubernetes.kubeconfig", "--kubeconfig", self.kubeconfig.as_deref().map(path));
        add("kubernetes.context", "--context", self.context.clone().map(Value::from));
        add("kubernetes.namespace", "--namespace", self.namespace.clone().map(Value::from));
        add("log.filter", "--log", self.log.clone().map(Value::from));
        add("log.format", "--log-format", self.log_format.map(word));
        self.config.clone()
    }
}

impl Serve {
    fn flags(&self, flags: &mut Vec<Flag>) {
        let mut add = |key, flag, value: Option<Value>| flags.extend(value.map(|value| (key, flag, value)));
        add("listen.port", "--port", self.port.map(Value::from));
        add("listen.socket_dir", "--socket-dir", self.socket_dir.as_deref().map(path));
        add("listen.tls", "--tls", self.tls.map(word));
        add("listen.tls_cert", "--tls-cert", self.tls_cert.as_deref().map(path));
        add("listen.tls_key", "--tls-key", self.tls_key.as_deref().map(path));
        add("sessions.drain", "--drain", self.drain.clone().map(Value::from));
    }
}

/// A flag's value, spelled as the configuration spells it.
#[expect(clippy::needless_pass_by_value, reason = "used as a function in map")]
fn word<T: ValueEnum>(value: T) -> Value {
    Value::from(value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default())
}

/// Prints a completion script.
///
/// # Errors
/// Where standard output is closed.
pub fn completions(shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pgferry", &mut script);
    io::stdout().lock().write_all(&script)
}

/// Prints what can be reached; warnings go to standard error.
///
/// # Errors
/// Where standard output is closed.
pub fn print_list(listing: &Listing, output: Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match output {
        Output::Json => writeln!(out, "{}", escaped(&list_json(listing)))?,
        Output::Name => {
            for cluster in &listing.clusters {
                writeln!(out, "{}", full_name(cluster))?;
            }
        }
        Output::Text => {
            if listing.clusters.is_empty() {
                writeln!(out, "No cluster was found.")?;
            } else {
                writeln!(out, "{}", list_table(&listing.clusters))?;
            }
            if let Some(first) = listing.clusters.iter().find(|cluster| cluster.ready) {
                let (context, name) = (printable(&first.id.context), full_name(first));
                writeln!(out, "\nContext {context}. Connect with: psql -h localhost -p 10000 {name}")?;
            }
        }
    }
    out.flush()?;
    if output != Output::Json {
        for warning in &listing.warnings {
            print_report("warning", warning)?;
        }
    }
    Ok(())
}

/// What others wrote is shown without the characters that a terminal obeys.
fn full_name(cluster: &ClusterInfo) -> String {
    printable(&format!("{}.{}", cluster.id.name, cluster.id.namespace))
}

/// JSON that a terminal shows and does not obey: DEL and the second set of control characters need no escape by its own
/// rules.
fn escaped(value: &serde_json::Value) -> String {
    let mut text = String::new();
    for character in format!("{value:#}").chars() {
        if character.is_control() && character != '\n' {
            // Writing into a String cannot fail.
            let _ = write!(text, "\\u{:04x}", u32::from(character));
        } else {
            text.push(character);
        }
    }
    text
}

fn list_table(clusters: &[ClusterInfo]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["CLUSTER", "NAMESPACE", "SYSTEM", "PRIMARY", "REPLICAS", "STATUS", "DATABASES", "ROLES"]);
    for cluster in clusters {
        let row = [
            cluster.id.name.clone(),
            cluster.id.namespace.clone(),
            cluster.system.to_string(),
            cluster.primary.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{}/{}", cluster.replicas.0, cluster.replicas.1),
            cluster.status.clone(),
            cluster.databases.join(","),
            roles(cluster),
        ];
        table.add_row(row.map(|cell| printable(&cell)));
    }
    table
}

/// The cluster's own roles, and those that are reached by another name.
fn roles(cluster: &ClusterInfo) -> String {
    let named = cluster.logins.iter().map(|login| format!("{} ({})", login.role, login.name));
    cluster.roles.iter().cloned().chain(named).collect::<Vec<_>>().join(",")
}

fn list_json(listing: &Listing) -> serde_json::Value {
    let login = |login: &NamedLogin| serde_json::json!({"name": login.name, "role": login.role});
    let clusters = listing.clusters.iter().map(|cluster| {
        serde_json::json!({
            "name": cluster.id.name,
            "namespace": cluster.id.namespace,
            "context": cluster.id.context,
            "system": &*cluster.system,
            "primary": cluster.primary,
            "ready": cluster.ready,
            "status": cluster.status,
            "replicas": {"ready": cluster.replicas.0, "total": cluster.replicas.1},
            "databases": cluster.databases,
            "roles": cluster.roles,
            "logins": cluster.logins.iter().map(login).collect::<Vec<_>>(),
        })
    });
    let warnings = listing
        .warnings
        .iter()
        .map(|warning| serde_json::json!({"message": warning.message, "detail": warning.detail, "hint": warning.hint}));
    serde_json::json!({"clusters": clusters.collect::<Vec<_>>(), "warnings": warnings.collect::<Vec<_>>()})
}

/// Prints the settings in force.
///
/// # Errors
/// Where standard output is closed.
pub fn print_config(origins: &[Origin], output: Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if output == Output::Json {
        let all = origins
            .iter()
            .map(|origin| serde_json::json!({"key": origin.key, "value": origin.value, "from": origin.from}));
        return writeln!(out, "{:#}", serde_json::Value::Array(all.collect()));
    }
    for origin in origins {
        match output {
            Output::Name => writeln!(out, "{}", origin.key)?,
            _ => writeln!(out, "{} = {}  # {}", origin.key, origin.value, origin.from)?,
        }
    }
    Ok(())
}

/// Prints a report on standard error, as psql would.
///
/// # Errors
/// Where standard error is closed.
pub fn print_report(kind: &str, report: &Report) -> io::Result<()> {
    let mut out = io::stderr().lock();
    writeln!(out, "{kind}: {}", printable(&report.message))?;
    for (label, text) in [("DETAIL", &report.detail), ("HINT", &report.hint)] {
        if let Some(text) = text {
            writeln!(out, "{label}:  {}", printable(text))?;
        }
    }
    Ok(())
}

/// A failed print: a closed pipe (`pgferry list | head`) is the reader's wish.
#[must_use]
pub fn printed(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_list_shows_what_others_wrote_without_obeying() {
        let wild = || "a\u{1b}[31mb\u{9b}0mc\u{7f}\r\nd".to_owned();
        let id = crate::upstream::ClusterId { context: wild(), namespace: wild(), name: wild(), system: "x".into() };
        let cluster = ClusterInfo {
            id,
            system: wild().into(),
            primary: Some(wild()),
            replicas: (0, 0),
            ready: true,
            status: wild(),
            databases: vec![wild()],
            roles: vec![wild()],
            logins: vec![NamedLogin { name: wild(), role: wild() }],
        };
        let controls = |text: &str| text.chars().any(|character| character.is_control() && character != '\n');
        let listing = Listing { clusters: vec![cluster.clone()], warnings: Vec::new() };
        let json = escaped(&list_json(&listing));
        assert!(!controls(&json), "{json:?}");
        let read: serde_json::Value = serde_json::from_str(&json).expect("still JSON");
        assert_eq!(read.pointer("/clusters/0/status").and_then(serde_json::Value::as_str), Some(wild().as_str()));
        let table = list_table(std::slice::from_ref(&cluster)).to_string();
        assert!(!controls(&table) && table.lines().count() == 2, "{table:?}");
        assert!(!full_name(&cluster).contains(char::is_control));
    }

    #[test]
    fn flags_become_settings() {
        let cli = Cli::try_parse_from(["pgferry", "serve", "-p", "0", "--tls", "off", "--drain", "3s", "-n", "prod"]);
        let mut sources = cli.expect("valid").command.sources();
        sources.environment.clear();
        let settings = crate::settings::load(&sources).expect("valid").settings;
        assert_eq!((settings.listen.port, settings.listen.tls), (0, Tls::Off));
        assert_eq!(settings.sessions.drain.as_secs(), 3);
        assert_eq!(settings.kubernetes.namespace.as_deref(), Some("prod"));
    }
}
