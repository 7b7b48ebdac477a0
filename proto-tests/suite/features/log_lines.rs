//! The lines that the log has for a session, as a program reads them.

use proto_tests::subject::Subject;
use serde_json::Value;

use crate::support::World;

/// The last line that says this, once it is there.
async fn line(pgferry: &mut Subject, what: &str) -> Value {
    pgferry.says(what).await;
    let output = pgferry.output();
    serde_json::from_str(output.lines().rfind(|line| line.contains(what)).unwrap()).unwrap()
}

/// A second is shown to the millisecond; 0.12345679104328156 was a 32-bit number that had become one of 64.
fn is_to_the_millisecond(line: &Value) -> bool {
    let shown = line["seconds"].to_string();
    shown.split_once('.').is_some_and(|(_, decimals)| decimals.len() <= 3)
}

/// The client's address was `client` where a session opened, nowhere where it ended, and `peer` where it was refused; and
/// nothing said which database it was in.
#[tokio::test]
async fn the_same_things_have_the_same_names_in_all_lines() {
    let world = World::new().await;
    for (named, database) in [("shop", "app"), ("shop/postgres", "postgres")] {
        let mut pgferry = world.pgferry_with(&["--log-format", "json"]).await;
        let mut wire = pgferry.connect("app", named).await.unwrap();
        wire.message(b'X', b"").await.unwrap();
        let (opened, ended) = (line(&mut pgferry, "session opened").await, line(&mut pgferry, "session ended").await);
        for field in ["session", "peer", "context", "target", "pod", "namespace", "role", "database", "application"] {
            assert!(!opened[field].is_null() && opened[field] == ended[field], "{field}: {opened} {ended}");
        }
        for line in [&opened, &ended] {
            assert_eq!(line["database"], database, "{line}");
            assert!(is_to_the_millisecond(line) && line["client"].is_null(), "{line}");
        }
        pgferry.refusal("pgferry", "no-such-cluster").await;
        let refused = line(&mut pgferry, "connection refused").await;
        for line in [&opened, &ended, &refused] {
            assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        }
    }
}
