//! CloudNativePG, and EDB's operator, which has its shape.

use serde_json::{Value, json};

use super::{
    Certificate, Role, ServerSetup, State, System,
    layout::{SCRAM, custom, role, secret, typed_secret, with_tls},
};

/// CloudNativePG, or what has its shape under another group.
struct Cnpg {
    group: &'static str,
    prefix: &'static str,
}

impl Cnpg {
    fn labels(&self, state: &State, number: usize) -> Value {
        let prefix = self.prefix;
        let role = role(state, number, "primary", "replica");
        json!({
            format!("{prefix}/cluster"): state.name, format!("{prefix}/podRole"): "instance",
            format!("{prefix}/instanceName"): format!("{}-{}", state.name, number + 1),
            format!("{prefix}/instanceRole"): role, "role": role,
        })
    }

    fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
        let leader = format!("{}-{}", state.name, state.leader + 1);
        let spec = json!({
            "instances": state.servers,
            "bootstrap": {"initdb": {"database": "app", "owner": "app"}},
            "managed": {"roles": [
                {"name": "reporting", "login": true, "ensure": "present", "passwordSecret": {"name": "reporting-login"}},
            ]},
        });
        let status = json!({
            "currentPrimary": leader, "targetPrimary": leader, "phase": "Cluster in healthy state",
            "certificates": {"serverCASecret": format!("{}-ca", state.name)},
        });
        let host = format!("{}-rw", state.name);
        let uri = format!("postgresql://app:stale@{host}.{}:5432/app", state.namespace);
        let label = format!("{}/cluster", self.prefix);
        vec![
            custom(state, "clusters", (&format!("{}/v1", self.group), "Cluster"), &spec, &status),
            typed_secret(
                state,
                &format!("{}-app", state.name),
                "kubernetes.io/basic-auth",
                &json!({label: state.name}),
                &[
                    ("username", "app"),
                    ("user", "app"),
                    ("password", &state.password),
                    ("dbname", "app"),
                    ("host", &host),
                    ("port", "5432"),
                    ("uri", &uri),
                    ("pgpass", &uri),
                ],
            ),
            typed_secret(
                state,
                "reporting-login",
                "kubernetes.io/basic-auth",
                &json!({}),
                &[("username", "reporting"), ("password", &state.other_password)],
            ),
            secret(state, &format!("{}-ca", state.name), &json!({}), &[("ca.crt", &state.authority)]),
        ]
    }

    fn pooler(&self, state: &State) -> Value {
        let prefix = self.prefix;
        json!({format!("{prefix}/cluster"): state.name, format!("{prefix}/podRole"): "pooler", format!("{prefix}/poolerName"): "p"})
    }
}

macro_rules! cnpg {
    ($type:ident, $name:literal, $title:literal, $group:literal, $prefix:literal) => {
        pub struct $type;

        impl $type {
            const LAYOUT: Cnpg = Cnpg { group: $group, prefix: $prefix };
        }

        impl System for $type {
            fn name(&self) -> &'static str {
                $name
            }
            fn title(&self) -> &'static str {
                $title
            }
            fn resources(&self) -> Vec<(&'static str, &'static str, &'static str)> {
                vec![($group, "v1", "clusters")]
            }
            fn pod_name(&self, state: &State, number: usize) -> String {
                format!("{}-{}", state.name, number + 1)
            }
            fn pod_labels(&self, state: &State, number: usize) -> Value {
                Self::LAYOUT.labels(state, number)
            }
            fn objects(&self, state: &State) -> Vec<(&'static str, Value)> {
                Self::LAYOUT.objects(state)
            }
            fn pooler_labels(&self, state: &State) -> Option<Value> {
                Some(Self::LAYOUT.pooler(state))
            }
            fn server(&self) -> ServerSetup {
                with_tls(SCRAM)
            }
            fn login(&self, _state: &State) -> Role {
                Role::new("app", "app")
            }
            fn other(&self, _state: &State) -> Option<Role> {
                Some(Role::new("reporting", "app"))
            }
            fn secret(&self, state: &State) -> Option<String> {
                Some(format!("{}-app", state.name))
            }
            fn certificate(&self, state: &State) -> Certificate {
                Certificate::Named(format!("{}-rw", state.name))
            }
            fn dispensable(&self) -> Vec<(&'static str, &'static str)> {
                vec![
                    ("get", "clusters"),
                    ("list", "clusters"),
                    ("watch", "clusters"),
                    ("watch", "pods"),
                    ("list", "secrets"),
                ]
            }
        }
    };
}

cnpg!(CloudNativePg, "cloudnative-pg", "CloudNativePG", "postgresql.cnpg.io", "cnpg.io");
cnpg!(Edb, "edb-postgres", "EDB Postgres for Kubernetes", "postgresql.k8s.enterprisedb.io", "k8s.enterprisedb.io");
