//! What commands print, without the characters that a terminal obeys.

use std::{
    fmt::Write as _,
    io::{self, Write},
    process::ExitCode,
};

use comfy_table::{Table, presets};

use super::Output;
use crate::{
    error::{Report, printable},
    settings::Origin,
    upstream::{ClusterInfo, Listing, NamedLogin},
};

/// Prints what can be reached through a proxy on this port; warnings go to standard error.
///
/// # Errors
/// Where standard output is closed.
pub fn list(listing: &Listing, port: u16, output: Output) -> io::Result<()> {
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
                writeln!(out, "\nContext {context}. Connect with: psql -h localhost -p {port} {name}")?;
            }
        }
    }
    out.flush()?;
    if output != Output::Json {
        for warning in &listing.warnings {
            report("warning", warning)?;
        }
    }
    Ok(())
}

/// Prints a verifier, and nothing else to standard output; where it belongs goes to standard error.
///
/// # Errors
/// Where standard output is closed.
pub fn verifier(verifier: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{verifier}")?;
    out.flush()?;
    writeln!(io::stderr().lock(), "Write it into the configuration: [auth.logins.NAME] verifier = \"...\"")
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
pub fn config(origins: &[Origin], output: Output) -> io::Result<()> {
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
pub fn report(kind: &str, report: &Report) -> io::Result<()> {
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
}
