//! What is kept: who, where to, how long, and nothing of what was said.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use proto_tests::secrets;
use rustix::process::Signal;
use serde_json::Value;

use super::stage::{Bastion, Pipe, TOKENS};
use crate::support::{World, serve, until};

pub(super) fn events(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(secrets::leaked(&text), None, "a secret in the audit log");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn of<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).collect()
}

pub(super) async fn until_there(file: &Path, name: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} {name}"), || of(&events(file), name).len() >= count).await;
    events(file)
}

/// A bastion that keeps events in a file of this directory.
async fn kept(directory: &tempfile::TempDir) -> (Bastion, PathBuf) {
    let file = directory.path().join("audit.log");
    let bastion = Bastion::new(&format!("{TOKENS}[audit]\nfile = \"{}\"\n", file.display())).await;
    (bastion, file)
}

#[tokio::test]
async fn a_session_is_kept_from_its_start_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let (bastion, file) = kept(&directory).await;
    let kim = bastion.token("kim", &["dev"]);
    bastion.bind("kim", "app");
    let mut wire = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    let pid: i64 = wire.value("select pg_backend_pid()").await.unwrap().parse().unwrap();
    wire.value("select 'nobody reads this'").await.unwrap();
    let request = wire.cancel_request();
    let mut cancel = proto_tests::wire::Wire::tcp(bastion.pgferry.address()).await.unwrap();
    cancel.send(&request).await.unwrap();
    cancel.rest().await.unwrap();
    drop(wire);
    let all = until_there(&file, "session.end", 1).await;
    let [start, ready, end] = ["session.start", "session.ready", "session.end"].map(|name| of(&all, name)[0]);
    assert_eq!(start["identity"]["name"], "kim");
    assert_eq!(start["identity"]["method"], "kubernetes");
    assert_eq!((&start["client"]["address"], &start["client"]["tls"]), (&"127.0.0.1".into(), &"TLSv1.3".into()));
    assert_eq!(ready["target"]["cluster"], "shop");
    assert_eq!(ready["target"]["pod"], "shop-1");
    assert_eq!((&ready["role"], &ready["database"]), (&"app".into(), &"app".into()));
    assert_eq!(ready["backend_pid"], pid);
    assert_eq!(end["backend_pid"], pid);
    assert!(end["bytes_out"].as_u64().unwrap() > 0, "{end}");
    assert_eq!(of(&all, "cancel")[0]["backend_pid"], pid);
    assert!(all.iter().all(|event| event["session"] == start["session"]), "{all:?}");
    assert!(!std::fs::read_to_string(&file).unwrap().contains("nobody reads this"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_refusal_is_kept_and_failed_logins_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bastion, file) = kept(&directory).await;
    let kim = bastion.token("kim", &[]);
    bastion.refusal(&kim, "app@shop.prod", "app").await;
    for _ in 0..3 {
        bastion.refusal(&secrets::make("bearer"), "app@shop.prod", "app").await;
    }
    let all = until_there(&file, "session.denied", 1).await;
    let denied = of(&all, "session.denied")[0];
    assert_eq!((&denied["sqlstate"], &denied["identity"]["name"]), (&"42501".into(), &"kim".into()));
    // They are written once a minute, and at the end.
    bastion.pgferry.signal(Signal::TERM);
    assert!(bastion.pgferry.ended().await.success());
    let all = events(&file);
    let failed = of(&all, "login.failed");
    assert_eq!(failed.iter().map(|event| event["count"].as_u64().unwrap()).sum::<u64>(), 3, "{failed:?}");
}

/// What ended a session, and what its client was told.
#[tokio::test]
async fn an_end_of_our_own_is_kept_with_what_was_said() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bastion, file) = kept(&directory).await;
    let kim = bastion.token("kim", &[]);
    bastion.bind("kim", "app");
    let mut wire = bastion.connect(&kim, "app@shop.prod", "app").await.unwrap();
    bastion.pgferry.signal(Signal::TERM);
    assert_eq!(wire.next().await.unwrap().unwrap().fields().code, "57P01");
    assert!(bastion.pgferry.ended().await.success());
    let all = events(&file);
    let end = of(&all, "session.end")[0];
    assert_eq!((&end["end"], &end["sqlstate"]), (&"drained".into(), &"57P01".into()));
}

/// Where nothing can be kept nobody new is let in, and whoever is in stays.
#[tokio::test]
async fn a_log_that_takes_nothing_lets_nobody_in() {
    let world = World::reading().await;
    let pipe = Pipe::new();
    let pgferry = serve(&world.api, &format!("[audit]\nfile = \"{}\"\n", pipe.path.display())).await;
    let mut early = pgferry.connect("pgferry", "shop.prod").await.unwrap();
    pipe.fill();
    let fields = loop {
        // What still fits is kept.
        if let Err(fields) = pgferry.connect("pgferry", "shop.prod").await {
            break fields;
        }
    };
    assert!(fields.code == "57P03" && fields.message.contains("audit log"), "{fields:?}");
    assert_eq!(early.value("select 1").await.unwrap(), "1");
}

#[tokio::test]
async fn the_log_is_opened_again_on_sighup() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::reading().await;
    let (file, rotated) = (directory.path().join("audit.log"), directory.path().join("audit.log.1"));
    let mut pgferry = serve(&world.api, &format!("[audit]\nfile = \"{}\"\n", file.display())).await;
    drop(pgferry.connect("pgferry", "shop.prod").await.unwrap());
    until_there(&file, "session.end", 1).await;
    std::fs::rename(&file, &rotated).unwrap();
    pgferry.signal(Signal::HUP);
    pgferry.says("opened again").await;
    drop(pgferry.connect("pgferry", "shop.prod").await.unwrap());
    let all = until_there(&file, "session.end", 1).await;
    assert_eq!(of(&all, "session.start").len(), 1);
    assert_eq!(of(&all, "session.start")[0]["identity"]["method"], "local");
    assert_eq!(of(&events(&rotated), "session.start").len(), 1);
}
