//! The bastion on the real API server: people with a ServiceAccount's token, and what RBAC lets them.

use std::{path::PathBuf, time::Duration};

use proto_tests::{
    kubernetes::certificates::Authority,
    secrets,
    subject::{Start, Subject},
};
use tokio::{process::Command, time::timeout};

use super::{BINARY, CLUSTERS, kubeconfig, kubectl};

/// Long enough for the API server's own caches (`--authorization-webhook-cache`, ten seconds of a token's success).
const PATIENCE: Duration = Duration::from_mins(2);

/// A person in namespace `prod`, removed at the end.
struct Person {
    name: String,
}

impl Person {
    async fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        kubectl(&["create", "serviceaccount", "-n", "prod", &name]).await;
        Self { name }
    }

    async fn token(&self, more: &[&str]) -> String {
        let mut args = vec!["create", "token", "-n", "prod", &self.name];
        args.extend(more);
        let token = kubectl(&args).await;
        secrets::remember(&token);
        token
    }

    /// As the refusal's hint shows it: a Role with the rule, and its binding.
    async fn may(&self, verb: &str, resource: &str, cluster: &str) {
        let subject = serde_json::json!({"kind": "ServiceAccount", "name": self.name, "namespace": "prod"});
        bind(&self.name, &subject, (verb, resource, cluster)).await;
    }

    async fn may_not(&self) {
        kubectl(&["delete", "-n", "prod", "role,rolebinding", &self.name]).await;
    }

    async fn leaves(self) {
        kubectl(&["delete", "-n", "prod", "--ignore-not-found", "role,rolebinding,serviceaccount", &self.name]).await;
    }
}

/// A Role in namespace `prod` with one rule, and its binding, both called so.
async fn bind(name: &str, subject: &serde_json::Value, (verb, resource, cluster): (&str, &str, &str)) {
    let rbac = "rbac.authorization.k8s.io";
    let objects = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": {"name": name, "namespace": "prod"},
            "rules": [{
                "apiGroups": ["pgferry.dev"], "resources": [resource], "resourceNames": [cluster], "verbs": [verb],
            }],
        },
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": {"name": name, "namespace": "prod"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]});
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("role.json");
    std::fs::write(&file, objects.to_string()).unwrap();
    kubectl(&["apply", "-f", file.to_str().unwrap()]).await;
}

/// Somebody whom Kubernetes knows by a name alone.
fn user(name: &str) -> serde_json::Value {
    serde_json::json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name})
}

/// What psql says once it is let in.
async fn let_in(conninfo: &str, password: &str, sql: &str) -> String {
    let attempts = async {
        loop {
            let mut psql = Command::new("psql");
            psql.args(["-XAt", conninfo, "-c", sql]).env("PGPASSWORD", password).stdin(std::process::Stdio::null());
            let output = psql.output().await.unwrap();
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).trim().to_owned();
            }
        }
    };
    timeout(PATIENCE, attempts).await.expect("the right is there")
}

/// A bastion that asks again twice a second.
async fn bastion(kubeconfig: &PathBuf, methods: &str, more: &str) -> (Subject, Authority, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("the team's");
    let (certificate, key) = authority.server(&["localhost", "127.0.0.1"]);
    let write = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let (certificate, key) = (write("tls.crt", &certificate), write("tls.key", &key));
    let ca = write("ca.crt", authority.pem());
    let more = more.replace("CLIENT_CA", &ca);
    let text = format!(
        "[listen]\ntls = \"files\"\ntls_cert = \"{certificate}\"\ntls_key = \"{key}\"\n\
         [auth]\nmethods = {methods}\nrecheck = \"500ms\"\n{more}"
    );
    let file = write("config.toml", &text);
    let start = Start::new(BINARY).args(["serve", "--port", "0", "--log", "debug", "--config", &file]);
    let pgferry = start.arg("--kubeconfig").arg(kubeconfig).wait().await;
    (pgferry, authority, directory)
}

/// psql as a person types it, with the bastion's certificate verified in full.
async fn psql(
    pgferry: &Subject,
    directory: &tempfile::TempDir,
    password: &str,
    (user, database): (&str, &str),
    sql: &str,
) -> (bool, String) {
    let ca = directory.path().join("ca.crt").display().to_string();
    let port = pgferry.address().port();
    let conninfo =
        format!("host=localhost port={port} user={user} dbname={database} sslmode=verify-full sslrootcert={ca}");
    let output = Command::new("psql")
        .args(["-XAt", &conninfo, "-c", sql])
        .env("PGPASSWORD", password)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

#[tokio::test]
async fn a_person_with_a_token_reaches_what_rbac_says() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let (pgferry, _, directory) = bastion(&kubeconfig, "[\"kubernetes\"]", "").await;
    let kim = Person::new("kim").await;
    let token = kim.token(&["--audience", "pgferry"]).await;
    let shop = ("app@shop.prod", "app");
    let (ok, text) = psql(&pgferry, &directory, &token, shop, "select 1").await;
    assert!(!ok && text.contains("resources: [\"clusters/app\"]"), "{text}");
    let (_, absent) = psql(&pgferry, &directory, &token, ("app@shap.prod", "app"), "select 1").await;
    assert_eq!(
        text.lines().skip(1).collect::<Vec<_>>(),
        absent.replace("shap", "shop").lines().skip(1).collect::<Vec<_>>()
    );
    kim.may("connect", "clusters/app", "shop").await;
    let let_in = async { while !psql(&pgferry, &directory, &token, shop, "select 1").await.0 {} };
    timeout(PATIENCE, let_in).await.expect("the right is there");
    assert_eq!(psql(&pgferry, &directory, &token, shop, "select current_user").await, (true, "app".to_owned()));
    // Another role, another cluster, another namespace.
    for other in [("postgres@shop.prod", "app"), ("clerk@ledger.prod", "books"), ("app@shop.staging", "app")] {
        let (ok, text) = psql(&pgferry, &directory, &token, other, "select 1").await;
        assert!(!ok && text.contains("42501") || text.contains("there is no"), "{other:?}: {text}");
    }
    // A token for the API server itself, one of nobody, and one that was a token.
    for wrong in [kim.token(&[]).await, "x".repeat(60_000), format!("{token}x")] {
        let (ok, text) = psql(&pgferry, &directory, &wrong, shop, "select 1").await;
        assert!(!ok && text.contains("password authentication failed"), "{text}");
    }
    kim.leaves().await;
}

/// The right is taken away under an endless COPY and under a session that does nothing.
#[tokio::test]
async fn a_binding_that_is_deleted_ends_sessions() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let (pgferry, _, directory) = bastion(&kubeconfig, "[\"kubernetes\"]", "").await;
    let kim = Person::new("kim-leaves").await;
    kim.may("connect", "clusters/app", "shop").await;
    let token = kim.token(&["--audience", "pgferry"]).await;
    let shop = ("app@shop.prod", "app");
    let let_in = async { while !psql(&pgferry, &directory, &token, shop, "select 1").await.0 {} };
    timeout(PATIENCE, let_in).await.expect("the right is there");
    let endless = "copy (select repeat('x', 1000) from generate_series(1, 2000000000)) to '/dev/null'";
    let endless = endless.replace("to '/dev/null'", "to stdout");
    let copy = psql(&pgferry, &directory, &token, shop, &endless);
    let sleep = psql(&pgferry, &directory, &token, shop, "select pg_sleep(3600)");
    let revoke = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        kim.may_not().await;
    };
    let ((copied, copy), (slept, sleep), ()) =
        timeout(PATIENCE, async { tokio::join!(copy, sleep, revoke) }).await.expect("they end");
    assert!(!copied && !slept, "{sleep}");
    let last = |text: &str| text.lines().rev().take(6).collect::<Vec<_>>().join(" ");
    for text in [last(&copy), last(&sleep)] {
        assert!(text.contains("canceling statement") || text.contains("no longer allowed"), "{text}");
    }
    kim.leaves().await;
}

/// A certificate, and who has one is asked about as the name in it.
#[tokio::test]
async fn a_person_with_a_certificate() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let (pgferry, authority, directory) =
        bastion(&kubeconfig, "[\"certificate\"]", "client_ca = \"CLIENT_CA\"\n").await;
    let name = format!("kim-{}", std::process::id());
    let (certificate, key) = authority.client(&name);
    let role = format!("cert-{name}");
    let file = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file.display().to_string()
    };
    let (certificate, key) = (file("client.crt", &certificate), file("client.key", &key));
    let ca = directory.path().join("ca.crt").display().to_string();
    bind(&role, &user(&format!("cert:{name}")), ("connect", "clusters/app", "shop")).await;
    let conninfo = format!(
        "host=localhost port={} user=app@shop.prod dbname=app sslmode=verify-full sslrootcert={ca} sslcert={certificate} \
         sslkey={key}",
        pgferry.address().port()
    );
    assert_eq!(let_in(&conninfo, "", "select current_user").await, "app");
    kubectl(&["delete", "-n", "prod", "role,rolebinding", &role]).await;
}

/// What insists on a proof has one: SCRAM bound to the bastion's certificate.
#[tokio::test]
async fn a_login_satisfies_who_demands_scram() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let password = secrets::make("login");
    let mut hash = Command::new(BINARY);
    let pipe = std::process::Stdio::piped;
    let mut hash = hash.arg("hash-password").stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut hash.stdin.take().unwrap(), format!("{password}\n").as_bytes())
        .await
        .unwrap();
    let verifier = String::from_utf8(hash.wait_with_output().await.unwrap().stdout).unwrap();
    let role = format!("login-kim-{}", std::process::id());
    let logins = format!("[auth.logins]\n{role} = {{ verifier = \"{}\", role = \"app\" }}\n", verifier.trim());
    let (pgferry, _, directory) = bastion(&kubeconfig, "[\"login\"]", &logins).await;
    bind(&role, &user(&format!("login:{role}")), ("connect", "clusters/app", "shop")).await;
    let conninfo = format!(
        "host=localhost port={} user=login-{role} dbname=shop.prod sslmode=verify-full sslrootcert={} \
         channel_binding=require require_auth=scram-sha-256",
        pgferry.address().port(),
        directory.path().join("ca.crt").display()
    );
    assert_eq!(let_in(&conninfo, &password, "select current_user").await, "app");
    kubectl(&["delete", "-n", "prod", "role,rolebinding", &role]).await;
}

/// The guide, as its reader types it.
#[tokio::test]
async fn the_guide_leads_to_a_second_person() {
    const GUIDE: &str = include_str!("../../../docs/bastion.md");
    let Some(kubeconfig) = kubeconfig() else { return };
    let _calm = CLUSTERS.read().await;
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.join("examples"), directory.path().join("examples")).unwrap();
    let blocks = GUIDE.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut script = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned();
    script.extend(blocks.map(|block| format!("{block}\n")));
    let port = proto_tests::ports::free();
    let script = script.replace("6432", &port.to_string());
    // It is there when it says so; a person reads that.
    let script = script.replace(
        "pgferry serve --config bastion.toml &\n",
        "pgferry serve --config bastion.toml 2>log &\nuntil grep -q listening log; do sleep 0.1; done\n",
    );
    let path = format!("{}:{}", PathBuf::from(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let run = Command::new("bash")
        .args(["-c", &script])
        .current_dir(directory.path())
        .env("PATH", path)
        .env("KUBECONFIG", &kubeconfig)
        .stdin(std::process::Stdio::null())
        .output();
    let output = timeout(PATIENCE * 2, run).await.expect("it ends").unwrap();
    kubectl(&["delete", "-n", "prod", "--ignore-not-found", "role/shop-app", "rolebinding/shop-app-kim"]).await;
    kubectl(&["delete", "-n", "prod", "--ignore-not-found", "serviceaccount/kim"]).await;
    kubectl(&["delete", "--ignore-not-found", "-f", root.join("examples/kubernetes/bastion.yaml").to_str().unwrap()])
        .await;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{text}");
    for said in ["not yet", "clusters/app", "canceling statement", "ended", "session.end"] {
        assert!(text.contains(said), "{said}: {text}");
    }
}
