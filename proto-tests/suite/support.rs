//! What most tests begin with: one cluster `shop` in namespace `prod` on a real server, and pgferry before it.

use std::{
    fs,
    sync::{Arc, Weak},
    time::Duration,
};

use proto_tests::{
    cnpg::Cluster,
    kubernetes::{FakeKubernetes, Request, proxies::Relay},
    postgres::{PostgresServer, Setup},
    secrets,
    subject::{Start, Subject},
    wire::{Fields, Wire},
};

use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{interval, timeout},
};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pgferry");

/// Long enough for any machine, and longer than all that subjects are given (`Start::new`); a test that needs it fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// Between two looks: the machine has other tests to run.
pub(crate) const PACE: Duration = Duration::from_millis(10);

/// Nobody waits for a server that is not there.
pub(crate) const NO_WAIT: &str = "[sessions]\nprimary_wait = \"0s\"\n";

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        let mut looks = interval(PACE);
        while !holds() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}

/// Waits until a query says "t".
pub(crate) async fn until_true(watcher: &mut Wire, sql: &str) {
    let wait = async {
        let mut looks = interval(PACE);
        while watcher.value(sql).await.unwrap() != "t" {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {sql}"));
}

/// The code of the error with which a session ends.
pub(crate) async fn farewell(wire: &mut Wire) -> String {
    let message = timeout(PATIENCE, wire.next()).await.expect("in time").unwrap().expect("a message");
    assert_eq!(message.tag, 'E');
    message.fields().code
}

/// How many tunnels to a pod were asked for.
pub(crate) fn tunnels_to(api: &FakeKubernetes, pod: &str) -> usize {
    let of_pod = |request: &&Request| request.resource == "pods/portforward" && request.name.as_deref() == Some(pod);
    api.requests().iter().filter(of_pod).count()
}

/// Connects until somebody is let in.
pub(crate) async fn let_in(pgferry: &Subject, user: &str, database: &str) -> Wire {
    connects_until(pgferry, (user, database), Result::ok, "let in").await
}

/// Connects until somebody is refused.
pub(crate) async fn refused(pgferry: &Subject, user: &str, database: &str) -> Fields {
    connects_until(pgferry, (user, database), Result::err, "refused").await
}

async fn connects_until<T>(
    pgferry: &Subject,
    (user, database): (&str, &str),
    wanted: impl Fn(Result<Wire, Fields>) -> Option<T>,
    what: &str,
) -> T {
    let again = async {
        let mut looks = interval(PACE);
        loop {
            looks.tick().await;
            if let Some(found) = wanted(pgferry.connect(user, database).await) {
                return found;
            }
        }
    };
    timeout(PATIENCE, again).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {user} {database} {what}"))
}

/// `pgferry serve` with a configuration.
pub(crate) async fn serve(api: &FakeKubernetes, configuration: &str) -> Subject {
    let file = api.write("config.toml", configuration);
    let start = Start::new(BINARY).args(["serve", "--port", "0", "--log", "debug", "--kubeconfig"]);
    start.arg(api.kubeconfig()).arg("--config").arg(file).wait().await
}

/// The clusters that `pgferry list` shows.
pub(crate) async fn list(api: &FakeKubernetes) -> Vec<Value> {
    let start = Start::new(BINARY).args(["list", "--output", "json", "--kubeconfig"]).arg(api.kubeconfig());
    let (code, out, err) = start.run().await;
    assert_eq!(code, 0, "{err}");
    let all: Value = serde_json::from_str(&out).unwrap();
    all["clusters"].as_array().unwrap().clone()
}

/// A server with an application's database, and the application's password.
async fn start(change: impl FnOnce(Setup) -> Setup) -> (PostgresServer, String) {
    let password = secrets::make("app");
    let setup = change(Setup::new(18).application("app", &password, "app"));
    (PostgresServer::start(setup).await.expect("a server"), password)
}

/// A world with one cluster.
pub(crate) struct World {
    pub(crate) api: FakeKubernetes,
    /// Its own, or one that other tests read at the same time.
    pub(crate) server: Arc<PostgresServer>,
    pub(crate) password: String,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|setup| setup).await
    }

    /// Where nothing is asked of the server but to let people in: one that others use at the same time, which is there
    /// as long as any of them is.
    pub(crate) async fn reading() -> Self {
        static READ: Mutex<(Weak<PostgresServer>, String)> = Mutex::const_new((Weak::new(), String::new()));
        let mut read = READ.lock().await;
        let server = if let Some(server) = read.0.upgrade() {
            server
        } else {
            let (server, password) = start(|setup| setup).await;
            let server = Arc::new(server);
            *read = (Arc::downgrade(&server), password);
            server
        };
        let password = read.1.clone();
        drop(read);
        Self::on(server, password).await
    }

    async fn on(server: Arc<PostgresServer>, password: String) -> Self {
        let api = FakeKubernetes::start().await;
        Cluster::new(&api, ("prod", "shop"), &password, &[server.address()]);
        Self { api, server, password }
    }

    /// The server, where it is the world's own.
    pub(crate) fn own(&mut self) -> &mut PostgresServer {
        Arc::get_mut(&mut self.server).expect("a server of its own")
    }

    /// With a server of one's own.
    pub(crate) async fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let (server, password) = start(change).await;
        Self::on(Arc::new(server), password).await
    }

    pub(crate) fn cluster(&self) -> Cluster<'_> {
        Cluster { api: &self.api, namespace: "prod".to_owned(), name: "shop".to_owned() }
    }

    pub(crate) async fn pgferry(&self) -> Subject {
        Start::new(BINARY).serve(&self.api.kubeconfig()).await
    }

    pub(crate) async fn pgferry_with(&self, args: &[&str]) -> Subject {
        let start = Start::new(BINARY);
        let mut subject =
            start.args(["serve", "--port", "0", "--log", "debug", "--kubeconfig"]).arg(self.api.kubeconfig());
        subject = subject.args(args);
        subject.wait().await
    }

    /// A connection to the server that does not lead through pgferry.
    pub(crate) async fn directly(&self) -> Wire {
        let mut wire = Wire::tcp(self.server.address()).await.unwrap();
        wire.start_with_password(&[("user", "app"), ("database", "app")], &self.password).await.unwrap();
        wire
    }

    /// A relay before the API server, and a pgferry that knows no other way.
    pub(crate) async fn relayed(&self, configuration: &str) -> (Relay, Subject) {
        self.relayed_as(json!({"token": self.api.token()}), configuration).await
    }

    /// The same, for another user of the kubeconfig.
    pub(crate) async fn relayed_as(&self, user: Value, configuration: &str) -> (Relay, Subject) {
        let relay = Relay::to(self.api.address()).await;
        let cluster = json!({"server": format!("https://{}", relay.address)});
        let kubeconfig = self.api.kubeconfig_with("fake", None, user, cluster);
        let file = self.api.write("config.toml", configuration);
        let start = Start::new(BINARY).arg("serve").args(["--port", "0", "--log", "debug", "--kubeconfig"]);
        let pgferry = start.arg(kubeconfig).arg("--config").arg(file).wait().await;
        (relay, pgferry)
    }
}

/// A plugin that gives a token, counts its runs, and can be told to fail.
pub(crate) fn plugin(api: &FakeKubernetes, token: &str, expires: &str) -> Value {
    let expiry = if expires.is_empty() { String::new() } else { format!(", \"expirationTimestamp\": \"{expires}\"") };
    let script = format!(
        "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho run >> runs\n[ ! -e fail ] || {{ echo s3cr3t-plugin-output >&2; exit 7; }}\n\
         echo '{{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \"status\": {{\"token\": \
         \"{token}\"{expiry}}}}}'\n"
    );
    let file = api.write("fake-login", &script);
    json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": file, "interactiveMode": "IfAvailable"}})
}

/// How often the plugin has run.
pub(crate) fn runs(api: &FakeKubernetes) -> usize {
    fs::read_to_string(api.directory().join("runs")).unwrap_or_default().lines().count()
}
