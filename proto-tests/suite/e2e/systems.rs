//! The layouts of other systems on the real Kubernetes: its pods, Services, Endpoints and Secrets, with real PostgreSQL
//! in them, and no operator. What the fake API shows in `systems`, is shown here where it can be.

use std::{path::PathBuf, time::Duration};

use futures_util::StreamExt as _;
use proto_tests::{
    subject::{Start, Subject},
    systems::{Crunchy, Elastisys, KubeDb, KubeDbCertificate, Marked, StackGres, StatefulSet, System, Zalando},
    wire::Wire,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{
    BINARY, DEFINITIONS, kubeconfig, kubectl,
    rig::{IMAGE, Rig, apply, forget},
    say,
};

/// Pods start in seconds; a claim that needs this long fails.
const PATIENCE: Duration = Duration::from_mins(3);

impl Rig<'_> {
    async fn pgferry(&self, kubeconfig: &PathBuf) -> Subject {
        let start = Start::new(BINARY).args(["serve", "--port", "0", "--log", "debug", "--kubeconfig"]).arg(kubeconfig);
        start.args(["--namespace", &self.state.namespace]).wait().await
    }

    /// Which server a session is on, by the pod's address.
    async fn server_of(&self, wire: &mut Wire) -> String {
        wire.value("select case when pg_is_in_recovery() then 'replica' else 'primary' end").await.unwrap()
    }

    async fn listed(&self) {
        let start = Start::new(BINARY).args(["list", "-o", "json", "-n", &self.state.namespace, "--kubeconfig"]);
        let (code, out, err) = start.arg(&self.kubeconfig).run().await;
        assert_eq!(code, 0, "{err}");
        let all: Value = serde_json::from_str(&out).unwrap();
        let all = all["clusters"].as_array().unwrap();
        assert_eq!(all.len(), 1, "{}: {all:#?}", self.system.title());
        assert_eq!((&all[0]["system"], &all[0]["ready"]), (&json!(self.system.name()), &json!(true)), "{all:#?}");
    }

    async fn logins(&self, pgferry: &Subject) {
        let login = self.system.login(&self.state);
        let mut wire = connect(pgferry, "pgferry", "shop").await;
        assert_eq!(
            wire.value("select current_user || ' ' || current_database()").await.unwrap(),
            format!("{} {}", login.name, login.database)
        );
        assert_eq!(self.server_of(&mut wire).await, "primary");
        if let Some(other) = self.system.other(&self.state) {
            let mut wire = connect(pgferry, &other.name, "shop").await;
            assert_eq!(wire.value("select current_user").await.unwrap(), other.name);
        }
        if self.state.servers > 1 && !self.system.is_a_secret() {
            let mut wire = connect(pgferry, "pgferry", "shop:ro").await;
            assert_eq!(self.server_of(&mut wire).await, "replica");
        }
    }

    /// Both pods carry the primary's label, and the Endpoints object names the right one.
    async fn two_primaries(&mut self) {
        self.state.labelled = vec![0, 1];
        self.draw().await;
        let pgferry = self.pgferry(&self.kubeconfig).await;
        let mut wire = connect(&pgferry, "pgferry", "shop").await;
        assert_eq!(self.server_of(&mut wire).await, "primary");
        let wrong = format!("pod={}", self.system.pod_name(&self.state, 1));
        assert!(!pgferry.output().contains(&wrong), "{}", pgferry.output());
        self.state.lead(0);
        self.draw().await;
    }

    /// A ServiceAccount with what a tenant has, on the API server's own RBAC.
    async fn few_rights(&self) {
        let mut rules = json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]},
            {"apiGroups": [""], "resources": ["services", "endpoints", "secrets"], "verbs": ["get"]},
            {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["get"]},
        ]);
        // Where nothing but the resource knows (who wants a client's certificate), it has to be read.
        let spare = self.system.dispensable();
        for (group, _, plural) in self.system.resources() {
            if !spare.contains(&("get", plural)) {
                rules
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"apiGroups": [group], "resources": [plural], "verbs": ["get"]}));
            }
        }
        let mut objects = Vec::new();
        let own = &self.state.namespace;
        for namespace in self.namespaces() {
            objects.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"namespace": namespace, "name": "tenant"}, "rules": rules}));
            objects.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"namespace": namespace, "name": "tenant"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
                "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": own}]}));
        }
        objects.push(
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": own, "name": "tenant"}}),
        );
        apply(&objects).await;
        let token = kubectl(&["create", "token", "-n", own, "tenant"]).await;
        let config: Value =
            serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"]).await).unwrap();
        let mut config = config;
        config["users"] = json!([{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config.to_string()).unwrap();
        let pgferry = self.pgferry(&file.path().to_owned()).await;
        let login = self.system.login(&self.state);
        let mut wire = connect(&pgferry, &login.name, &format!("shop.{own}")).await;
        assert_eq!(wire.value("select current_user").await.unwrap(), login.name);
    }

    /// The replica is promoted and the leader moves: the idle session ends, and the next login is on the new primary.
    async fn failover(&mut self, pgferry: &Subject) {
        let mut idle = connect(pgferry, "pgferry", "shop").await;
        let (namespace, pod) = (self.system.server_namespace(&self.state), self.system.pod_name(&self.state, 1));
        kubectl(&["exec", "-n", &namespace, &pod, "--", "touch", "/tmp/promote"]).await;
        let promoted = [
            "exec",
            "-n",
            &namespace,
            &pod,
            "--",
            "psql",
            "-XAtU",
            "postgres",
            "-h",
            "/var/run/postgresql",
            "-c",
            "select pg_is_in_recovery()",
        ];
        let wait = async { while kubectl(&promoted).await != "f" {} };
        timeout(PATIENCE, wait).await.expect("a promotion");
        self.state.lead(1);
        self.draw().await;
        let started = Instant::now();
        let said = timeout(PATIENCE, idle.next()).await.expect("an end").unwrap().expect("a word");
        assert_eq!(said.fields().code, "57P01", "{:?}", said.fields());
        let mut wire = connect(pgferry, "pgferry", "shop").await;
        let address = wire.value("select host(inet_server_addr())").await.unwrap();
        assert!(address == "127.0.0.1" || address == "::1", "{address}");
        wire.query("create temporary table t (x int)").await.unwrap();
        assert!(pgferry.output().contains(&format!("pod={pod}")), "{}", pgferry.output());
        say(&format!(
            "{}: the leader moved, and the next login was on it after {:.1} s",
            self.system.title(),
            started.elapsed().as_secs_f32()
        ));
    }
}

async fn connect(pgferry: &Subject, user: &str, database: &str) -> Wire {
    pgferry.connect(user, database).await.unwrap_or_else(|fields| panic!("{user} {database}: {fields:?}"))
}

async fn claims(system: &dyn System, kubeconfig: PathBuf, number: usize) {
    let mut rig = Rig::new(system, kubeconfig, number).await;
    rig.listed().await;
    let pgferry = rig.pgferry(&rig.kubeconfig).await;
    rig.logins(&pgferry).await;
    if system.has_leader_object() {
        rig.two_primaries().await;
    }
    if !matches!(system.name(), "service") {
        rig.few_rights().await;
    }
    if rig.state.servers > 1 {
        rig.failover(&pgferry).await;
    }
    drop(pgferry);
    rig.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layouts_of_other_systems() {
    let Some(kubeconfig) = kubeconfig() else { return };
    let images = kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.images[*].names[*]}"]).await;
    if !images.contains(IMAGE) {
        return say(&format!("no node has the image {IMAGE}: the layouts of other systems are not tried here"));
    }
    let systems: [Box<dyn System>; 8] = [
        Box::new(Zalando),
        Box::new(Crunchy),
        Box::new(KubeDb),
        Box::new(StackGres),
        Box::new(Elastisys),
        Box::new(StatefulSet),
        Box::new(Marked),
        Box::new(KubeDbCertificate),
    ];
    let _definitions = DEFINITIONS.lock().await;
    for system in &systems {
        forget(&**system).await;
    }
    // Two variants of KubeDB differ in the version of one resource: they take turns.
    let (last, first) = systems.split_last().unwrap();
    futures_util::stream::iter(first.iter().enumerate())
        .map(|(number, system)| claims(&**system, kubeconfig.clone(), number))
        .buffer_unordered(3)
        .collect::<Vec<()>>()
        .await;
    forget(&**last).await;
    claims(&**last, kubeconfig.clone(), first.len()).await;
    for system in &systems {
        forget(&**system).await;
    }
}
