//! What a tenant's attack is tried on: its namespace with a cluster and a hostile server, and the victim's beside it.

use proto_tests::{
    cnpg::{Cluster, encoded},
    hostile::{Asks, Hostile},
    kubernetes::{Backend, FakeKubernetes},
    postgres::{PostgresServer, Setup},
    secrets,
    systems::{State, System, bare_pod, draw},
    wire::{Fields, Wire},
};
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::{NO_WAIT, serve};

/// A pod's name that runs a command, where it becomes a part of a path.
pub(crate) const EXEC: &str = "x/exec?command=id&stdout=true&y=";
/// A Secret's name that is another namespace's Secret.
pub(crate) const CLIMB: &str = "../../prod/secrets/x";
/// The namespace that may not be touched, and the Secret in it.
pub(crate) const VICTIM: &str = "prod";

/// What a tenant writes, and what a person who types the name of the tenant's cluster reads.
pub(crate) struct Attack {
    what: &'static str,
    system: Box<dyn System>,
    /// The object that is changed (its plural, and its name), where in it, and to what.
    object: (&'static str, &'static str),
    changes: Vec<(&'static str, Value)>,
    /// Who connects, and what the configuration says.
    user: &'static str,
    configuration: &'static str,
    /// What the message names: the object, and the field or key.
    named: &'static [&'static str],
}

impl Attack {
    pub(crate) fn on(
        what: &'static str,
        system: impl System + 'static,
        object: (&'static str, &'static str),
        changes: &[(&'static str, Value)],
        named: &'static [&'static str],
    ) -> Self {
        Self {
            what,
            system: Box::new(system),
            object,
            changes: changes.to_vec(),
            user: "pgferry",
            configuration: "",
            named,
        }
    }

    pub(crate) fn by(self, user: &'static str) -> Self {
        Self { user, ..self }
    }

    pub(crate) fn with(self, configuration: &'static str) -> Self {
        Self { configuration, ..self }
    }
}

/// One tenant, and the victim's namespace beside it.
pub(crate) async fn stage(attack: &Attack, hostile: &Hostile, password: &str) -> FakeKubernetes {
    let state = State::new(&*attack.system, "tenant", attack.system.servers());
    let api = FakeKubernetes::start().await;
    draw(&api, &*attack.system, &state);
    for number in 0..state.servers {
        let namespace = attack.system.server_namespace(&state);
        let pod = attack.system.pod_name(&state, number);
        api.backend(&namespace, &pod, attack.system.port(), Backend::To(hostile.address()));
    }
    for (place, value) in &attack.changes {
        let (parent, key) = place.rsplit_once('/').unwrap();
        api.change(attack.object.0, "tenant", attack.object.1, |object| {
            object.pointer_mut(parent).unwrap()[key.replace("~1", "/")] = value.clone();
        });
    }
    Cluster::new(&api, (VICTIM, "db"), password, &[hostile.address()]);
    let data: Vec<(&str, &str)> = ["username", "user", "host"]
        .map(|key| (key, "app"))
        .into_iter()
        .chain(["password", "superUserPassword"].map(|key| (key, password)))
        .collect();
    api.put("secrets", proto_tests::cnpg::secret(VICTIM, "x", &data));
    api
}

/// A server with one role, whose login a tenant puts wherever the test says.
pub(crate) struct Stage {
    pub(crate) api: FakeKubernetes,
    pub(crate) server: PostgresServer,
    pub(crate) password: String,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let password = secrets::make("app");
        Self { api: FakeKubernetes::start().await, server: server(&[("app", &password)]).await, password }
    }

    /// A Secret with the role's login.
    pub(crate) fn login(&self, place: (&str, &str), more: &[(&str, &str)]) -> Value {
        let mut pairs = vec![("username", "app"), ("password", self.password.as_str()), ("database", "app")];
        pairs.extend(more);
        secret(place, &pairs)
    }

    /// The tenant's connection Secret `conn` leads to this host.
    pub(crate) fn lead_to(&self, host: &str, port: &str, more: &[(&str, &str)]) {
        let place = [("host", host), ("port", port)];
        self.api.put("secrets", self.login(("tenant", "conn"), &[&place, more].concat()));
    }

    /// Who one is by `conn`, with a new pgferry, which remembers nothing.
    pub(crate) async fn connects(&self, configuration: &str) -> Result<String, Fields> {
        let pgferry = serve(&self.api, &format!("{configuration}{NO_WAIT}")).await;
        Ok(who(pgferry.connect("pgferry", "conn.tenant").await?).await)
    }
}

/// What is wrong with how an attack ended.
async fn outcome(attack: &Attack) -> Vec<String> {
    let password = secrets::make("victim");
    // Whatever it is told, it is content: what must not be told it would have heard.
    let hostile = Hostile::start(Asks::Nothing).await;
    let api = stage(attack, &hostile, &password).await;
    let configuration = format!("{NO_WAIT}{}", attack.configuration);
    let pgferry = serve(&api, &configuration).await;
    let mut wrong = Vec::new();
    match pgferry.connect(attack.user, "shop.tenant").await {
        Ok(_) => wrong.push("let in".to_owned()),
        Err(told) => {
            if told.severity != "FATAL" || !["28000", "57P03"].contains(&told.code.as_str()) {
                wrong.push(format!("refused with {}: {}", told.code, told.message));
            } else if !attack.named.iter().all(|name| told.message.contains(name)) {
                wrong.push(format!("does not name {:?}: {}", attack.named, told.message));
            }
        }
    }
    wrong.extend(smuggled(&api, &[VICTIM, "kube-system"]).into_iter().map(|path| format!("asked for {path}")));
    if hostile.knows(&password) {
        wrong.push("the victim's password reached the tenant's pod".to_owned());
    }
    wrong
}

/// The parameters that pgferry's requests have.
const KNOWN: [&str; 10] = [
    "labelSelector",
    "fieldSelector",
    "limit",
    "continue",
    "watch",
    "resourceVersion",
    "resourceVersionMatch",
    "allowWatchBookmarks",
    "timeoutSeconds",
    "ports",
];

/// Requests that no honest name makes: another namespace, another subresource, a path that is none.
pub(crate) fn smuggled(api: &FakeKubernetes, foreign: &[&str]) -> Vec<String> {
    let honest = |path: &String| {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let name = |text: &&str| {
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
                && !text.is_empty()
                && !text.split('.').any(|label| label.is_empty() || label.starts_with('-') || label.ends_with('-'))
        };
        let parameters = query.split('&').filter(|pair| !pair.is_empty());
        segments.iter().all(name)
            && !segments.iter().any(|segment| ["exec", "attach", "proxy"].contains(segment))
            && !segments.windows(2).any(|pair| pair[0] == "namespaces" && foreign.contains(&pair[1]))
            && parameters.map(|pair| pair.split('=').next().unwrap()).all(|name| KNOWN.contains(&name))
    };
    api.paths().into_iter().filter(|path| !honest(path)).collect()
}

pub(crate) async fn refused(attacks: Vec<Attack>) {
    let mut report = Vec::new();
    for attack in &attacks {
        let wrong = outcome(attack).await;
        if !wrong.is_empty() {
            report.push(format!("{}, {}: {}", attack.system.title(), attack.what, wrong.join("; ")));
        }
    }
    assert!(report.is_empty(), "{} of {}:\n{}", report.len(), attacks.len(), report.join("\n"));
}

/// A Secret.
pub(crate) fn secret(place: (&str, &str), pairs: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(encoded(value)))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"namespace": place.0, "name": place.1, "labels": {}, "annotations": {}}, "data": data})
}

/// A Service; `selector` may be null.
#[expect(clippy::needless_pass_by_value, reason = "as json! makes them")]
pub(crate) fn service(place: (&str, &str), selector: Value, marks: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": place.0, "name": place.1, "labels": {}, "annotations": marks},
        "spec": {"ports": [{"port": 5432}]}});
    if !selector.is_null() {
        object["spec"]["selector"] = selector;
    }
    object
}

/// An EndpointSlice of a Service, with one pod: namespace, name and uid.
pub(crate) fn slice(place: (&str, &str), (namespace, name, uid): (&str, &str, &str)) -> Value {
    let target = json!({"kind": "Pod", "namespace": namespace, "name": name, "uid": uid});
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": place.0, "name": format!("{}-abcde", place.1), "labels": {"kubernetes.io/service-name": place.1}},
        "endpoints": [{"addresses": ["198.51.100.7"], "conditions": {"ready": true}, "targetRef": target}],
        "ports": [{"port": 5432, "protocol": "TCP"}]})
}

/// A ready pod on a server.
pub(crate) fn pod(api: &FakeKubernetes, place: (&str, &str), labels: &Value, server: SocketAddr) {
    api.put("pods", bare_pod(place.0, place.1, labels, 5432));
    api.backend(place.0, place.1, 5432, Backend::To(server));
}

/// A server that knows these roles, each with a password and a database of its name.
pub(crate) async fn server(roles: &[(&str, &str)]) -> PostgresServer {
    let setup = roles.iter().fold(Setup::new(17), |setup, (role, password)| setup.application(role, password, role));
    PostgresServer::start(setup).await.unwrap()
}

/// Who one is.
pub(crate) async fn who(mut wire: Wire) -> String {
    wire.value("select current_user").await.unwrap()
}
