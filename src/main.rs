//! The binary: parse, start, run.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use pgferry::{
    app,
    cli::{
        self, Cli, Command, EX_CONFIG, EX_DATAERR, EX_UNAVAILABLE,
        print::{self, printed},
    },
    error::{ClientFacing, printable},
    settings::{self, Loaded, LogFormat, SettingsError, Sources},
    telemetry::{self, Format},
    tls,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Completions { shell } = cli.command {
        return printed(cli::completions(shell));
    }
    if matches!(cli.command, Command::HashPassword) {
        return hash_password();
    }
    tls::install_crypto_provider();
    let loaded = match read(&cli.command.sources()) {
        Ok(loaded) => loaded,
        Err(error) => return failed(EX_CONFIG, &format!("{:#}", anyhow::Error::from(error))),
    };
    let log = &loaded.settings.log;
    let format = match log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    if let Err(error) = telemetry::start(&log.filter, format) {
        return failed(EX_CONFIG, &error);
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(&cli.command, &loaded)),
        Err(error) => failed(EX_UNAVAILABLE, &error),
    }
}

fn read(sources: &Sources) -> Result<Loaded, SettingsError> {
    let loaded = settings::load(sources)?;
    app::check(&loaded.settings)?;
    Ok(loaded)
}

async fn run(command: &Command, loaded: &Loaded) -> ExitCode {
    match command {
        Command::Serve(_) => {
            let sources = command.sources();
            match app::serve(&loaded.settings, move || Ok(read(&sources)?.settings)).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(EX_UNAVAILABLE, &format!("{error:#}")),
            }
        }
        Command::List(list) => match app::list(&loaded.settings).await {
            Ok(listing) => printed(print::list(&listing, loaded.settings.listen.port, list.output)),
            Err(failure) => {
                // Where standard error is closed too, the exit code says it.
                let _ = print::report("error", &failure.report());
                ExitCode::from(EX_UNAVAILABLE)
            }
        },
        Command::Config(show) => printed(print::config(&loaded.origins, show.output)),
        // Neither needs settings, and both are done.
        Command::Completions { .. } | Command::HashPassword => ExitCode::SUCCESS,
    }
}

fn hash_password() -> ExitCode {
    let password = match cli::ask::password() {
        Ok(password) => password,
        Err(error) => return failed(EX_DATAERR, &error),
    };
    match app::verifier(&password) {
        Ok(verifier) => printed(print::verifier(&verifier)),
        Err(error) => failed(EX_DATAERR, &error),
    }
}

fn failed(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // What holds a port may call itself whatever it likes. Lines are our own: a wrong setting is shown in its file.
    let error = error.to_string().lines().map(printable).collect::<Vec<_>>().join("\n");
    // Where standard error is closed, the exit code says it.
    let _ = writeln!(io::stderr().lock(), "error: {error}");
    ExitCode::from(code)
}
