//! The command line.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use config::Value;

use crate::settings::{Flag, LogFormat, Sources, Tls};

pub mod ask;
pub mod print;

/// `sysexits.h`: the configuration is wrong.
pub const EX_CONFIG: u8 = 78;
/// `sysexits.h`: what was typed in cannot be used.
pub const EX_DATAERR: u8 = 65;
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
    /// Print the verifier of a password, for a login of pgferry's own
    #[command(
        name = "hash-password",
        after_help = "Asks for the password twice, or reads one line where standard input is no terminal:\n  pgferry \
                      hash-password < FILE\nWrite what it prints into the configuration: [auth.logins.NAME] verifier \
                      = \"...\". The password cannot be read from it, but guessed if it is short."
    )]
    HashPassword,
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
            Self::HashPassword | Self::Completions { .. } => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
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
