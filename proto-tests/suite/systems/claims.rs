//! What is claimed of every system, each claim tried on one stage.

use proto_tests::{
    kubernetes::certificates::Authority,
    secrets,
    subject::Subject,
    systems::{Certificate, System},
    wire::{Fields, Wire},
};
use serde_json::json;

use crate::{
    support::{PACE, PATIENCE},
    systems::every::Stage,
};

/// What came of a claim.
pub(super) enum Cell {
    Works,
    /// It is otherwise with this system, and this is how.
    Otherwise(&'static str),
}

pub(super) const CLAIMS: [&str; 11] = [
    "listed once",
    "default login",
    "role login",
    "replica (`:ro`)",
    "pooler beside it",
    "two primaries",
    "wrong CA",
    "few rights",
    "missing Secret",
    "rotation",
    "failover",
];

/// Everything that is claimed, in the order of [`CLAIMS`].
pub(super) async fn claims(system: &dyn System) -> Vec<Cell> {
    let mut stage = Stage::new(system).await;
    let pgferry = stage.pgferry("").await;
    let mut cells =
        vec![listed(&stage).await, default_login(&stage, &pgferry).await, role_login(&stage, &pgferry).await];
    cells.push(replica(&stage, &pgferry).await);
    cells.push(pooler(&mut stage).await);
    cells.push(two_primaries(&mut stage).await);
    cells.push(wrong_ca(&stage).await);
    cells.push(few_rights(&stage).await);
    cells.push(missing_secret(&stage).await);
    cells.push(rotation(&mut stage, &pgferry).await);
    cells.push(failover(&mut stage, &pgferry).await);
    cells
}

async fn listed(stage: &Stage<'_>) -> Cell {
    let all = stage.list().await;
    assert_eq!(all.len(), 1, "{}: {all:#?}", stage.system.title());
    let (found, login) = (&all[0], stage.system.login(&stage.state));
    assert_eq!((&found["system"], &found["ready"]), (&json!(stage.system.name()), &json!(true)), "{found:#}");
    assert_eq!(found["namespace"], stage.state.namespace);
    let first = stage.system.pod_name(&stage.state, 0);
    assert!(
        found["primary"] == json!(first) || found["primary"].is_null() && !stage.system.has_leader_object(),
        "{found:#}"
    );
    if login.database != "postgres" && stage.system.lists_its_database() {
        assert!(found["databases"].as_array().unwrap().contains(&json!(login.database)), "{found:#}");
    }
    let roles = found["roles"].as_array().unwrap();
    assert!(roles.is_empty() || roles.contains(&json!(login.name)), "{found:#}");
    if stage.state.servers > 1 && stage.system.lists_its_replicas() {
        assert_eq!(found["replicas"], json!({"ready": 1, "total": 1}), "{found:#}");
    }
    Cell::Works
}

async fn default_login(stage: &Stage<'_>, pgferry: &Subject) -> Cell {
    let login = stage.system.login(&stage.state);
    for target in [stage.system.target(&stage.state), stage.target()] {
        let mut wire = connect(pgferry, "pgferry", &target).await;
        assert_eq!(wire.value("select current_user").await.unwrap(), login.name);
        assert_eq!(wire.value("select current_database()").await.unwrap(), login.database);
        assert_eq!(stage.server_of(&mut wire).await, 0);
        let told = wire.notices.iter().any(|notice| notice.message.contains("superuser"));
        assert_eq!(told, login.superuser, "{}: {:?}", stage.system.title(), wire.notices);
    }
    Cell::Works
}

async fn role_login(stage: &Stage<'_>, pgferry: &Subject) -> Cell {
    let refusal = pgferry.refusal("nobody-here", &stage.target()).await;
    assert_eq!(refusal.code, "28000", "{refusal:?}");
    let known = format!("{} {}", refusal.message, refusal.hint);
    assert!(known.contains("nobody-here") && known.contains(&stage.system.login(&stage.state).name), "{refusal:?}");
    let Some(other) = stage.system.other(&stage.state) else {
        return Cell::Otherwise("one role");
    };
    let mut wire = connect(pgferry, &other.name, &stage.target()).await;
    assert_eq!(wire.value("select current_user").await.unwrap(), other.name);
    Cell::Works
}

async fn replica(stage: &Stage<'_>, pgferry: &Subject) -> Cell {
    let target = format!("{}:ro", stage.target());
    if stage.state.servers == 1 || stage.system.is_a_secret() {
        let refusal = pgferry.refusal("pgferry", &target).await;
        assert!(refusal.code == "57P03" && refusal.message.contains("replica"), "{refusal:?}");
        return Cell::Otherwise(if stage.state.servers == 1 { "one server" } else { "not in the Secret" });
    }
    let mut wire = connect(pgferry, "pgferry", &target).await;
    assert_eq!(wire.value("select pg_is_in_recovery()").await.unwrap(), "t");
    assert_eq!(stage.server_of(&mut wire).await, 1);
    Cell::Works
}

/// A pooler's pod with labels like the servers', and nothing behind it.
async fn pooler(stage: &mut Stage<'_>) -> Cell {
    if stage.system.pooler_labels(&stage.state).is_none() {
        return Cell::Otherwise("none in the pods' labels");
    }
    stage.state.pooler = true;
    stage.draw();
    let pgferry = stage.pgferry("").await;
    for mode in ["", ":any"] {
        for _ in 0..4 {
            connect(&pgferry, "pgferry", &format!("{}{mode}", stage.target())).await;
        }
    }
    assert_eq!(stage.forwards_to("a-pooler"), 0);
    Cell::Works
}

/// Two pods carry the primary's label; then only the wrong one does.
async fn two_primaries(stage: &mut Stage<'_>) -> Cell {
    if stage.system.asks_the_servers() {
        return Cell::Otherwise("the servers are asked");
    }
    if !stage.system.labels_move() {
        return Cell::Otherwise("no label moves");
    }
    let other = stage.system.pod_name(&stage.state, 1);
    let mut cell = Cell::Works;
    let mut lies = vec![vec![0, 1]];
    // Behind a Service only what it selects can be seen.
    if stage.system.has_leader_object() && !stage.system.is_a_secret() {
        lies.push(vec![1]);
    }
    for labelled in lies {
        stage.state.labelled = labelled;
        stage.draw();
        stage.api.forget_requests();
        let pgferry = stage.pgferry("").await;
        if stage.system.has_leader_object() {
            let mut wire = connect(&pgferry, "pgferry", &stage.target()).await;
            assert_eq!(stage.server_of(&mut wire).await, 0);
            assert_eq!(stage.forwards_to(&other), 0, "{}", stage.system.title());
            if !stage.system.is_a_secret() && stage.state.labelled.len() == 2 {
                assert_eq!(stage.list().await[0]["primary"], json!(stage.system.pod_name(&stage.state, 0)));
            }
        } else if stage.system.asks_who_claims() {
            cell = Cell::Otherwise("the servers are asked");
        } else {
            let refusal = pgferry.refusal("pgferry", &stage.target()).await;
            assert!(refusal.code == "57P03" && refusal.message.contains("no ready primary"), "{refusal:?}");
            cell = Cell::Otherwise("neither is believed");
        }
    }
    stage.state.lead(0);
    stage.draw();
    cell
}

async fn wrong_ca(stage: &Stage<'_>) -> Cell {
    if !stage.system.server().tls {
        return Cell::Otherwise("no TLS");
    }
    let (mode, name) = match stage.system.certificate(&stage.state) {
        Certificate::Nobodys => return Cell::Otherwise("no CA to be had"),
        Certificate::Signed => ("verify-ca", String::new()),
        Certificate::Named(_) => ("verify-full", String::new()),
        Certificate::Brought(name) => ("verify-full", format!("sslservername = \"{name}\"\n")),
    };
    let cluster = format!("[clusters.\"{}\"]\nsslmode = \"{mode}\"\n{name}", stage.target());
    let pgferry = stage.pgferry(&cluster).await;
    let mut wire = connect(&pgferry, "pgferry", &stage.target()).await;
    assert_eq!(wire.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()").await.unwrap(), "t");
    let wrong = stage.api.write("wrong.pem", Authority::new("a stranger").pem());
    let pgferry = stage.pgferry(&format!("{cluster}sslrootcert = \"{}\"\n", wrong.display())).await;
    let refusal = pgferry.refusal("pgferry", &stage.target()).await;
    assert!(refusal.message.contains("not signed by the CA"), "{refusal:?}");
    // A CA in a ConfigMap needs no right to read Secrets.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": stage.state.namespace, "name": "ca"},
        "data": {"ca.pem": stage.state.authority}});
    stage.api.put("configmaps", map);
    let pgferry = stage.pgferry(&format!("{cluster}sslrootcert = \"configmap:ca/ca.pem\"\n")).await;
    connect(&pgferry, "pgferry", &stage.target()).await;
    Cell::Works
}

async fn few_rights(stage: &Stage<'_>) -> Cell {
    for (verb, resource) in stage.system.dispensable() {
        stage.api.deny(None, verb, resource, None);
    }
    let pgferry = stage.pgferry("").await;
    let (login, target) = (stage.system.login(&stage.state), stage.system.plain_target(&stage.state));
    let mut user = "pgferry";
    if stage.system.only_the_resource_knows_the_owner() {
        // The roles are named, and none is guessed.
        let other = stage.system.other(&stage.state).map(|other| other.name);
        let mut roles: Vec<String> = other.into_iter().chain([login.name.clone()]).collect();
        roles.sort();
        let refusal = pgferry.refusal("pgferry", &target).await;
        assert!(refusal.code == "28000" && refusal.hint.contains(&roles.join(", ")), "{refusal:?}");
        user = &login.name;
    }
    let mut wire = connect(&pgferry, user, &target).await;
    assert_eq!(wire.value("select current_user").await.unwrap(), login.name);
    stage.api.allow_all();
    // Without the right that nothing replaces, the error names it.
    stage.api.deny(None, "create", "pods/portforward", None);
    let refusal = pgferry.refusal("pgferry", &stage.target()).await;
    assert!(refusal.code == "42501" && refusal.hint.contains("resources: [\"pods/portforward\"]"), "{refusal:?}");
    stage.api.allow_all();
    Cell::Works
}

async fn missing_secret(stage: &Stage<'_>) -> Cell {
    let name = stage.system.secret(&stage.state).expect("a Secret");
    let kept = stage.api.get("secrets", &stage.state.namespace, &name).expect("the Secret");
    stage.api.delete("secrets", &stage.state.namespace, &name);
    let pgferry = stage.pgferry("").await;
    let login = stage.system.login(&stage.state);
    let refused = pgferry.connect(&login.name, &stage.target()).await.err().expect("a refusal");
    let found_by_it = stage.system.is_a_secret();
    if found_by_it {
        assert_eq!(refused.code, "3D000", "{refused:?}");
    } else {
        assert!(refused.code == "28000" && refused.message.contains(&name), "{refused:?}");
    }
    stage.api.put("secrets", kept);
    if found_by_it { Cell::Otherwise("the cluster is unknown") } else { Cell::Works }
}

async fn rotation(stage: &mut Stage<'_>, pgferry: &Subject) -> Cell {
    let hba = stage.system.server().hba;
    if hba.contains("127.0.0.1/32 trust") && !hba.starts_with("host all all 0.0.0.0/0 md5") {
        return Cell::Otherwise("loopback is trusted");
    }
    if hba.contains("cert") {
        return Cell::Otherwise("by certificate");
    }
    let login = stage.system.login(&stage.state);
    // The Secret changes first: until the server follows, what worked before is used.
    let next = secrets::make("next");
    stage.state.password.clone_from(&next);
    stage.draw();
    connect(pgferry, "pgferry", &stage.target()).await;
    stage.as_superuser(0, &format!("ALTER ROLE \"{}\" PASSWORD '{next}'", login.name)).await;
    connect(pgferry, "pgferry", &stage.target()).await;
    // The server changes first: each refusal has the Secret read once more, and after two the role is left alone.
    let next = secrets::make("next");
    stage.as_superuser(0, &format!("ALTER ROLE \"{}\" PASSWORD '{next}'", login.name)).await;
    for _ in 0..2 {
        let refusal = pgferry.refusal("pgferry", &stage.target()).await;
        assert!(refusal.code == "28P01" && refusal.hint.contains("Secret"), "{refusal:?}");
    }
    let refusal = pgferry.refusal("pgferry", &stage.target()).await;
    assert!(refusal.code == "28P01" && refusal.detail.contains("not tried again for"), "{refusal:?}");
    // The Secret follows: the next login works, without a restart.
    stage.state.password = next;
    stage.draw();
    let mut wire = connect(pgferry, "pgferry", &stage.target()).await;
    assert_eq!(wire.value("select current_user").await.unwrap(), login.name);
    if stage.system.renames_rotated_users() {
        rotated_user(stage, pgferry).await;
    }
    Cell::Works
}

/// The rotation changes the user's name in the same Secret, to one with a date behind it.
async fn rotated_user(stage: &Stage<'_>, pgferry: &Subject) {
    let role = stage.system.login(&stage.state).name;
    let user = format!("{role}261121");
    let next = secrets::make("rotated");
    stage.as_superuser(0, &format!("CREATE ROLE {user} LOGIN PASSWORD '{next}' IN ROLE {role}")).await;
    let secret = stage.system.secret(&stage.state).unwrap();
    stage.api.change("secrets", "prod", &secret, |secret| {
        secret["data"]["username"] = json!(proto_tests::cnpg::encoded(&user));
        secret["data"]["password"] = json!(proto_tests::cnpg::encoded(&next));
    });
    for typed in ["pgferry", &role] {
        let mut wire = connect(pgferry, typed, &stage.target()).await;
        assert_eq!(wire.value("select current_user").await.unwrap(), user);
    }
    stage.draw();
}

async fn failover(stage: &mut Stage<'_>, pgferry: &Subject) -> Cell {
    if !stage.system.fails_over() {
        return Cell::Otherwise("the system has none");
    }
    let mut idle = connect(pgferry, "pgferry", &stage.target()).await;
    assert_eq!(stage.server_of(&mut idle).await, 0);
    stage.servers[1].promote();
    stage.state.lead(1);
    stage.draw();
    if stage.system.asks_the_servers() {
        stage.servers[0].stop();
    } else {
        // The old server lives on, and would take writes: the session on it is ended by pgferry.
        let ended = tokio::time::timeout(PATIENCE, idle.next()).await.expect("it ends").unwrap().expect("a message");
        let fields = ended.fields();
        assert_eq!((fields.code.as_str(), fields.severity.as_str()), ("57P01", "FATAL"), "{fields:?}");
    }
    let moved = async {
        let mut looks = tokio::time::interval(PACE);
        loop {
            looks.tick().await;
            match pgferry.connect("pgferry", &stage.target()).await {
                Ok(mut wire) => {
                    if stage.server_of(&mut wire).await == 1 {
                        return wire;
                    }
                }
                Err(fields) => assert!(fields.code == "57P03" || fields.code.starts_with("08"), "{fields:?}"),
            }
        }
    };
    let mut wire = tokio::time::timeout(PATIENCE, moved).await.expect("a new primary");
    wire.query("create temporary table t (x int); insert into t values (1)").await.unwrap();
    // Who starts now goes there at once.
    let fresh = stage.pgferry("").await;
    let mut wire = connect(&fresh, "pgferry", &stage.target()).await;
    assert_eq!(stage.server_of(&mut wire).await, 1);
    Cell::Works
}

async fn connect(pgferry: &Subject, user: &str, database: &str) -> Wire {
    let refused = |fields: Fields| panic!("{user} {database}: {fields:?}");
    pgferry.connect(user, database).await.unwrap_or_else(refused)
}
